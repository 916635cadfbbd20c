"""Propagation of relevance from a block's output tokens back to its input tokens.

A step's dense matrix over all tokens is never built. Relevance is a row vector, one number per token, and is multiplied by a
step's attention group by group, so memory and time are those of the step's own maps. In divided attention this is, per block,
O(T N^2 + N T^2) for N patches in T frames, whereas the dense product is O(((1 + N) T)^3).
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax.numpy as jnp

from timesformer_jax._typing import Array, Bool, Float
from timesformer_jax.modeling import SCHEMES, TimeSformer
from timesformer_jax.modeling.schemes import Grouping


class Relevance(NamedTuple):
    """Relevance of each token of a clip."""

    cls: Float[Array, "B F"]
    """CLS tokens: F = 1 per clip, or one per frame (`space_only`)."""
    patches: Float[Array, "B T h w"]
    """Patch tokens of T frames."""


def push_block(
    relevance: Relevance,
    maps: Mapping[str, Float[Array, "B G Q L"]],
    model: TimeSformer,
    frame_mask: Bool[Array, "B T"] | None,
    *,
    normalized: bool,
) -> Relevance:
    """Propagate relevance from a block's output tokens to its input tokens, through one attention step after another.

    Args:
        relevance: Relevance r of the output tokens.
        maps: Maps A of each attention step.
        model: The model, for its scheme and the order of its steps.
        frame_mask: False for masked frames; None if no frame is masked.
        normalized: If set, each step computes r (I + A) / 2, so that a token's identity and attention weigh the same and rows
            sum to 1 (Abnar and Zuidema 2020; r (I + A + B) / 3 for two parallel steps). Otherwise, each step computes
            r (I + A) (Chefer et al. 2021).

    Returns:
        The relevance of the input tokens.
    """
    for stage in reversed(_stages(model)):
        patches_seen = 1 + len(stage) if normalized else 1
        cls_seen = 2 if normalized and SCHEMES[model.attention_type].name in stage else 1
        relevance = Relevance(relevance.cls / cls_seen, relevance.patches / patches_seen)
        seen = [_push_step(relevance, maps[step], model, step, frame_mask) for step in stage]
        relevance = Relevance(
            relevance.cls + sum(part.cls for part in seen), relevance.patches + sum(part.patches for part in seen)
        )
    return relevance


def _stages(model: TimeSformer) -> list[list[str]]:
    """Return the block's attention steps in order, grouped into stages of steps that share their input."""
    scheme = SCHEMES[model.attention_type]
    extra = [name for name, _ in scheme.extra_steps]
    if model.attention_order == "parallel":
        return [[*extra, scheme.name]]
    one_by_one = [[name] for name in extra]
    return [[scheme.name], *one_by_one] if model.attention_order == "space_then_time" else [*one_by_one, [scheme.name]]


def _push_step(
    relevance: Relevance,
    weights: Float[Array, "B G Q L"],
    model: TimeSformer,
    step: str,
    frame_mask: Bool[Array, "B T"] | None,
) -> Relevance:
    """Return the relevance r A that the keys of a step receive from its queries."""
    scheme = SCHEMES[model.attention_type]
    grouping, own = scheme.steps[step], step == scheme.name
    sizes = relevance.patches.shape[1:]
    flat = relevance.patches.reshape(*relevance.patches.shape[:2], -1, 1)  # [B, T, h, w] -> [B, T, N, 1]
    rows = grouping.split(flat, sizes)[..., 0]  # -> [B, G, L]
    if own:  # each group has a copy of the CLS as a query, weighted by its share in the merged CLS
        copies = relevance.cls * (1.0 if scheme.cls_per_frame else _shares(grouping, sizes, frame_mask))
        rows = jnp.concatenate([copies[:, :, None], rows], axis=2)
    seen = jnp.einsum("bgq,bgqk->bgk", rows, weights, precision="highest")
    cls = jnp.zeros_like(relevance.cls)
    if seen.shape[2] > rows.shape[2] or own:  # the CLS is the first key of every group
        cls = seen[:, :, 0] if scheme.cls_per_frame and own else seen[:, :, 0].sum(axis=1, keepdims=True)
        seen = seen[:, :, 1:]
    return Relevance(cls, grouping.merge(seen[..., None], sizes).reshape(relevance.patches.shape))


def _shares(grouping: Grouping, sizes: Sequence[int], frame_mask: Bool[Array, "B T"] | None) -> Float[Array, "b G"]:
    """Return the weight of each group's CLS copy in the mean over copies; zero for groups without unmasked patches."""
    mask = grouping.mask(sizes, frame_mask)
    if mask is None:
        num_groups, _ = grouping.shape(sizes)
        return jnp.full((1, num_groups), 1 / num_groups)
    filled = mask.any(axis=2).astype(jnp.float32)
    return filled / jnp.maximum(filled.sum(axis=1, keepdims=True), 1)
