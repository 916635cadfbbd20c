"""The paper's experiments at a size that a laptop finishes: see `benchmarks/paper_in_miniature.py`."""
