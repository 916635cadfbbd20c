"""Kinds of features that can be extracted from a clip."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from timesformer_jax._typing import Array, Float
from timesformer_jax.modeling import Features, TimeSformer, clip_vector, input_shape, variables_of, weight_shapes


class Kind(NamedTuple):
    """Row of `KINDS`."""

    take: Callable[[Features], Array]
    """Selects the kind from a batch's features."""
    axes: tuple[str, ...]
    """Names of the axes after the batch."""


def _frames(features: Features) -> Float[Array, "B T D"]:
    return features.patches.mean(axis=(2, 3)) if features.frame_cls is None else features.frame_cls


KINDS = {
    "cls": Kind(clip_vector, ("embed_dim",)),
    "frames": Kind(_frames, ("num_frames", "embed_dim")),
    "patches": Kind(lambda features: features.patches, ("num_frames", "rows", "columns", "embed_dim")),
}
"""Maps `kind` to its definition. All are taken after the final LayerNorm.

"cls" is one vector per clip, the classifier's input. "frames" is one vector per frame, its CLS (or the mean over its patches in
`joint_space_time` and `local_global`, whose groups mix frames). "patches" is one vector per patch.
"""


def extract(model: nn.Module, params: Any, video: Float[Array, "B T H W C"], kind: str) -> Float[Array, "B *axes"]:
    """Extract features of normalised clips.

    Args:
        model: The model.
        params: Its parameters, or its weights (`weights_of`) if it has BatchNorm.
        video: Normalised clips.
        kind: A key of `KINDS`.

    Returns:
        The features, with the axes of the kind after the batch.
    """
    features: Any = model.apply(variables_of(params), video, method="features")
    return KINDS[kind].take(features)


def value_shape(model: nn.Module, kind: str) -> tuple[int, ...]:
    """Return the shape of one clip's features, for clips of the model's own size."""
    if not isinstance(model, TimeSformer):
        video = jax.ShapeDtypeStruct(input_shape(model), jnp.float32)
        return jax.eval_shape(functools.partial(extract, model, kind=kind), weight_shapes(model), video).shape[1:]
    rows, columns = model.grid
    sizes = {"num_frames": model.num_frames, "rows": rows, "columns": columns, "embed_dim": model.embed_dim}
    return tuple(sizes[axis] for axis in KINDS[kind].axes)
