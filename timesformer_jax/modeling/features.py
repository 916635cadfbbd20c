"""Features and attention maps that the model returns besides logits."""

from typing import Any, NamedTuple

from flax import struct

from timesformer_jax._typing import Array, Float
from timesformer_jax.modeling.schemes import Grouping


@struct.dataclass
class AttentionMap:
    """Attention weights of a single attention step, for all blocks, with named axes.

    If an axis is split into groups of unequal size ("height_half", "time_parity"), the groups are padded. Padded and masked
    keys have weight 0. The rows of padded and masked queries are meaningless.

    Attributes:
        weights: Attention weights, which sum to 1 over the keys.
        axes: Names of the axes of `weights`: "block", "batch", the group axes ("time" if each frame is a group), "head" (unless
            the mean over heads was requested), "query" and "key".
        tokens: Axes of the clip that the queries and keys of a group enumerate in row-major order, such as ("height", "width").
        cls_queries: Number of leading queries that are the CLS, 0 or 1.
        cls_keys: Number of leading keys that are the CLS, 0 or 1.
    """

    weights: Float[Array, "depth B *groups Q L"]
    axes: tuple[str, ...] = struct.field(pytree_node=False)
    tokens: tuple[str, ...] = struct.field(pytree_node=False)
    cls_queries: int = struct.field(pytree_node=False)
    cls_keys: int = struct.field(pytree_node=False)


class Tokens(NamedTuple):
    """Residual stream after every block, before any LayerNorm."""

    cls: Float[Array, "depth B F D"]
    """CLS tokens: F = 1 per clip, or one per frame (`space_only`)."""
    patches: Float[Array, "depth B T h w D"]
    """Patch tokens of T frames."""


class Features(NamedTuple):
    """Features of a batch of clips; `cls`, `frame_cls` and `patches` are taken after the final LayerNorm.

    Entries of masked frames are meaningless.
    """

    cls: Float[Array, "B D"]
    """The clip's CLS token, which is the classifier's input."""
    frame_cls: Float[Array, "B T D"] | None
    """The CLS in each frame, before the last block's mean over frames. None for `joint_space_time` and `local_global`, whose
    groups span frames; use `patches.mean((2, 3))` there."""
    patches: Float[Array, "B T h w D"]
    """Patch tokens, at their positions in the clip."""
    blocks: Tokens | None
    """The output of every block, if requested."""
    attention: dict[str, AttentionMap] | None
    """Maps each attention step ("temporal", "spatial", ...; see `SCHEMES[attention_type].steps`) to its attention map, if
    requested."""


def clip_vector(features: Any) -> Float[Array, "B D"]:
    """Return a clip's single vector: the CLS token, or the pooled feature maps of a convolutional network."""
    return features.cls if isinstance(features, Features) else features.clip


def name_attention(
    weights: Float[Array, "depth B G *heads Q L"],
    grouping: Grouping,
    sizes: tuple[int, ...],
    *,
    cls_queries: int,
    cls_keys: int,
) -> AttentionMap:
    """Unflatten the group axis of an attention step's weights and name the axes.

    Args:
        weights: Weights with all G groups on one axis, with or without a head axis.
        grouping: The step's grouping of patches.
        sizes: Numbers of frames, rows and columns of patches.
        cls_queries: Number of leading queries that are the CLS, 0 or 1.
        cls_keys: Number of leading keys that are the CLS, 0 or 1.

    Returns:
        The attention map.
    """
    groups, tokens = grouping.names()
    depth, batch, _, *rest = weights.shape
    return AttentionMap(
        weights=weights.reshape(depth, batch, *grouping.counts(sizes), *rest),
        axes=("block", "batch", *groups, *(["head"] if len(rest) == 3 else []), "query", "key"),
        tokens=tokens,
        cls_queries=cls_queries,
        cls_keys=cls_keys,
    )
