"""Space-time attention schemes (paper section 3, Figures 1 and 2), as one table.

All schemes share the same block: zero or more *extra steps*, in which patches attend to each other within groups, then the
image transformer's own attention, in which the CLS token joins each group, then the MLP. A scheme only chooses the groups, by
one rule each for the time, height and width axes.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from timesformer_jax._typing import Array, Bool, Shaped


class AxisRule(NamedTuple):
    """Rule that partitions an axis of n positions into groups of equal length, padded if n is too short.

    Attributes:
        count: Maps n to the number of groups.
        length: Maps n to the number of positions per group.
        group: Name of the axis of groups in an attention map, in which {} stands for the name of the original axis. None if
            there is always one group.
        place: Name of the axis of positions within a group, with the same placeholder. None if groups always have one position.
        blocks: Whether groups are contiguous: position i belongs to group i // length if True, else to group i % count.
    """

    count: Callable[[int], int]
    length: Callable[[int], int]
    group: str | None
    place: str | None
    blocks: bool = True


def _half(n: int) -> int:
    return math.ceil(n / 2)


TOGETHER = AxisRule(count=lambda n: 1, length=lambda n: n, group=None, place="{}")
"""One group of all positions."""
APART = AxisRule(count=lambda n: n, length=lambda n: 1, group="{}", place=None)
"""One group per position."""
HALVES = AxisRule(count=lambda n: 2, length=_half, group="{}_half", place="{}")
"""The first and the second half; the first is longer if n is odd."""
ALTERNATE = AxisRule(count=lambda n: 2, length=_half, group="{}_parity", place="{}", blocks=False)
"""The even and the odd positions."""


class Grouping(NamedTuple):
    """Partition of a clip's patches into groups that attend within themselves.

    Two patches share a group if the rules of all three axes place them in the same group.
    """

    time: AxisRule
    """Rule for the frames."""
    height: AxisRule
    """Rule for the rows of patches."""
    width: AxisRule
    """Rule for the columns of patches."""

    def split(self, patches: Shaped[Array, "B T N D"], sizes: Sequence[int]) -> Shaped[Array, "B G L D"]:
        """Split patches into groups: `[B, T, N, D] -> [B, G, L, D]`, padded with zeros if an axis doesn't divide evenly.

        Args:
            patches: Patches of T frames, row-major within a frame.
            sizes: Numbers of frames, rows and columns.
        """
        batch, dim = patches.shape[0], patches.shape[-1]
        patches = patches.reshape(batch, *sizes, dim)
        if any(padding := self._padding(sizes)):
            patches = jnp.pad(patches, [(0, 0), *((0, after) for after in padding), (0, 0)])
        axes, order = self._layout(sizes)
        patches = patches.reshape(batch, *axes, dim).transpose(0, *order, 7)  # -> [B, groups x 3, places x 3, D]
        return patches.reshape(batch, *self.shape(sizes), dim)

    def merge(self, groups: Shaped[Array, "B G L D"], sizes: Sequence[int]) -> Shaped[Array, "B T N D"]:
        """Invert `split`; `sizes` are the numbers of frames, rows and columns."""
        batch, dim = groups.shape[0], groups.shape[-1]
        axes, order = self._layout(sizes)
        groups = groups.reshape(batch, *(axes[axis - 1] for axis in order), dim)
        patches = groups.transpose(0, *(1 + int(axis) for axis in np.argsort(order)), 7)  # -> [B, t, t, h, h, w, w, D]
        patches = patches.reshape(batch, axes[0] * axes[1], axes[2] * axes[3], axes[4] * axes[5], dim)
        return patches[:, : sizes[0], : sizes[1], : sizes[2]].reshape(batch, sizes[0], sizes[1] * sizes[2], dim)

    def shape(self, sizes: Sequence[int]) -> tuple[int, int]:
        """Return the number of groups and the number of positions in each, padding included."""
        rules = tuple(zip(self, sizes, strict=True))
        return math.prod(rule.count(size) for rule, size in rules), math.prod(rule.length(size) for rule, size in rules)

    def strides(self, sizes: Sequence[int]) -> tuple[int, int, int] | None:
        """Factor the axes of the patches into (X, L, Y): X * Y groups, each with L patches at a distance of Y.

        None if the groups interleave in other ways or are padded.
        """
        x = length = y = 1
        for rule, size in zip(self, sizes, strict=True):
            if rule is TOGETHER and (y == 1 or size == 1):
                length *= size
            elif rule is APART:
                x, y = (x * size, y) if length == 1 else (x, y * size)
            else:
                return None
        return x, length, y

    def mask(self, sizes: Sequence[int], frame_mask: Bool[Array, "B T"] | None = None) -> Bool[Array, "b G L"] | None:
        """Return a mask that is False for padding and for patches of masked frames; None if nothing is masked.

        Without a `frame_mask` all clips have the same mask, and b is 1.
        """
        if frame_mask is None:
            if not any(self._padding(sizes)):
                return None
            frame_mask = jnp.ones((1, sizes[0]), bool)
        patches = jnp.broadcast_to(frame_mask[:, :, None, None], (*frame_mask.shape, sizes[1] * sizes[2], 1))
        return self.split(patches, sizes)[..., 0]

    def names(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return the names of the axes of groups and of positions: (("time",), ("height", "width")) if groups are frames."""
        axes = tuple(zip(self, ("time", "height", "width"), strict=True))
        groups = tuple(rule.group.format(axis) for rule, axis in axes if rule.group is not None)
        return groups, tuple(rule.place.format(axis) for rule, axis in axes if rule.place is not None)

    def counts(self, sizes: Sequence[int]) -> tuple[int, ...]:
        """Return the number of groups along each group axis in `names`."""
        return tuple(rule.count(size) for rule, size in zip(self, sizes, strict=True) if rule.group is not None)

    @property
    def keeps_frames(self) -> bool:
        """True if every group is confined to one frame."""
        return self.time is APART

    def _padding(self, sizes: Sequence[int]) -> list[int]:
        return [rule.count(size) * rule.length(size) - size for rule, size in zip(self, sizes, strict=True)]

    def _layout(self, sizes: Sequence[int]) -> tuple[list[int], list[int]]:
        """Return the sizes of the six axes that time, height and width split into, and their order: groups, then positions.

        The order counts axes from 1, because axis 0 is the batch.
        """
        axes, groups, places = [], [], []
        for rule, size in zip(self, sizes, strict=True):
            count, length = rule.count(size), rule.length(size)
            first = len(axes) + 1
            axes += [count, length] if rule.blocks else [length, count]
            groups.append(first if rule.blocks else first + 1)
            places.append(first + 1 if rule.blocks else first)
        return axes, groups + places


