"""Faults that benchmarks/endurance.py injects into runs and into the files that they write."""
