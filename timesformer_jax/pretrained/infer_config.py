"""The model's fields, read off the shapes of its parameters and from what stands beside them; contradictions are told."""

import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from timesformer_jax.errors import InputError, shown
from timesformer_jax.pretrained.official_yaml import entries_of_yaml
from timesformer_jax.pretrained.weight_formats import Kind

HEADS = {
    **{192: 3, 256: 4, 384: 6, 512: 8, 640: 10, 768: 12, 896: 14},
    **{1024: 16, 1152: 16, 1280: 16, 1408: 16, 1536: 24, 1664: 16},
}
"""Width -> attention heads of the published image transformers: the shapes of PyTorch's files don't tell them."""

HUGGINGFACE_FIELDS: dict[str, tuple[str, type]] = {
    "hidden_size": ("embed_dim", int),
    "num_hidden_layers": ("depth", int),
    "num_attention_heads": ("num_heads", int),
    "image_size": ("image_size", int),
    "patch_size": ("patch_size", int),
    "num_channels": ("num_channels", int),
    "num_frames": ("num_frames", int),
    "attention_type": ("attention_type", str),
    "layer_norm_eps": ("layer_norm_epsilon", float),
    "hidden_act": ("activation", str),
}
"""Entry of a `config.json` -> field, and its type. `intermediate_size` and the number of labels are written otherwise there."""

LARGEST = 10**9
"""No number of a configuration is larger."""

MODEL_TYPES: dict[str, dict[str, Any]] = {
    "timesformer": {"activation": "gelu", "layer_norm_epsilon": 1e-6},
    "vit": {"activation": "gelu", "layer_norm_epsilon": 1e-12},
    "deit": {"activation": "gelu", "layer_norm_epsilon": 1e-12},
    "vit_mae": {"activation": "gelu", "layer_norm_epsilon": 1e-12},
    "vit_msn": {"activation": "gelu", "layer_norm_epsilon": 1e-6},
    "dinov2": {"activation": "gelu", "layer_norm_epsilon": 1e-6},
    "clip": {"activation": "quick_gelu", "layer_norm_epsilon": 1e-5},
    "clip_vision_model": {"activation": "quick_gelu", "layer_norm_epsilon": 1e-5},
}
"""`model_type` of a `config.json` -> the values of entries that it leaves out, which are the defaults of transformers."""

HUGGINGFACE_ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "quick_gelu": "quick_gelu",
}
"""Their names of activations -> ours."""


def fields_of_parameters(given: Mapping[str, np.ndarray], kind: Kind) -> dict[str, Any]:
    """What the shapes tell of the model: all but `num_heads`, and `image_size` (`place_positions`).

    `given`: our path -> array in our layout, at least `ESSENTIAL`.
    """
    kernel = given["patch_embed/proj/kernel"]
    dim = given["norm/scale"].shape[0]
    if kernel.shape[0] != kernel.shape[1]:
        raise InputError(f"Expected square patches, a kernel [P, P, channels, D]; got {kernel.shape}.")
    blocks = {int(match[1]) for path in given if (match := re.match(r"blocks_(\d+)/", path))}
    if max(blocks, default=0) >= 2 * max(len(blocks), 1):  # a stray one, not some that are missing
        raise InputError(f"The file has {len(blocks)} block(s), one of which is number {max(blocks)}.")
    fields: dict[str, Any] = {
        "embed_dim": dim,
        "depth": max(blocks, default=0) + 1,
        "patch_size": kernel.shape[0],
        "num_channels": kernel.shape[2],
    }
    if "blocks_0/mlp/fc1/kernel" in given:
        fields["mlp_ratio"] = given["blocks_0/mlp/fc1/kernel"].shape[1] / dim
    if "head/kernel" in given:
        fields["num_classes"] = given["head/kernel"].shape[1]
    if not kind.image:
        if "time_embed" in given:
            fields["num_frames"] = given["time_embed"].shape[1]
        if any("/temporal_" in path for path in given):
            fields["attention_type"] = "divided_space_time"
        else:
            fields["attention_type"] = "joint_space_time" if "time_embed" in given else "space_only"
    return fields


def is_huggingface(config: Mapping[str, Any]) -> bool:
    """Whether a `config.json` is transformers' own, of a model that sees images."""
    tower = config.get("vision_config")
    return str(config.get("model_type")) in MODEL_TYPES or any(
        "patch_size" in each for each in (config, tower) if isinstance(each, Mapping)
    )


