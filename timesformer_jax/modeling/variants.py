"""Named models: the paper's and some more, each a row of keyword arguments for `TimeSformer`."""

import dataclasses
from typing import Any

from timesformer_jax.errors import InputError, did_you_mean
from timesformer_jax.modeling.timesformer import TimeSformer

_SMALL = {"embed_dim": 384, "depth": 12, "num_heads": 6}
_BASE = {"embed_dim": 768, "depth": 12, "num_heads": 12}
_LARGE = {"embed_dim": 1024, "depth": 24, "num_heads": 16}

VARIANTS: dict[str, dict[str, Any]] = {
    # For debugging: a second on a laptop, and for unit tests.
    "timesformer-tiny": {"image_size": 32, "num_frames": 4, "patch_size": 8, "embed_dim": 64, "depth": 2, "num_heads": 2},
    "timesformer-nano": {"image_size": 16, "num_frames": 2, "patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2},
    # The paper's three (Table 3), all of ViT-B/16's width.
    "timesformer-base": {**_BASE},
    "timesformer-hr": {**_BASE, "image_size": 448, "num_frames": 16},
    "timesformer-large-frames": {**_BASE, "num_frames": 96},
    # Its ablations (section 4.7): the widths of ViT-S/16 and ViT-L/16, patches of 32 pixels.
    "timesformer-vit-small": {**_SMALL},
    "timesformer-vit-large": {**_LARGE},
    "timesformer-base-patch32": {**_BASE, "patch_size": 32},
}
"""Name -> fields; the others have `TimeSformer`'s defaults (divided attention, 8 frames of 224 px, patches of 16).

The paper calls the 96-frame model TimeSformer-L, though its width is ViT-B's; here `vit-large` is the wide one.
"""


def create(name: str, **fields: Any) -> TimeSformer:
    """The model `name` of `VARIANTS`, with any field given otherwise; `num_classes` must be given.

    Raises `InputError` for an unknown name or field, with those that are near it.
    """
    if name not in VARIANTS:
        raise InputError(f"There is no variant {name!r}. Known ones: {', '.join(VARIANTS)}.{did_you_mean(name, VARIANTS)}")
    known = [field.name for field in dataclasses.fields(TimeSformer)]
    if unknown := sorted(fields.keys() - set(known)):
        raise InputError(f"TimeSformer has no field {unknown[0]!r}.{did_you_mean(unknown[0], known)}")
    if "num_classes" not in fields:
        raise InputError(f"Say how many classes {name} is to tell apart: create({name!r}, num_classes=...).")
    return TimeSformer(**{**VARIANTS[name], **fields})
