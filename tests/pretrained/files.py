"""The golden tensors and small random models of other libraries, in the file formats that people use."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from tests.support import GOLDEN

OFFICIAL = ("divided_space_time", "joint_space_time", "space_only")


def golden_tensors(file: str, prefix: str = "param/") -> dict[str, np.ndarray]:
    """Load a golden file's tensors under their original names, float32."""
    with np.load(GOLDEN / f"{file}.npz") as arrays:
        return {name.removeprefix(prefix): arrays[name].astype(np.float32) for name in arrays if name.startswith(prefix)}


def golden_arrays(file: str) -> dict[str, np.ndarray]:
    with np.load(GOLDEN / f"{file}.npz") as arrays:
        return dict(arrays)


def write_safetensors(path: Path, tensors: dict[str, np.ndarray]) -> Path:
    save_file({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}, path)
    return path


def write_folder(path: Path, tensors: dict[str, np.ndarray], config: dict[str, Any]) -> Path:
    """Write a Hugging Face folder."""
    path.mkdir()
    write_safetensors(path / "model.safetensors", tensors)
    (path / "config.json").write_text(json.dumps(config))
    return path


def official_file(path: Path, attention_type: str = "divided_space_time", prefix: str = "model.") -> Path:
    """Tensors of an official checkpoint with three heads, which can't be inferred from the width of 24."""
    tensors = golden_tensors(f"official_{attention_type}")
    return write_safetensors(path, {prefix + name: tensor for name, tensor in tensors.items()})


def golden_huggingface(path: Path) -> Path:
    """Write the golden Hugging Face model as its folder."""
    config = json.loads(str(golden_arrays("huggingface_divided")["config"]))
    return write_folder(path, golden_tensors("huggingface_divided"), config)


def timm_tensors(dim: int = 192) -> dict[str, np.ndarray]:
    """Tensors of a timm image transformer: one block, images of 32 pixels in patches of 8, five classes."""
    shapes = {"cls_token": (1, 1, dim), "pos_embed": (1, 17, dim), "head.weight": (5, dim), "head.bias": (5,)}
    shapes |= _layer("patch_embed.proj", (dim, 3, 8, 8)) | _layer("norm", (dim,)) | _layer("blocks.0.norm1", (dim,))
    shapes |= _layer("blocks.0.attn.qkv", (3 * dim, dim)) | _layer("blocks.0.attn.proj", (dim, dim))
    shapes |= _layer("blocks.0.norm2", (dim,)) | _layer("blocks.0.mlp.fc1", (4 * dim, dim))
    shapes |= _layer("blocks.0.mlp.fc2", (dim, 4 * dim))
    return _drawn(shapes)


TIMM_CONFIG: dict[str, Any] = {
    "architecture": "vit_tiny_patch16_224",
    "num_classes": 5,
    "num_features": 192,
    "global_pool": "token",
    "label_names": ["n01", "n02", "n03", "n04", "n05"],
    "label_descriptions": {"n01": "tench", "n02": "goldfish", "n03": "shark", "n04": "ray", "n05": "cock"},
    "model_args": {"img_size": [32, 32], "patch_size": 8},
    "pretrained_cfg": {
        "input_size": [3, 32, 32],
        "mean": [0.5, 0.5, 0.5],
        "std": [0.25, 0.25, 0.25],
        "crop_pct": 0.9,
        "interpolation": "bicubic",
    },
}
"""Its `config.json`, as timm writes it on the hub."""


def openai_tensors(dim: int = 192) -> dict[str, np.ndarray]:
    """Tensors of a CLIP image tower with one block under OpenAI's names."""
    block = "visual.transformer.resblocks.0"
    shapes = {"visual.class_embedding": (dim,), "visual.positional_embedding": (17, dim), "visual.conv1.weight": (dim, 3, 8, 8)}
    for norm in ("visual.ln_pre", "visual.ln_post", f"{block}.ln_1", f"{block}.ln_2"):
        shapes |= _layer(norm, (dim,))
    shapes |= {f"{block}.attn.in_proj_weight": (3 * dim, dim), f"{block}.attn.in_proj_bias": (3 * dim,)}
    shapes |= _layer(f"{block}.attn.out_proj", (dim, dim)) | _layer(f"{block}.mlp.c_fc", (4 * dim, dim))
    shapes |= _layer(f"{block}.mlp.c_proj", (dim, 4 * dim))
    return _drawn(shapes)


OPEN_CLIP_CONFIG: dict[str, Any] = {
    "model_cfg": {
        "embed_dim": 64,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 192, "patch_size": 8, "head_width": 64},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 512, "heads": 8, "layers": 12},
    },
    "preprocess_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25], "size": 32, "interpolation": "bicubic"},
}
"""Its `open_clip_config.json`."""


def _layer(name: str, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def _drawn(shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(0)
    return {name: draw.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