def fields_of_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The fields in a Hugging Face `config.json`; for a whole CLIP model those in its `vision_config`.

    Raises `InputError` for entries of the wrong type.
    """
    tower = config.get("vision_config", {})
    if not isinstance(tower, Mapping):
        raise InputError(f"config.json's vision_config should be an object, got {shown(tower)}.")
    config = {**config, **tower}
    fields = read_entries(config, HUGGINGFACE_FIELDS, "config.json")
    if "activation" in fields:
        fields["activation"] = choose_activation(fields["activation"], HUGGINGFACE_ACTIVATIONS, "config.json's hidden_act")
    inner = config.get("intermediate_size")
    if isinstance(inner, int) and 0 < inner <= LARGEST and "embed_dim" in fields:
        fields["mlp_ratio"] = inner / fields["embed_dim"]
    model_type = config.get("model_type")
    return {**(MODEL_TYPES.get(model_type, {}) if isinstance(model_type, str) else {}), **fields}


def read_entries(config: Mapping[str, Any], table: Mapping[str, tuple[str, type]], source: str) -> dict[str, Any]:
    """The fields in a configuration by `table`, entry -> (field, type); raises `InputError` for values of another type.

    A size in both directions, `[16, 16]`, is one number; the sides of `image_size` may differ.
    """
    fields: dict[str, Any] = {}
    for theirs, (ours, kind) in table.items():
        value: Any = config.get(theirs)
        if value is None:
            continue
        sides = value if isinstance(value, list) and value else [value]
        if ours == "image_size" and len(sides) == 2 and sides[0] != sides[1] and all(_is_a(side, int) for side in sides):
            fields[ours] = tuple(sides)
        elif _is_a(sides[0], kind) and all(side == sides[0] for side in sides):
            fields[ours] = kind(sides[0])  # pyright: ignore[reportArgumentType]  (checked)
        else:
            expected = {int: "a whole number above 0", float: "a number above 0", str: "text"}[kind]
            raise InputError(f"{source}'s {theirs} should be {expected}, got {shown(value)}.")
    return fields


def _is_a(value: Any, kind: type) -> bool:
    if kind is str:
        return isinstance(value, str)
    number = isinstance(value, int if kind is int else int | float) and not isinstance(value, bool)
    return number and 0 < value <= LARGEST


def choose_activation(name: str, known: Mapping[str, str], source: str) -> str:
    """Our name of an activation; raises `InputError` for one that the model doesn't have."""
    if name not in known:
        raise InputError(f"{source} must be one of {', '.join(known)}, got {shown(name)}.")
    return known[name]


def fields_of_official_config(config: Any) -> dict[str, Any]:
    """What the YAML says that the official trainer leaves in its files."""
    if not isinstance(config, str):
        return {}
    said = entries_of_yaml(config)
    fields: dict[str, Any] = {}
    if re.fullmatch(r"\w+", said.get("ATTENTION_TYPE", "")):
        fields["attention_type"] = said["ATTENTION_TYPE"]
    for theirs, ours in (("NUM_FRAMES", "num_frames"), ("NUM_CLASSES", "num_classes")):
        if said.get(theirs):
            if not re.fullmatch(r"[0-9]{1,9}", said[theirs]):
                raise InputError(f"The file's cfg says {theirs}: {shown(said[theirs])}, expected a whole number.")
            fields[ours] = int(said[theirs])
    return fields


def merge_fields(*sources: tuple[str, Mapping[str, Any]]) -> dict[str, Any]:
    """All fields that the sources give, each a (name, fields); raises `InputError` with every contradiction."""
    merged: dict[str, tuple[str, Any]] = {}
    problems = []
    for source, fields in sources:
        for name, value in fields.items():
            if name in merged and not _same(merged[name][1], value):
                problems.append(f"{name} is {shown(merged[name][1])} by {merged[name][0]}, but {shown(value)} by {source}")
            merged.setdefault(name, (source, value))
    if problems:
        raise InputError("These weights contradict what is said of them: " + "; ".join(problems) + ".")
    return {name: value for name, (_, value) in merged.items()}


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, float) or isinstance(other, float):
        return math.isclose(one, other, rel_tol=1e-6)
    as_pair = [tuple(x) if isinstance(x, list | tuple) else x for x in (one, other)]
    pairs = [(x, x) if isinstance(x, int) and isinstance(y, tuple) else x for x, y in (as_pair, as_pair[::-1])]
    return pairs[0] == pairs[1]


def known_heads(dim: int) -> int:
    """The number of heads that models of this width have; raises `InputError` where there is no such custom."""
    if dim not in HEADS:
        raise InputError(
            f"The file doesn't say how many attention heads this model of width {dim} has: give num_heads=... (on the command "
            "line --num-heads, or --config.model.num_heads)."
        )
    return HEADS[dim]
