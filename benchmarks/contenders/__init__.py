"""Models and engines that `benchmarks/model.py` runs in turns, a process each."""
