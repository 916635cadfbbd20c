"""Named models, from the paper and for debugging, as keyword arguments of `TimeSformer`."""

import dataclasses
from typing import Any

from timesformer_jax.errors import InputError, did_you_mean
from timesformer_jax.modeling.timesformer import TimeSformer

_SMALL = {"embed_dim": 384, "depth": 12, "num_heads": 6}
_BASE = {"embed_dim": 768, "depth": 12, "num_heads": 12}
_LARGE = {"embed_dim": 1024, "depth": 24, "num_heads": 16}

VARIANTS: dict[str, dict[str, Any]] = {
    # For debugging (a second on a laptop) and for unit tests.
    "timesformer-tiny": {"image_size": 32, "num_frames": 4, "patch_size": 8, "embed_dim": 64, "depth": 2, "num_heads": 2},
    "timesformer-nano": {"image_size": 16, "num_frames": 2, "patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2},
    # The paper's three models (Table 3), all with the width of ViT-B/16.
    "timesformer-base": {**_BASE},
    "timesformer-hr": {**_BASE, "image_size": 448, "num_frames": 16},
    "timesformer-large-frames": {**_BASE, "num_frames": 96},
    # The paper's ablations (section 4.7): the widths of ViT-S/16 and ViT-L/16, and patches of 32 pixels.
    "timesformer-vit-small": {**_SMALL},
    "timesformer-vit-large": {**_LARGE},
    "timesformer-base-patch32": {**_BASE, "patch_size": 32},
}
"""Maps a name to its fields. Other fields have `TimeSformer`'s defaults (divided attention, 8 frames of 224 px, patches of 16).

The paper's TimeSformer-L is the 96-frame model, whose width is ViT-B's. Here, the wide model is `timesformer-vit-large`.
"""


def create(name: str, **fields: Any) -> TimeSformer:
    """Create one of the models in `VARIANTS`.

    Args:
        name: A key of `VARIANTS`.
        **fields: Fields of `TimeSformer` that override the variant's. `num_classes` is required.

    Returns:
        The model, without parameters.

    Raises:
        InputError: If `num_classes` is missing, or a name or field is unknown. The message suggests similar names.
    """
    if name not in VARIANTS:
        raise InputError(f"There is no variant {name!r}. Known ones: {', '.join(VARIANTS)}.{did_you_mean(name, VARIANTS)}")
    known = [field.name for field in dataclasses.fields(TimeSformer)]
    if unknown := sorted(fields.keys() - set(known)):
        raise InputError(f"TimeSformer has no field {unknown[0]!r}.{did_you_mean(unknown[0], known)}")
    if "num_classes" not in fields:
        raise InputError(f"num_classes is required: create({name!r}, num_classes=...).")
    return TimeSformer(**{**VARIANTS[name], **fields})
