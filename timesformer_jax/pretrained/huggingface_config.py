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
REGRESSION = "regression"
"""`problem_type` of a Hugging Face configuration for models whose outputs are quantities rather than scores of classes."""
PREPROCESSOR = "preprocessor_config.json"


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
    """Return the objective, or `REGRESSION`, which is none; None if the configuration doesn't state it."""
    problem = config.get("problem_type")
    return "sigmoid" if problem == MULTI_LABEL else REGRESSION if problem == REGRESSION else None


def preprocess_of_preprocessor(preprocessor: Mapping[str, Any], source: str = PREPROCESSOR) -> dict[str, Any]:
    """Return entries of `Preprocess` in a `preprocessor_config.json`: its pixels, and those that `save_huggingface` adds.

    Args:
        preprocessor: The preprocessing.
        source: Name of its file, for errors.
    """
    own = preprocessor.get(KEY)
    values = _statistics(preprocessor, source)
    if entry_of(preprocessor, "do_flip_channel_order", bool, source):
        # transformers flips the channels after it normalises them, so its statistics are in the order RGB.
        values = {**{name: numbers[::-1] for name, numbers in values.items()}, "channel_order": "bgr"}
    return {**values, **(own if isinstance(own, Mapping) else {})}


def _statistics(preprocessor: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Return the mean and standard deviation, for pixels from 0 to 1."""
    if entry_of(preprocessor, "do_normalize", bool, source) is False:
        values = {"mean": [0.0] * 3, "std": [1.0] * 3}
    else:
        values = read_statistics(preprocessor, "image_mean", "image_std", source)
    factor = read_entries(preprocessor, {"rescale_factor": ("factor", float)}, source).get("factor", 1 / 255)
    rescales = entry_of(preprocessor, "do_rescale", bool, source) is not False
    scale = 255 * factor if rescales else 255.0
    # ViViT's processor subtracts 1 from the scaled pixels before it normalises them.
    subtracted = {"mean": 1.0 if rescales and entry_of(preprocessor, "offset", bool, source) else 0.0, "std": 0.0}
    if math.isclose(scale, 1, rel_tol=1e-3) and not subtracted["mean"]:
        return values
    return {name: [(number + subtracted[name]) / scale for number in numbers] for name, numbers in values.items()}


RESAMPLINGS = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")
"""Names of Pillow's filters, indexed by `resample` of a `preprocessor_config.json`."""


def scaling_of_images(preprocessor: Mapping[str, Any], source: str = PREPROCESSOR) -> dict[str, Any]:
    """Return the sizes and the interpolation in an image model's `preprocessor_config.json`, as entries of `Preprocess`.

    Args:
        preprocessor: The preprocessing.
        source: Name of its file, for errors.
    """
    values: dict[str, Any] = {}
    size, crop = (_side(preprocessor, name, source) for name in ("size", "crop_size"))
    crop = None if entry_of(preprocessor, "do_center_crop", bool, source) is False else crop
    if size or crop:
        values["crop_size"] = crop or size
        values["short_side"] = max(size or 0, crop or 0)
    filter_number = preprocessor.get("resample")
    if isinstance(filter_number, int) and 0 <= filter_number < len(RESAMPLINGS):
        values["interpolation"] = RESAMPLINGS[filter_number]
    return values


def scaling_of_videos(preprocessor: Mapping[str, Any], source: str = PREPROCESSOR) -> dict[str, Any]:
    """Return the sizes in a video model's `preprocessor_config.json` if frames are scaled to more than the crop, else nothing.

    Equal sizes are those of the published models' folders, whose accuracies are of the official short side of 256 pixels.

    Args:
        preprocessor: The preprocessing.
        source: Name of its file, for errors.
    """
    sizes = {name: side for name, side in scaling_of_images(preprocessor, source).items() if name != "interpolation"}
    return sizes if sizes and sizes["short_side"] > sizes["crop_size"] else {}


def _side(preprocessor: Mapping[str, Any], name: str, source: str) -> int | None:
    """Return the short side of `size` or `crop_size`: a number, or an object with `shortest_edge` or `height` and `width`."""
    value = preprocessor.get(name)
    given = value if isinstance(value, Mapping) else {"shortest_edge": value}
    table = {entry: (entry, int) for entry in ("shortest_edge", "height", "width")}
    return min(read_entries(given, table, f"{source}'s {name}").values(), default=None)
