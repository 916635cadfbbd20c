"""What the model can tell of a clip besides its logits."""

from typing import NamedTuple

from flax import struct

from timesformer_jax._typing import Array, Float
from timesformer_jax.modeling.schemes import Grouping


@struct.dataclass
class AttentionMap:
    """Who looks at whom in one attention step of every block.

    `weights` has the named `axes`: "block", "batch", what the groups are counted along ("time" where each frame is a group),
    "head" (unless their mean was asked for), "query", "key"; over the keys they sum to 1. Queries and keys run over `tokens`,
    row-major, such as ("height", "width"), behind `cls_queries` and `cls_keys` (0 or 1) entries for the CLS. Where an axis
    doesn't divide ("height_half", "time_parity"), the groups are padded. Padded and masked keys have weight 0; padded and
    masked queries mean nothing.
    """

    weights: Float[Array, "depth B *groups Q L"]
    axes: tuple[str, ...] = struct.field(pytree_node=False)
    tokens: tuple[str, ...] = struct.field(pytree_node=False)
    cls_queries: int = struct.field(pytree_node=False)
    cls_keys: int = struct.field(pytree_node=False)


class Tokens(NamedTuple):
    """The residual stream after every block, before any LayerNorm."""

    cls: Float[Array, "depth B F D"]
    """F is 1, or the number of frames where each has its own (`space_only`)."""
    patches: Float[Array, "depth B T h w D"]


class Features(NamedTuple):
    """What the model knows of a clip before the classifier; the first three after the last LayerNorm.

    The entries of frames that `frame_mask` leaves out mean nothing.
    """

    cls: Float[Array, "B D"]
    """The clip's CLS token: what the classifier reads."""
    frame_cls: Float[Array, "B T D"] | None
    """The CLS as it is in each frame, before the last block's mean over frames; None for `joint_space_time` and `local_global`,
    whose groups mix frames (`patches.mean((2, 3))` serves there)."""
    patches: Float[Array, "B T h w D"]
    """Every patch's token, at its place in the clip."""
    blocks: Tokens | None
    """Every block's output, if asked for."""
    attention: dict[str, AttentionMap] | None
    """Attention step ("temporal", "spatial", ...: `SCHEMES[attention_type].steps`) -> its maps, if asked for."""


def name_attention(
    weights: Float[Array, "depth B G *heads Q L"],
    grouping: Grouping,
    sizes: tuple[int, ...],
    *,
    cls_queries: int,
    cls_keys: int,
) -> AttentionMap:
    """An attention step's weights with the axes of its groups apart, `sizes` being frames, rows and columns of patches."""
    groups, tokens = grouping.names()
    depth, batch, _, *rest = weights.shape
    return AttentionMap(
        weights=weights.reshape(depth, batch, *grouping.counts(sizes), *rest),
        axes=("block", "batch", *groups, *(["head"] if len(rest) == 3 else []), "query", "key"),
        tokens=tokens,
        cls_queries=cls_queries,
        cls_keys=cls_keys,
    )
