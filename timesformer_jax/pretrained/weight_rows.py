"""One row per tensor of a published format: its name, our parameter, and how the same numbers are laid out in each."""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np


class Layout(NamedTuple):
    """One way to store a tensor; both functions may return views of their argument."""

    ranks: tuple[int, ...]
    """How many axes theirs may have; empty where it is the same as ours."""
    read: Callable[[np.ndarray, int], np.ndarray]
    """(their tensor, num_heads) -> our array. Raises `ValueError` where the sizes can't be split so."""
    write: Callable[[np.ndarray], np.ndarray] | None = None
    """Our array -> their tensor; None for formats that are only read."""


def _convolution(tensor: np.ndarray, num_heads: int) -> np.ndarray:
    if tensor.ndim == 2:  # old files have the linear layer that the convolution is, [D, C P P], of three colours
        size = round((tensor.shape[1] / 3) ** 0.5)
        tensor = tensor.reshape(-1, 3, size, size)
    return tensor.transpose(2, 3, 1, 0)  # [D, C, P, P] -> [P, P, C, D]


SAME = Layout((), lambda x, num_heads: x, lambda x: x)
LINEAR = Layout((2,), lambda x, num_heads: x.T, lambda x: x.T)
"""`[out, in]` <-> `[in, out]`."""
CONVOLUTION = Layout((2, 4), _convolution, lambda x: x.transpose(3, 2, 0, 1))
"""`[D, C, P, P]` <-> `[P, P, C, D]`."""
QKV_KERNEL = Layout((2,), lambda x, h: x.T.reshape(x.shape[1], 3, h, -1), lambda x: x.reshape(x.shape[0], -1).T)
"""Packed `[3 h d, D]` <-> `[D, 3, h, d]`."""
QKV_BIAS = Layout((1,), lambda x, h: x.reshape(3, h, -1), lambda x: x.reshape(-1))
"""Packed `[3 h d]` <-> `[3, h, d]`."""
PROJ_KERNEL = Layout((2,), lambda x, h: x.T.reshape(h, -1, x.shape[0]), lambda x: x.reshape(-1, x.shape[-1]).T)
"""`[D, h d]` <-> `[h, d, D]`."""

# Of query, key or value alone, one of the three slots of our array.
SLOT_KERNEL = Layout((2,), lambda x, h: x.T.reshape(x.shape[1], h, -1))
"""`[h d, D]` -> `[D, h, d]`."""
SLOT_BIAS = Layout((1,), lambda x, h: x.reshape(h, -1))
"""`[h d]` -> `[h, d]`."""

TOKEN = Layout((1,), lambda x, num_heads: x.reshape(1, 1, -1))
"""`[D]` -> `[1, 1, D]`."""
POSITIONS = Layout((2,), lambda x, num_heads: x.reshape(1, *x.shape[-2:]))
"""`[1 + N, D]` -> `[1, 1 + N, D]`."""
PATCH_POSITIONS = Layout((3,), lambda x, num_heads: np.pad(x, ((0, 0), (1, 0), (0, 0))))
"""`[1, N, D]` -> `[1, 1 + N, D]`: a CLS that has no position."""
SCALE = Layout((1,), lambda x, num_heads: x)
"""`[D]`: a factor per channel, which is folded into another parameter."""


class Row(NamedTuple):
    """One tensor: `theirs` and `ours` are names in which `{i}` stands for a block's number."""

    theirs: str
    ours: str
    layout: Layout = SAME
    slot: int | None = None
    """0, 1, 2 where theirs is the query, key or value alone, of our packed three."""


def affine(theirs: str, ours: str, kernel: Layout = LINEAR, bias: Layout = SAME, slot: int | None = None) -> Iterator[Row]:
    yield Row(f"{theirs}.weight", f"{ours}/kernel", kernel, slot)
    yield Row(f"{theirs}.bias", f"{ours}/bias", bias, slot)


def norm(theirs: str, ours: str) -> Iterator[Row]:
    yield Row(f"{theirs}.weight", f"{ours}/scale")
    yield Row(f"{theirs}.bias", f"{ours}/bias")


def rows(*groups: Row | Iterable[Row]) -> tuple[Row, ...]:
    return tuple(row for group in groups for row in ([group] if isinstance(group, Row) else group))


def mlp(block: str, first: str, second: str) -> Iterator[Row]:
    yield from affine(f"{block}.{first}", "blocks_{i}/mlp/fc1")
    yield from affine(f"{block}.{second}", "blocks_{i}/mlp/fc2")


def separate(attention: str, names: tuple[str, str, str], projection: str) -> Iterator[Row]:
    """The image transformer's attention with three layers instead of the packed one."""
    for slot, name in enumerate(names):
        yield from affine(f"{attention}.{name}", "blocks_{i}/attn/qkv", SLOT_KERNEL, SLOT_BIAS, slot)
    yield from affine(f"{attention}.{projection}", "blocks_{i}/attn/proj", PROJ_KERNEL)
