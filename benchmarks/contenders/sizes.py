"""The model that all contenders run, and where they find each other's files. Imports neither JAX nor PyTorch."""

FRAMES, SIZE, CLASSES = 8, 224, 400  # base

GRAPHS = "BENCHMARK_GRAPHS"
"""Environment variable that names the folder of the exported ONNX files."""
