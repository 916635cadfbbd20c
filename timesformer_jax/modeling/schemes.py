"""The space-time attention schemes (paper section 3, Figures 1 and 2), as one table.

Every scheme is the same block: zero or more *extra steps* in which the patches attend to each other inside groups, then
the image transformer's own attention, in which the CLS token joins each group, then the MLP. A scheme is no more than the
choice of groups, so this table is all that tells one from another.
"""

from collections.abc import Callable
from typing import NamedTuple

from timesformer_jax._typing import Array, Float


class Grouping(NamedTuple):
    """How the patches `[B, T, N, D]` are dealt into groups `[B, G, L, D]` that attend within themselves, and back."""

    split: Callable[[Array], Array]
    merge: Callable[[Array, tuple[int, ...]], Array]


def _clip(patches: Float[Array, "B T N D"]) -> Float[Array, "B 1 L D"]:
    batch, num_frames, num_patches, dim = patches.shape
    return patches.reshape(batch, 1, num_frames * num_patches, dim)  # [B, T, N, D] -> [B, 1, T N, D]


SAME_FRAME = Grouping(split=lambda patches: patches, merge=lambda groups, shape: groups)
"""A patch sees the patches of its own frame: G = T groups of L = N (equation 6, "space")."""

SAME_PLACE = Grouping(
    split=lambda patches: patches.swapaxes(1, 2),  # [B, T, N, D] -> [B, N, T, D]
    merge=lambda groups, shape: groups.swapaxes(1, 2),  # [B, N, T, D] -> [B, T, N, D]
)
"""A patch sees the patches at its own place in every frame: G = N groups of L = T (equation 11, "time")."""

WHOLE_CLIP = Grouping(split=_clip, merge=lambda groups, shape: groups.reshape(shape))
"""A patch sees every patch of the clip: one group of L = T N (equation 5, "joint")."""


class Scheme(NamedTuple):
    """One row of the table.

    `extra_steps`: name and groups of each attention step that the image transformer lacks, in order; its parameters are
    `<name>_norm1`, `<name>_attn`, `<name>_fc`. `groups`: those of the image transformer's own attention.
    `cls_per_frame`: each frame keeps a CLS of its own to the end (else one CLS a clip: it is copied into every group and
    takes the mean of its copies' outputs). `time_embedding`: whether the model has one.
    """

    extra_steps: tuple[tuple[str, Grouping], ...]
    groups: Grouping
    cls_per_frame: bool
    time_embedding: bool


SCHEMES: dict[str, Scheme] = {
    "divided_space_time": Scheme((("temporal", SAME_PLACE),), SAME_FRAME, cls_per_frame=False, time_embedding=True),
    "joint_space_time": Scheme((), WHOLE_CLIP, cls_per_frame=False, time_embedding=True),
    "space_only": Scheme((), SAME_FRAME, cls_per_frame=True, time_embedding=False),
}
"""`attention_type` -> scheme (paper Table 1; official file `models/vit.py`, class `Block`)."""
