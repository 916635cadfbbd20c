"""Class-specific relevance: which patches have spoken for a label."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from timesformer_jax._typing import Array, Bool, Float, Int
from timesformer_jax.errors import InputError
from timesformer_jax.explain.rollout import Maps, Params, mean_maps, roll
from timesformer_jax.modeling import SCHEMES, TimeSformer, stack_blocks
from timesformer_jax.modeling.attention import WATCHED


def class_relevance(
    model: TimeSformer,
    params: Params,
    video: Float[Array | np.ndarray, "B T H W C"],
    labels: Int[Array | np.ndarray, "*labels"] | Sequence[int] | int | np.integer,
    frame_mask: Bool[Array | np.ndarray, "B T"] | None = None,
) -> Float[Array, "B T h w"]:
    """How much each patch has spoken for a label of each clip, through the attention of all blocks.

    As `attention_rollout`, but a map is what its weights have done for the label's logit: max(weight * gradient, 0), averaged
    over heads, and a token keeps the whole of what it was, r (I + A). Only differences within a clip mean anything. `labels`
    are the classes' numbers, one per clip, or one for all of them. A forward and a backward pass; blocks are computed again
    in the latter, so memory is that of one block and of one head's maps of all blocks.

    Raises `InputError` if labels are neither one class nor one per clip.

    Source: Chefer, Gur and Wolf 2021, "Generic Attention-model Explainability", section 3.1, for self-attention.
    """
    if not isinstance(labels, jax.Array | np.ndarray):
        labels = np.asarray(labels)
    if labels.ndim == 0:
        labels = labels[None].repeat(video.shape[0])
    if labels.shape != video.shape[:1] or not jnp.issubdtype(labels.dtype, jnp.integer):
        raise InputError(
            f"labels must be the number of a class, or one for each of the {video.shape[0]} clip(s), got {labels.dtype} of the "
            f"shape {labels.shape}."
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
        """The sum over clips of the labels' logits; `maps` are zeros, there for their gradients."""
        watched = {"blocks": {name: {"weights": maps[step]} for step, name in modules.items()}}
        variables = {"params": params, WATCHED: watched}
        # With patches and all: a last block that computes what the CLS needs has maps of another shape.
        features: Any = scanned.apply(variables, video, frame_mask, method="features")
        found: Any = scanned.apply(variables, features.cls.astype(jnp.float32), method=lambda model, cls: model.head(cls))
        return jnp.take_along_axis(found, labels[:, None], axis=1).sum()

    spoken_for = jax.grad(logits)({step: jnp.zeros(x.shape, x.dtype) for step, x in shapes.items()})
    return roll(spoken_for, model, video.shape, frame_mask, normalized=False)
