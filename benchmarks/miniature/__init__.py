"""The paper's experiments at a size that runs on a laptop; see `benchmarks/paper_in_miniature.py`."""
