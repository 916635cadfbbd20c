"""Rows of a published format, one per tensor: its name, our parameter, and the conversion between their layouts."""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np


class Layout(NamedTuple):
    """Conversion between a format's layout of a tensor and ours; both functions may return views of their argument."""

    ranks: tuple[int, ...]
    """Allowed numbers of axes of the format's tensor; empty if it has the same number as ours."""
    read: Callable[[np.ndarray, int], np.ndarray]
    """Maps (tensor of the format, num_heads) to our array. Raises `ValueError` if the sizes can't be split into heads."""
    write: Callable[[np.ndarray], np.ndarray] | None = None
    """Maps our array to the format's tensor; None for layouts that are only read."""


def _convolution(tensor: np.ndarray, num_heads: int) -> np.ndarray:
    if tensor.ndim == 2:  # old files store a linear layer, [D, C P P] with C = 3, instead of the convolution
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

# Layouts of a query, key or value tensor, which fills one of the three slots of our array.
SLOT_KERNEL = Layout((2,), lambda x, h: x.T.reshape(x.shape[1], h, -1))
"""`[h d, D]` -> `[D, h, d]`."""
SLOT_BIAS = Layout((1,), lambda x, h: x.reshape(h, -1))
"""`[h d]` -> `[h, d]`."""

TOKEN = Layout((1,), lambda x, num_heads: x.reshape(1, 1, -1))
"""`[D]` -> `[1, 1, D]`."""
POSITIONS = Layout((2,), lambda x, num_heads: x.reshape(1, *x.shape[-2:]))
"""`[1 + N, D]` -> `[1, 1 + N, D]`."""
PATCH_POSITIONS = Layout((3,), lambda x, num_heads: np.pad(x, ((0, 0), (1, 0), (0, 0))))
"""`[1, N, D]` -> `[1, 1 + N, D]`: the CLS has no position, so a zero one is added."""
SCALE = Layout((1,), lambda x, num_heads: x)
"""`[D]`: a factor per channel, to be folded into another parameter."""


class Row(NamedTuple):
    """One tensor of a format. In names, `{i}` stands for the block number."""

    theirs: str
    """Name of the tensor in the format."""
    ours: str
    """Path of our parameter."""
    layout: Layout = SAME
    """Conversion between the two."""
    slot: int | None = None
    """0, 1 or 2 if the tensor is only the query, key or value of our packed parameter."""


def affine(theirs: str, ours: str, kernel: Layout = LINEAR, bias: Layout = SAME, slot: int | None = None) -> Iterator[Row]:
    """Yield the rows of a linear or convolutional layer.

    Args:
        theirs: Name of the layer in the format.
        ours: Path of our layer.
        kernel: Layout of the weight.
        bias: Layout of the bias.
        slot: Slot of our packed parameters that the layer fills; None for the whole parameter.
    """
    yield Row(f"{theirs}.weight", f"{ours}/kernel", kernel, slot)
    yield Row(f"{theirs}.bias", f"{ours}/bias", bias, slot)


def norm(theirs: str, ours: str) -> Iterator[Row]:
    """Yield the rows of a LayerNorm."""
    yield Row(f"{theirs}.weight", f"{ours}/scale")
    yield Row(f"{theirs}.bias", f"{ours}/bias")


def rows(*groups: Row | Iterable[Row]) -> tuple[Row, ...]:
    """Concatenate rows and groups of rows."""
    return tuple(row for group in groups for row in ([group] if isinstance(group, Row) else group))


def mlp(block: str, first: str, second: str) -> Iterator[Row]:
    """Yield the rows of a block's MLP; `first` and `second` are the names of its layers."""
    yield from affine(f"{block}.{first}", "blocks_{i}/mlp/fc1")
    yield from affine(f"{block}.{second}", "blocks_{i}/mlp/fc2")


def separate(attention: str, names: tuple[str, str, str], projection: str) -> Iterator[Row]:
    """Yield the rows of an image transformer's attention whose query, key and value are three layers instead of one."""
    for slot, name in enumerate(names):
        yield from affine(f"{attention}.{name}", "blocks_{i}/attn/qkv", SLOT_KERNEL, SLOT_BIAS, slot)
    yield from affine(f"{attention}.{projection}", "blocks_{i}/attn/proj", PROJ_KERNEL)