class Scheme(NamedTuple):
    """A space-time attention scheme, the value type of `SCHEMES`.

    Attributes:
        extra_steps: Name and grouping of each attention step that the image transformer lacks, in order. The step's
            parameters are `<name>_norm1`, `<name>_attn` and `<name>_fc`.
        name: Name of the image transformer's own attention step.
        groups: Grouping of that step.
        cls_per_frame: Whether each frame keeps its own CLS to the end. Otherwise a clip has one CLS, which is copied into
            every group and updated by the mean of its copies' outputs.
        time_embedding: Whether the model has a time embedding.
    """

    extra_steps: tuple[tuple[str, Grouping], ...]
    name: str
    groups: Grouping
    cls_per_frame: bool = False
    time_embedding: bool = True

    @property
    def steps(self) -> dict[str, Grouping]:
        """All attention steps of the scheme, by name."""
        return {**dict(self.extra_steps), self.name: self.groups}


SAME_FRAME = Grouping(time=APART, height=TOGETHER, width=TOGETHER)
SAME_PLACE = Grouping(time=TOGETHER, height=APART, width=APART)
SAME_ROW = Grouping(time=APART, height=APART, width=TOGETHER)
SAME_COLUMN = Grouping(time=APART, height=TOGETHER, width=APART)
WHOLE_CLIP = Grouping(time=TOGETHER, height=TOGETHER, width=TOGETHER)
QUARTERS = Grouping(time=TOGETHER, height=HALVES, width=HALVES)
STRIDE_2 = Grouping(time=ALTERNATE, height=ALTERNATE, width=ALTERNATE)

SCHEMES: dict[str, Scheme] = {
    # Equations 11 and 6: a patch attends to its own location in all frames, then to its own frame.
    "divided_space_time": Scheme((("temporal", SAME_PLACE),), "spatial", SAME_FRAME),
    # Equation 5: a patch attends to every patch of the clip.
    "joint_space_time": Scheme((), "joint", WHOLE_CLIP),
    # Equation 6 alone.
    "space_only": Scheme((), "spatial", SAME_FRAME, cls_per_frame=True, time_embedding=False),
    # "L+G": a quarter of the image in all frames, then the whole clip with stride 2 in time, height and width.
    "local_global": Scheme((("local", QUARTERS),), "global", STRIDE_2),
    # "T+W+H": one axis after another.
    "axial": Scheme((("temporal", SAME_PLACE), ("width", SAME_ROW)), "height", SAME_COLUMN),
}
"""Maps `attention_type` to its scheme (paper Table 1; official `models/vit.py`, class `Block`, for the first three).

The last two were never released. The paper specifies their neighbourhoods (F x H/2 x W/2 patches, then stride 2; time, width,
height), and separate weights and a separate residual connection for each step. Its parameter counts (Table 1) imply one extra
step for L+G and two for axial. The remaining choices are ours, by analogy with divided attention: the local neighbourhood is
one of four fixed windows, not a window centred on each query; the global step attends within each of the eight residue classes;
extra steps come first, with a zero output layer; the image transformer's own attention comes last and includes the CLS. Frame
counts and grids that don't divide evenly are padded. Padding is masked, and groups that consist only of padding don't
contribute to the CLS.
"""
