"""Skip collection unless the packages of `make parity` are installed."""

import importlib.util

if any(importlib.util.find_spec(name) is None for name in ("timm", "torch", "torchvision", "transformers")):
    collect_ignore_glob = ["test_*.py"]
