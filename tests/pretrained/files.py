"""The golden tensors, and small random models of other libraries, as the files that people have."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from tests.support import GOLDEN

OFFICIAL = ("divided_space_time", "joint_space_time", "space_only")


def golden_tensors(file: str, prefix: str = "param/") -> dict[str, np.ndarray]:
    """A golden file's tensors under their original names, float32."""
    with np.load(GOLDEN / f"{file}.npz") as arrays:
        return {name.removeprefix(prefix): arrays[name].astype(np.float32) for name in arrays if name.startswith(prefix)}


def golden_arrays(file: str) -> dict[str, np.ndarray]:
    with np.load(GOLDEN / f"{file}.npz") as arrays:
        return dict(arrays)


def write_safetensors(path: Path, tensors: dict[str, np.ndarray]) -> Path:
    save_file({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}, path)
    return path


def write_folder(path: Path, tensors: dict[str, np.ndarray], config: dict[str, Any]) -> Path:
    """A Hugging Face folder."""
    path.mkdir()
    write_safetensors(path / "model.safetensors", tensors)
    (path / "config.json").write_text(json.dumps(config))
    return path


def official_file(path: Path, attention_type: str = "divided_space_time", prefix: str = "model.") -> Path:
    """An official checkpoint's tensors; three heads, which the width of 24 doesn't tell."""
    tensors = golden_tensors(f"official_{attention_type}")
    return write_safetensors(path, {prefix + name: tensor for name, tensor in tensors.items()})


def golden_huggingface(path: Path) -> Path:
    """The golden Hugging Face model as its folder."""
    config = json.loads(str(golden_arrays("huggingface_divided")["config"]))
    return write_folder(path, golden_tensors("huggingface_divided"), config)
