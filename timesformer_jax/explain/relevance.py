"""Class-specific relevance: the contribution of each patch to a label's logit."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from timesformer_jax._typing import Array, Bool, Float, Int
from timesformer_jax.cnn3d import ConvNet
from timesformer_jax.errors import InputError
from timesformer_jax.explain.rollout import Maps, Params, check_attention, mean_maps, roll
from timesformer_jax.modeling import SCHEMES, TimeSformer, stack_blocks
from timesformer_jax.modeling.attention import WATCHED


def class_relevance(
    model: TimeSformer | ConvNet,
    params: Params,
    video: Float[Array | np.ndarray, "B T H W C"],
    labels: Int[Array | np.ndarray, "*labels"] | Sequence[int] | int | np.integer,
    frame_mask: Bool[Array | np.ndarray, "B T"] | None = None,
) -> Float[Array, "B T h w"]:
    """Compute each patch's relevance to a label of its clip, through the attention of all blocks.

    Like `attention_rollout`, but attention weights are replaced by their contributions to the label's logit,
    max(weight * gradient, 0), averaged over heads, and residual connections keep their full weight, r (I + A). Only
    differences within a clip are meaningful.

    Runs a forward and a backward pass. The backward pass recomputes the blocks, so this needs memory for one block, plus one
    head's maps of all blocks.

    Source: Chefer, Gur and Wolf 2021, "Generic Attention-model Explainability", section 3.1, for self-attention.

    Args:
        model: The model.
        params: Its parameters.
        video: Normalised clips.
        labels: Class indices, one per clip or one for all clips.
        frame_mask: False for masked frames; None if no frame is masked.

    Returns:
        One number per patch.

    Raises:
        InputError: If `labels` is neither one class of the model nor one per clip, or if the model is an I3D or SlowFast (see
            `grad_cam`).
    """
    model = check_attention(model)
    if not isinstance(labels, jax.Array | np.ndarray):
        labels = np.asarray(labels)
    if labels.ndim == 0:
        labels = labels[None].repeat(video.shape[0])
    if labels.shape != video.shape[:1] or not jnp.issubdtype(labels.dtype, jnp.integer):
        raise InputError(
            f"labels must be one class index, or one for each of the {video.shape[0]} clip(s), got {labels.dtype} of shape "
            f"{labels.shape}."
        )
    if not isinstance(labels, Tracer) and not ((labels >= 0) & (labels < model.num_classes)).all():
        raise InputError(f"labels must be from 0 to {model.num_classes - 1}, got {labels.tolist()}.")
    mask = None if frame_mask is None else jnp.asarray(frame_mask)
    return _class_relevance(model, params, jnp.asarray(video), jnp.asarray(labels), mask)


@functools.partial(jax.jit, static_argnums=0)
def _class_relevance(model: TimeSformer, params: Params, video: Array, labels: Array, frame_mask: Array | None) -> Array:
    if not model.scan_layers:
        params = stack_blocks(params)
    scanned = model.clone(scan_layers=True, remat="full")

    shapes = jax.eval_shape(functools.partial(mean_maps, scanned), params, video, frame_mask)
    modules = {step: "attn" if step == SCHEMES[model.attention_type].name else f"{step}_attn" for step in shapes}

    def logits(maps: Maps) -> Float[Array, ""]:
        """Sum the labels' logits over clips. `maps` are zeros and only serve to obtain their gradients."""
        watched = {"blocks": {name: {"weights": maps[step]} for step, name in modules.items()}}
        variables = {"params": params, WATCHED: watched}
        # `features` keeps the patches of the last block; if it computed only the CLS, its maps would have another shape.
        features: Any = scanned.apply(variables, video, frame_mask, method="features")
        found: Any = scanned.apply(variables, features.cls.astype(jnp.float32), method=lambda model, cls: model.head(cls))
        return jnp.take_along_axis(found, labels[:, None], axis=1).sum()

    spoken_for = jax.grad(logits)({step: jnp.zeros(x.shape, x.dtype) for step, x in shapes.items()})
    return roll(spoken_for, model, video.shape, frame_mask, normalized=False)
