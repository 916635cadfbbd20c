"""timm's `config.json`: the architecture's constants, pixel statistics, the pooling before the classifier, and labels."""

import math
import re
from collections.abc import Mapping
from typing import Any

from timesformer_jax.errors import InputError, shown
from timesformer_jax.labels import names_in_order
from timesformer_jax.pretrained.config_entries import (
    LARGEST,
    Stated,
    choose_activation,
    entry_of,
    read_entries,
    read_interpolation,
    read_statistics,
)
from timesformer_jax.pretrained.infer_config import HEADS

FIELDS: dict[str, tuple[str, type]] = {
    "embed_dim": ("embed_dim", int),
    "depth": ("depth", int),
    "num_heads": ("num_heads", int),
    "patch_size": ("patch_size", int),
    "img_size": ("image_size", int),
    "in_chans": ("num_channels", int),
    "act_layer": ("activation", str),
}
"""Maps entries of `model_args` to (field, type)."""

ACTIVATIONS = {"gelu": "gelu", "gelu_tanh": "gelu_tanh", "quick_gelu": "quick_gelu", "quickgelu": "quick_gelu"}

REFUSED = ((r".*(rope|eva02|dinov3|naflex).*|(vit_)?pe_.*", "rotary positions"), (r".*_rpn_.*", "LayerNorms after each layer"))
"""Maps patterns of architecture names to features that TimeSformer lacks and that no tensor reveals."""

ARCHITECTURES: tuple[tuple[str, dict[str, Any]], ...] = (
    (r"vit_.*_clip_quickgelu_.*", {"activation": "quick_gelu", "layer_norm_epsilon": 1e-5}),
    (r"vit_.*_clip_.*", {"activation": "gelu", "layer_norm_epsilon": 1e-5}),
    (r"(vit|deit3?|flexivit|test_vit)(_.*)?", {"activation": "gelu", "layer_norm_epsilon": 1e-6}),
)
"""Maps patterns of architecture names to constants that can't be inferred from any tensor; the first match wins.

Source: timm's `models/vision_transformer.py`; the parity tests compare with each of its models.
"""

POOLS = {"avg": "the mean of the patches", "avgmax": "the mean and maximum of the patches", "max": "the maximum of the patches"}
"""Maps `global_pool` other than "token" to the input of the classifier."""


def is_timm(config: Mapping[str, Any]) -> bool:
    """Return True if a `config.json` is timm's, or that of transformers for a timm model."""
    return isinstance(config.get("architecture"), str)


def read_timm(config: Mapping[str, Any], width: int, source: str = "config.json") -> Stated:
    """Read timm's `config.json` for an image transformer of this width."""
    arguments = entry_of(config, "model_args", dict, source) or {}
    pretrained = entry_of(config, "pretrained_cfg", dict, source) or config  # old files have its entries at the top level
    fields = {**fields_of_architecture(config["architecture"], width, source), **_fields(config, arguments, source)}
    pool = entry_of(arguments, "global_pool", str, source)
    pool = entry_of(config, "global_pool", str, source) if pool is None else pool
    pixels = {
        **read_statistics(pretrained, "mean", "std", source),
        **_scaling(pretrained, source),
        **read_interpolation(pretrained, source),
    }
    pooled = None
    if pool not in (None, "token"):
        pooled = f"{POOLS.get(pool, 'another vector')} (global_pool={pool!r} in {source})"
    return Stated(fields, pixels, _labels(config, source), pooled)


def fields_of_architecture(name: str, width: int, source: str) -> dict[str, Any]:
    """Return the constants of timm's architecture `name`; empty for an unknown one.

    Raises `InputError` if the architecture can't be loaded.
    """
    for pattern, feature in REFUSED:
        if re.fullmatch(pattern, name):
            raise InputError(f"{source} names timm's {shown(name)}, which has {feature}: this model can't compute it.")
    for pattern, fields in ARCHITECTURES:
        if re.fullmatch(pattern, name):
            return {**fields, "num_heads": HEADS[width]} if width in HEADS else dict(fields)
    return {}


def _fields(config: Mapping[str, Any], arguments: Mapping[str, Any], source: str) -> dict[str, Any]:
    classes = {} if config.get("num_classes") == 0 else {"num_classes": ("num_classes", int)}  # 0 means no classifier
    fields = read_entries(config, {"num_features": ("embed_dim", int), **classes}, source)
    fields |= read_entries(arguments, FIELDS, f"{source}'s model_args")
    if "activation" in fields:
        fields["activation"] = choose_activation(fields["activation"], ACTIVATIONS, f"{source}'s act_layer")
    return fields


def _scaling(config: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Return the crop size, and the short side to which frames are scaled before cropping."""
    size = config.get("input_size")
    if size is None:
        return {}
    if not (isinstance(size, list) and len(size) == 3 and all(isinstance(n, int) and 0 < n < LARGEST for n in size)):
        raise InputError(f"{source}'s input_size should be channels, height and width, got {shown(size)}.")
    share = read_entries(config, {"crop_pct": ("share", float)}, source).get("share", 1.0)
    crop = min(size[1:])
    if config.get("crop_mode", "center") != "center":  # the images were squashed or padded, which videos aren't
        return {"crop_size": crop}
    return {"crop_size": crop, "short_side": max(math.floor(min(crop / share, LARGEST)), crop)}


def _labels(config: Mapping[str, Any], source: str) -> list[str] | None:
    """Return the names of the classes: their descriptions, if all are different, else their identifiers."""
    names = config.get("label_names")
    if not names:
        return None
    if isinstance(names, Mapping):
        names = names_in_order(names, f"{source}'s label_names")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InputError(f"{source}'s label_names should be a list of names, got {shown(names)}.")
    described = config.get("label_descriptions")
    texts = [described.get(name) for name in names] if isinstance(described, Mapping) else []
    distinct = {text for text in texts if isinstance(text, str)}
    return [str(text) for text in texts] if len(distinct) == len(names) else names
