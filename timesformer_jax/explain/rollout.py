"""Attention rollout: how much of each patch has got into the CLS, through the attention of all blocks."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from timesformer_jax._typing import Array, Bool, Float
from timesformer_jax.explain.push import Relevance, push_block
from timesformer_jax.modeling import SCHEMES, TimeSformer

Params = Mapping[str, Any]


def attention_rollout(
    model: TimeSformer,
    params: Params,
    video: Float[Array | np.ndarray, "B T H W C"],
    frame_mask: Bool[Array | np.ndarray, "B T"] | None = None,
) -> Float[Array, "B T h w"]:
    """What each patch has given to a clip's CLS: maps averaged over heads, half of each token staying what it was.

    Normalised clips -> one number a patch; with what the CLS has kept of itself (which is left out) they sum to 1. Every
    scheme, order of steps and size; frames that `frame_mask` leaves out have 0. What the values that were seen hold, the MLP
    and `temporal_fc` have no say. Memory beyond the forward pass is one head's maps of all blocks.

    Sources: Abnar and Zuidema 2020, which the paper's Figure 7 follows (its authors in the official repository's issue 40); for
    divided attention the row of the CLS of the product of all blocks' matrices over (patch, frame), exactly.
    """
    return _rollout(model, params, jnp.asarray(video), None if frame_mask is None else jnp.asarray(frame_mask))


@functools.partial(jax.jit, static_argnums=0)
def _rollout(model: TimeSformer, params: Params, video: Array, frame_mask: Array | None) -> Array:
    return roll(mean_maps(model, params, video, frame_mask), model, video.shape, frame_mask, normalized=True)


Maps = Mapping[str, Float[Array, "depth B G Q L"]]
"""Attention step -> the maps of all blocks, one for each group."""


def mean_maps(model: TimeSformer, params: Params, video: Array, frame_mask: Array | None) -> Maps:
    """Every step's weights, averaged over heads, its groups numbered."""
    features: Any = model.apply({"params": params}, video, frame_mask, method="features", attention="mean")
    return {
        step: found.weights.reshape(*found.weights.shape[:2], -1, *found.weights.shape[-2:])  # *groups -> G
        for step, found in features.attention.items()
    }


def roll(
    maps: Maps, model: TimeSformer, shape: Sequence[int], frame_mask: Bool[Array, "B T"] | None, *, normalized: bool
) -> Float[Array, "B T h w"]:
    """All blocks of a video of this shape, from the last one's CLS down to the first one's patches; `normalized` as in
    `push_block`."""
    batch, num_frames, height, width = shape[:4]
    sizes = num_frames, height // model.patch_size, width // model.patch_size
    counted = jnp.ones((batch, num_frames)) if frame_mask is None else frame_mask.astype(jnp.float32)
    cls = jnp.ones((batch, 1))
    if SCHEMES[model.attention_type].cls_per_frame:  # the clip's CLS is the mean of its frames'
        cls = counted / jnp.maximum(counted.sum(axis=1, keepdims=True), 1)

    def down(relevance: Relevance, maps: dict[str, Array]) -> tuple[Relevance, None]:
        return push_block(relevance, maps, model, frame_mask, normalized=normalized), None

    start = Relevance(cls, jnp.zeros((batch, *sizes)))
    relevance, _ = jax.lax.scan(down, start, dict(maps), reverse=True)
    return relevance.patches
