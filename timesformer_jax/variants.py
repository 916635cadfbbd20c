"""Named models, from the paper and for debugging: their class and its keyword arguments."""

import dataclasses
from typing import Any

from timesformer_jax.cnn3d import I3D, ConvNet, SlowFast
from timesformer_jax.errors import InputError, did_you_mean
from timesformer_jax.modeling import TimeSformer


class Variant(dict[str, Any]):
    """Fields of a named model, and the class that they belong to.

    Attributes:
        model: The class.
    """

    def __init__(self, model: type[TimeSformer] | type[ConvNet], **fields: Any) -> None:
        super().__init__(fields)
        self.model = model


_SMALL = {"embed_dim": 384, "depth": 12, "num_heads": 6}
_BASE = {"embed_dim": 768, "depth": 12, "num_heads": 12}
_LARGE = {"embed_dim": 1024, "depth": 24, "num_heads": 16}

VARIANTS: dict[str, Variant] = {
    # For debugging (a second on a laptop) and for unit tests.
    "timesformer-tiny": Variant(TimeSformer, image_size=32, num_frames=4, patch_size=8, embed_dim=64, depth=2, num_heads=2),
    "timesformer-nano": Variant(TimeSformer, image_size=16, num_frames=2, patch_size=8, embed_dim=16, depth=1, num_heads=2),
    # The paper's three models (Table 3), all with the width of ViT-B/16.
    "timesformer-base": Variant(TimeSformer, **_BASE),
    "timesformer-hr": Variant(TimeSformer, **_BASE, image_size=448, num_frames=16),
    "timesformer-large-frames": Variant(TimeSformer, **_BASE, num_frames=96),
    # The paper's ablations (section 4.7): the widths of ViT-S/16 and ViT-L/16, and patches of 32 pixels.
    "timesformer-vit-small": Variant(TimeSformer, **_SMALL),
    "timesformer-vit-large": Variant(TimeSformer, **_LARGE),
    "timesformer-base-patch32": Variant(TimeSformer, **_BASE, patch_size=32),
    # The systems that the paper compares with (Tables 2 and 5, Figure 4): 8 frames at stride 8, ResNet-50.
    "i3d-8x8-r50": Variant(I3D, num_frames=8),
    "slowfast-8x8-r50": Variant(SlowFast, num_frames=32),
}
"""Maps a name to its fields; `VARIANTS[name].model` is their class. Other fields have the class's defaults, which for
`TimeSformer` are divided attention, 8 frames of 224 px and patches of 16.

The paper's TimeSformer-L is the 96-frame model, whose width is ViT-B's. Here, the wide model is `timesformer-vit-large`.
"""


def create(name: str, **fields: Any) -> Any:
    """Create one of the models in `VARIANTS`.

    Args:
        name: A key of `VARIANTS`.
        **fields: Fields of the class that override the variant's. `num_classes` is required.

    Returns:
        The model, without parameters: a `TimeSformer`, `I3D` or `SlowFast`.

    Raises:
        InputError: If `num_classes` is missing, or a name or field is unknown. The message suggests similar names.
    """
    if name not in VARIANTS:
        raise InputError(f"There is no variant {name!r}. Known ones: {', '.join(VARIANTS)}.{did_you_mean(name, VARIANTS)}")
    variant = VARIANTS[name]
    known = [field.name for field in dataclasses.fields(variant.model)]
    if unknown := sorted(fields.keys() - set(known)):
        raise InputError(f"{variant.model.__name__} has no field {unknown[0]!r}.{did_you_mean(unknown[0], known)}")
    if "num_classes" not in fields:
        raise InputError(f"num_classes is required: create({name!r}, num_classes=...).")
    return variant.model(**{**variant, **fields})
