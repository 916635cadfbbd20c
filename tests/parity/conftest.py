"""These tests need what `make parity` installs: without it there is nothing to collect."""

import importlib.util

if any(importlib.util.find_spec(name) is None for name in ("timm", "torch", "torchvision", "transformers")):
    collect_ignore_glob = ["test_*.py"]
