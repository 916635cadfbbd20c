"""Measurements of `benchmarks/gpu.py`: sections, the worker processes that run them, and the page drawn from the results."""
