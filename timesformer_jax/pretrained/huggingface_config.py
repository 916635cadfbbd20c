"""Configurations of Hugging Face transformers: `config.json` and `preprocessor_config.json`."""

import math
from collections.abc import Mapping
from typing import Any

from timesformer_jax.errors import InputError, shown
from timesformer_jax.labels import names_in_order
from timesformer_jax.pretrained.config_entries import LARGEST, choose_activation, entry_of, read_entries, read_statistics
from timesformer_jax.pretrained.file_notes import KEY

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
"""Maps entries of a `config.json` to (field, type). `intermediate_size` and the number of labels are handled separately."""

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
"""Maps `model_type` of a `config.json` to the defaults of transformers for entries that the file omits."""

HUGGINGFACE_ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "quick_gelu": "quick_gelu",
}
"""Maps activation names of transformers to ours."""

MULTI_LABEL = "multi_label_classification"
"""`problem_type` of a Hugging Face configuration for multi-label models."""


def is_huggingface(config: Mapping[str, Any]) -> bool:
    """Return True if a `config.json` describes a vision model of transformers."""
    tower = config.get("vision_config")
    return str(config.get("model_type")) in MODEL_TYPES or any(
        "patch_size" in each for each in (config, tower) if isinstance(each, Mapping)
    )


def fields_of_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the model fields in a Hugging Face `config.json`; for a full CLIP model those in its `vision_config`.

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


def labels_of_config(config: Mapping[str, Any]) -> list[str] | None:
    """Return the names of the classes; None for the placeholders that transformers writes if there are no names."""
    if not isinstance(config.get("id2label"), Mapping):
        return None
    names = names_in_order(config["id2label"], "config.json's id2label")
    return None if all(name == f"LABEL_{i}" for i, name in enumerate(names)) else names


def objective_of_config(config: Mapping[str, Any]) -> str | None:
    """Return the objective; None if the configuration doesn't state it."""
    return "sigmoid" if config.get("problem_type") == MULTI_LABEL else None


def preprocess_of_preprocessor(preprocessor: Mapping[str, Any]) -> dict[str, Any]:
    """Return entries of `Preprocess` in a `preprocessor_config.json`: its pixels, and those that `save_huggingface` adds."""
    own = preprocessor.get(KEY)
    return {**_statistics(preprocessor), **(own if isinstance(own, Mapping) else {})}


PREPROCESSOR = "preprocessor_config.json"


def _statistics(preprocessor: Mapping[str, Any]) -> dict[str, Any]:
    """Return the mean and standard deviation, for pixels from 0 to 1."""
    if entry_of(preprocessor, "do_normalize", bool, PREPROCESSOR) is False:
        return {"mean": [0.0] * 3, "std": [1.0] * 3}
    values = read_statistics(preprocessor, "image_mean", "image_std", PREPROCESSOR)
    factor = read_entries(preprocessor, {"rescale_factor": ("factor", float)}, PREPROCESSOR).get("factor", 1 / 255)
    scale = 255.0 if entry_of(preprocessor, "do_rescale", bool, PREPROCESSOR) is False else 255 * factor
    if math.isclose(scale, 1, rel_tol=1e-3):
        return values
    return {name: [number / scale for number in numbers] for name, numbers in values.items()}


RESAMPLINGS = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")
"""Names of Pillow's filters, indexed by `resample` of a `preprocessor_config.json`."""


def scaling_of_images(preprocessor: Mapping[str, Any]) -> dict[str, Any]:
    """Return the sizes and the interpolation in an image model's `preprocessor_config.json`, as entries of `Preprocess`."""
    values: dict[str, Any] = {}
    size, crop = (_side(preprocessor, name) for name in ("size", "crop_size"))
    crop = None if entry_of(preprocessor, "do_center_crop", bool, PREPROCESSOR) is False else crop
    if size or crop:
        values["crop_size"] = crop or size
        values["short_side"] = max(size or 0, crop or 0)
    filter_number = preprocessor.get("resample")
    if isinstance(filter_number, int) and 0 <= filter_number < len(RESAMPLINGS):
        values["interpolation"] = RESAMPLINGS[filter_number]
    return values


def _side(preprocessor: Mapping[str, Any], name: str) -> int | None:
    """Return the short side of `size` or `crop_size`: a number, or an object with `shortest_edge` or `height` and `width`."""
    value = preprocessor.get(name)
    given = value if isinstance(value, Mapping) else {"shortest_edge": value}
    table = {entry: (entry, int) for entry in ("shortest_edge", "height", "width")}
    return min(read_entries(given, table, f"{PREPROCESSOR}'s {name}").values(), default=None)
