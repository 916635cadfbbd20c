"""Attention rollout: the contribution of each patch to the CLS, through the attention of all blocks."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from timesformer_jax._typing import Array, Bool, Float
from timesformer_jax.cnn3d import ConvNet
from timesformer_jax.errors import InputError
from timesformer_jax.explain.push import Relevance, push_block
from timesformer_jax.modeling import SCHEMES, TimeSformer

Params = Mapping[str, Any]


def attention_rollout(
    model: TimeSformer | ConvNet,
    params: Params,
    video: Float[Array | np.ndarray, "B T H W C"],
    frame_mask: Bool[Array | np.ndarray, "B T"] | None = None,
) -> Float[Array, "B T h w"]:
    """Compute each patch's contribution to its clip's CLS by attention rollout.

    Maps are averaged over heads, and each attention step weighs a token's residual connection and its attention equally.
    Every scheme, order of steps and input size is supported. The values, the MLP and `temporal_fc` are ignored. Beyond the
    forward pass, this needs memory for one head's maps of all blocks.

    For divided attention, the result is exactly the row of the CLS in the product of all blocks' matrices over
    (patch, frame).

    Source: Abnar and Zuidema 2020, which the paper's Figure 7 follows (according to its authors in issue 40 of the official
    repository).

    Args:
        model: The model.
        params: Its parameters.
        video: Normalised clips.
        frame_mask: False for masked frames; None if no frame is masked.

    Returns:
        One number per patch, 0 in masked frames. Together with the share of the CLS itself, which is excluded, a clip's
        numbers sum to 1.

    Raises:
        InputError: If the model is an I3D or SlowFast.
    """
    model = check_attention(model)
    return _rollout(model, params, jnp.asarray(video), None if frame_mask is None else jnp.asarray(frame_mask))


def check_attention(model: TimeSformer | ConvNet) -> TimeSformer:
    """Return the model. Raises `InputError` for an I3D or SlowFast, which has no attention to explain."""
    if isinstance(model, ConvNet):
        raise InputError(f"A {type(model).__name__} has no attention to roll out: use tsf.explain.grad_cam.")
    return model


@functools.partial(jax.jit, static_argnums=0)
def _rollout(model: TimeSformer, params: Params, video: Array, frame_mask: Array | None) -> Array:
    return roll(mean_maps(model, params, video, frame_mask), model, video.shape, frame_mask, normalized=True)


Maps = Mapping[str, Float[Array, "depth B G Q L"]]
"""Attention maps of all blocks, one per group, by attention step."""


def mean_maps(model: TimeSformer, params: Params, video: Array, frame_mask: Array | None) -> Maps:
    """Compute every step's attention weights, averaged over heads, with groups flattened into one axis.

    Args:
        model: The model.
        params: Its parameters.
        video: Normalised clips.
        frame_mask: False for masked frames; None if no frame is masked.

    Returns:
        The maps of each attention step.
    """
    features: Any = model.apply({"params": params}, video, frame_mask, method="features", attention="mean")
    return {
        step: found.weights.reshape(*found.weights.shape[:2], -1, *found.weights.shape[-2:])  # *groups -> G
        for step, found in features.attention.items()
    }


def roll(
    maps: Maps, model: TimeSformer, shape: Sequence[int], frame_mask: Bool[Array, "B T"] | None, *, normalized: bool
) -> Float[Array, "B T h w"]:
    """Propagate relevance through all blocks, from the last block's CLS to the first block's patches.

    Args:
        maps: The maps of each attention step.
        model: The model.
        shape: Shape of the video.
        frame_mask: False for masked frames; None if no frame is masked.
        normalized: As in `push_block`.

    Returns:
        The relevance of each patch.
    """
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
