"""What `benchmarks/gpu.py` measures: sections of measurements, run in worker processes, and the page drawn from them."""
