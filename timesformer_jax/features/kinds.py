"""Which of a clip's features are kept."""

from collections.abc import Callable
from typing import Any, NamedTuple

from timesformer_jax._typing import Array, Float
from timesformer_jax.modeling import Features, TimeSformer


class Kind(NamedTuple):
    """What is taken of a clip's features, and the names of its axes behind the batch."""

    take: Callable[[Features], Array]
    axes: tuple[str, ...]


def _frames(features: Features) -> Float[Array, "B T D"]:
    return features.patches.mean(axis=(2, 3)) if features.frame_cls is None else features.frame_cls


KINDS = {
    "cls": Kind(lambda features: features.cls, ("embed_dim",)),
    "frames": Kind(_frames, ("num_frames", "embed_dim")),
    "patches": Kind(lambda features: features.patches, ("num_frames", "rows", "columns", "embed_dim")),
}
"""`kind` -> "cls": what the classifier reads, one vector a clip. "frames": one vector a frame, its CLS (or the mean over its
patches in `joint_space_time` and `local_global`, whose groups mix frames). "patches": one vector a patch. All after the last
LayerNorm."""


def extract(model: TimeSformer, params: Any, video: Float[Array, "B T H W C"], kind: str) -> Float[Array, "B *axes"]:
    """The features of normalised clips, a key of `KINDS`."""
    features: Any = model.apply({"params": params}, video, method="features")
    return KINDS[kind].take(features)


def value_shape(model: TimeSformer, kind: str) -> tuple[int, ...]:
    """The shape of one clip's features, where clips have the size that the model is made for."""
    rows, columns = model.grid
    sizes = {"num_frames": model.num_frames, "rows": rows, "columns": columns, "embed_dim": model.embed_dim}
    return tuple(sizes[axis] for axis in KINDS[kind].axes)
