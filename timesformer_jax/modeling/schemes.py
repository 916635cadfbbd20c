"""The space-time attention schemes (paper section 3, Figures 1 and 2), as one table.

Every scheme is the same block: zero or more *extra steps* in which the patches attend to each other inside groups, then
the image transformer's own attention, in which the CLS token joins each group, then the MLP. A scheme is no more than the
choice of groups, and a grouping is no more than a rule for each of the axes time, height and width.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from timesformer_jax._typing import Array, Bool, Float, Shaped


class AxisRule(NamedTuple):
    """How an axis of n places is dealt out: `count(n)` groups of `length(n)` places each, padded where n is too short.

    Place i goes to group i // length if `blocks`, else to group i % count. `group` and `place` are the names that the two
    get in an attention map ({} is the axis's own), None where there is never more than one.
    """

    count: Callable[[int], int]
    length: Callable[[int], int]
    group: str | None
    place: str | None
    blocks: bool = True


def _half(n: int) -> int:
    return math.ceil(n / 2)


TOGETHER = AxisRule(count=lambda n: 1, length=lambda n: n, group=None, place="{}")
"""All places see each other."""
APART = AxisRule(count=lambda n: n, length=lambda n: 1, group="{}", place=None)
"""No place sees another."""
HALVES = AxisRule(count=lambda n: 2, length=_half, group="{}_half", place="{}")
"""The first half and the second half (the first is the longer one)."""
ALTERNATE = AxisRule(count=lambda n: 2, length=_half, group="{}_parity", place="{}", blocks=False)
"""The even places and the odd places."""


class Grouping(NamedTuple):
    """Which patches see each other: those that the rules of all three axes put together."""

    time: AxisRule
    height: AxisRule
    width: AxisRule

    def split(self, patches: Shaped[Array, "B T h w D"]) -> Shaped[Array, "B G L D"]:
        """`[B, T, h, w, D] -> [B, G, L, D]`: G groups of L patches, filled up with zeros where an axis doesn't divide."""
        batch, *sizes, dim = patches.shape
        padding = [(0, after) for after in self._padding(sizes)]
        patches = jnp.pad(patches, [(0, 0), *padding, (0, 0)])
        axes, order = self._layout(sizes)
        patches = patches.reshape(batch, *axes, dim).transpose(0, *order, 7)  # -> [B, groups x 3, places x 3, D]
        return patches.reshape(batch, math.prod(patches.shape[1:4]), math.prod(patches.shape[4:7]), dim)

    def merge(self, groups: Float[Array, "B G L D"], sizes: Sequence[int]) -> Float[Array, "B T h w D"]:
        """The inverse of `split`, for so many frames, rows and columns."""
        batch, dim = groups.shape[0], groups.shape[-1]
        axes, order = self._layout(sizes)
        groups = groups.reshape(batch, *(axes[axis - 1] for axis in order), dim)
        patches = groups.transpose(0, *(1 + int(axis) for axis in np.argsort(order)), 7)  # -> [B, t, t, h, h, w, w, D]
        patches = patches.reshape(batch, axes[0] * axes[1], axes[2] * axes[3], axes[4] * axes[5], dim)
        return patches[:, : sizes[0], : sizes[1], : sizes[2]]

    def mask(self, sizes: Sequence[int], frame_mask: Bool[Array, "B T"] | None = None) -> Bool[Array, "b G L"] | None:
        """Which places of the groups hold a patch of a frame that counts (all do by default); None where all do.

        b is 1 where no `frame_mask` makes the clips differ.
        """
        if frame_mask is None:
            if not any(self._padding(sizes)):
                return None
            frame_mask = jnp.ones((1, sizes[0]), bool)
        places = jnp.broadcast_to(frame_mask[:, :, None, None, None], (frame_mask.shape[0], *sizes, 1))
        return self.split(places)[..., 0]

    def names(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """What groups and places are counted along: (("time",), ("height", "width")) for the patches of a frame."""
        axes = tuple(zip(self, ("time", "height", "width"), strict=True))
        groups = tuple(rule.group.format(axis) for rule, axis in axes if rule.group is not None)
        return groups, tuple(rule.place.format(axis) for rule, axis in axes if rule.place is not None)

    def counts(self, sizes: Sequence[int]) -> tuple[int, ...]:
        """How many groups there are along each of the first `names`."""
        return tuple(rule.count(size) for rule, size in zip(self, sizes, strict=True) if rule.group is not None)

    @property
    def keeps_frames(self) -> bool:
        """Whether no group mixes frames."""
        return self.time is APART

    def _padding(self, sizes: Sequence[int]) -> list[int]:
        return [rule.count(size) * rule.length(size) - size for rule, size in zip(self, sizes, strict=True)]

    def _layout(self, sizes: Sequence[int]) -> tuple[list[int], list[int]]:
        """The six axes that the three are split into, and their order: groups first, places last (1 is the first axis)."""
        axes, groups, places = [], [], []
        for rule, size in zip(self, sizes, strict=True):
            count, length = rule.count(size), rule.length(size)
            first = len(axes) + 1
            axes += [count, length] if rule.blocks else [length, count]
            groups.append(first if rule.blocks else first + 1)
            places.append(first + 1 if rule.blocks else first)
        return axes, groups + places


class Scheme(NamedTuple):
    """One row of the table.

    `extra_steps`: name and groups of each attention step that the image transformer lacks, in order; its parameters are
    `<name>_norm1`, `<name>_attn`, `<name>_fc`. `name` and `groups`: those of the image transformer's own attention.
    `cls_per_frame`: each frame keeps a CLS of its own to the end (else one CLS a clip: it is copied into every group and
    takes the mean of its copies' outputs). `time_embedding`: whether the model has one.
    """

    extra_steps: tuple[tuple[str, Grouping], ...]
    name: str
    groups: Grouping
    cls_per_frame: bool = False
    time_embedding: bool = True

    @property
    def steps(self) -> dict[str, Grouping]:
        """All attention steps by name."""
        return {**dict(self.extra_steps), self.name: self.groups}


SAME_FRAME = Grouping(time=APART, height=TOGETHER, width=TOGETHER)
SAME_PLACE = Grouping(time=TOGETHER, height=APART, width=APART)
SAME_ROW = Grouping(time=APART, height=APART, width=TOGETHER)
SAME_COLUMN = Grouping(time=APART, height=TOGETHER, width=APART)
WHOLE_CLIP = Grouping(time=TOGETHER, height=TOGETHER, width=TOGETHER)
QUARTERS = Grouping(time=TOGETHER, height=HALVES, width=HALVES)
STRIDE_2 = Grouping(time=ALTERNATE, height=ALTERNATE, width=ALTERNATE)

SCHEMES: dict[str, Scheme] = {
    # Equations 11 and 6: a patch sees its own place in all frames, then its own frame.
    "divided_space_time": Scheme((("temporal", SAME_PLACE),), "spatial", SAME_FRAME),
    # Equation 5: a patch sees every patch of the clip.
    "joint_space_time": Scheme((), "joint", WHOLE_CLIP),
    # Equation 6 alone.
    "space_only": Scheme((), "spatial", SAME_FRAME, cls_per_frame=True, time_embedding=False),
    # "L+G": a quarter of the picture in all frames, then the whole clip with stride 2 in time, height and width.
    "local_global": Scheme((("local", QUARTERS),), "global", STRIDE_2),
    # "T+W+H": one axis after the other.
    "axial": Scheme((("temporal", SAME_PLACE), ("width", SAME_ROW)), "height", SAME_COLUMN),
}
"""`attention_type` -> scheme (paper Table 1; official file `models/vit.py`, class `Block`, for the first three).

The last two were never released. The paper fixes their neighbourhoods (F x H/2 x W/2 patches, then stride 2; time, width,
height), that each step has weights of its own and is a residual layer of its own, and, by Table 1's parameter counts, one
extra step for L+G and two for axial. Chosen here, in analogy to divided attention: the local neighbourhood is one of four
fixed windows, not one centred on each query; the global step attends within each of the eight residue classes; the extra
steps come first, with a zero output layer, and the image transformer's own attention comes last and holds the CLS. Frame
counts and grids that don't divide are padded; padding is masked, and a group with nothing but padding has no say in the CLS.
"""
