"""OpenCLIP's `open_clip_config.json`: activation and sizes of the image tower, and pixel statistics."""

from collections.abc import Mapping
from typing import Any

from timesformer_jax.errors import InputError, shown
from timesformer_jax.pretrained.config_entries import Stated, entry_of, read_entries, read_interpolation, read_statistics
from timesformer_jax.pretrained.timm_config import fields_of_architecture

FIELDS: dict[str, tuple[str, type]] = {
    "width": ("embed_dim", int),
    "layers": ("depth", int),
    "patch_size": ("patch_size", int),
    "image_size": ("image_size", int),
    "head_width": ("head_width", int),
}
"""Maps entries of `vision_cfg` to (field, type)."""


def is_open_clip(config: Mapping[str, Any]) -> bool:
    """Return True if a configuration is OpenCLIP's."""
    return "model_cfg" in config or "vision_cfg" in config


def read_open_clip(config: Mapping[str, Any], width: int, source: str = "open_clip_config.json") -> Stated:
    """Read `open_clip_config.json` for an image transformer of this width."""
    model = entry_of(config, "model_cfg", dict, source) or config  # files inside the package open_clip aren't nested
    vision = entry_of(model, "vision_cfg", dict, source) or {}
    pixels = entry_of(config, "preprocess_cfg", dict, source) or {}
    architecture = entry_of(vision, "timm_model_name", str, source)
    if architecture is None:
        fields = _fields(model, vision, width, source)
    else:
        fields = fields_of_architecture(architecture, width, source)
    size = read_entries(pixels, {"size": ("image_size", int)}, source).get("image_size")
    crop = min(size) if isinstance(size, tuple) else size
    return Stated(
        fields,
        {
            **read_statistics(pixels, "mean", "std", source),
            **({} if crop is None else {"crop_size": crop, "short_side": crop}),
            **read_interpolation(pixels, source),
        },
    )


def _fields(model: Mapping[str, Any], vision: Mapping[str, Any], width: int, source: str) -> dict[str, Any]:
    if isinstance(vision.get("layers"), list):
        raise InputError(
            f"{source} describes a ResNet (layers={shown(vision['layers'])}): only image transformers can be loaded."
        )
    fields = read_entries(vision, FIELDS, f"{source}'s vision_cfg")
    fields["num_heads"] = max(width // fields.pop("head_width", 64), 1)
    quick = entry_of(model, "quick_gelu", bool, source)
    approximate = (entry_of(vision, "act_kwargs", dict, source) or {}).get("approximate")
    fields["activation"] = "quick_gelu" if quick else "gelu_tanh" if approximate == "tanh" else "gelu"
    norm = entry_of(vision, "norm_kwargs", dict, source) or {}
    return {"layer_norm_epsilon": 1e-5, **fields, **read_entries(norm, {"eps": ("layer_norm_epsilon", float)}, source)}
