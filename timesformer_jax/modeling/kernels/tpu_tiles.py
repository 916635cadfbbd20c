"""Tiles of the TPU's attention kernels: how groups of tokens share them, and how the kernels read and write them."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from timesformer_jax._typing import Array

LANES = 128
"""Length of a row of memory, and side of the matrices that a TPU multiplies."""
SUBLANES = 8
"""Number of rows in a tile of memory."""
MOST_STRIDED = LANES // SUBLANES
"""Maximum number of tokens of a group that is read with a stride."""
WHOLE = 256
"""Maximum number of tokens, including the CLS, of a group that is processed with all heads at once."""
PART = 128
"""Number of queries of a longer group that are processed at a time."""
LONGEST = 2048
"""Maximum number of tokens of a group, including the CLS."""


def fits(strides: tuple[int, int, int], heads: int, head_dim: int, has_cls: bool) -> bool:
    """Return True if the kernels support these groups (X, L, Y) and heads."""
    _, length, stride = strides
    if length + has_cls > LONGEST or LANES % head_dim or head_dim < 32 or heads * head_dim % LANES:
        return False
    return stride == 1 or stride >= SUBLANES


class Groups(NamedTuple):
    """Tiling of the groups of one device."""

    count: int
    """Number of tiles along the first axis of the array."""
    length: int
    """Tokens of a group, without the CLS."""
    places: int
    """Groups side by side in a tile."""
    stride: int
    """Number of neighbouring groups Y; 1 if the tokens of a group are neighbours."""
    has_cls: bool
    """Whether the CLS joins each group."""
    heads: int
    """Heads that share a row of lanes."""
    dim: int
    """Width D of all heads."""

    @property
    def scale(self) -> float:
        """Factor 1 / sqrt(d) of the scores."""
        return (LANES // self.heads) ** -0.5

    @property
    def tiles(self) -> int:
        """Number of tiles along the stride."""
        return -(-self.stride // self.places) if self.stride > 1 else 1

    @property
    def patches(self) -> int:
        """Number of patches in a tile."""
        return self.length * self.places

    @property
    def copies(self) -> int:
        """Number of copies of the CLS in a tile, one per group."""
        return self.places * self.has_cls

    @property
    def is_long(self) -> bool:
        """Whether a program processes a single row of lanes."""
        return self.patches + self.copies > WHOLE

    @property
    def width(self) -> int:
        """Lanes of q, k or v that a program processes."""
        return LANES if self.is_long else self.dim

    @property
    def queries(self) -> int:
        """Number of rows of queries, filled up to whole parts if the groups are long."""
        rows = self.patches + self.copies
        return -(-rows // PART) * PART if self.is_long else rows


class Tile:
    """Reads rows `[tokens, LANES]` of a tile, with the copies of the CLS last, and writes them."""

    def __init__(self, groups: Groups):
        from jax.experimental import pallas as pl

        self.groups, self.there = groups, None
        if groups.stride % groups.places and groups.stride > 1:  # the last tile has places beyond the array
            place = pl.program_id(1) * groups.places + jax.lax.broadcasted_iota(jnp.int32, (groups.places, 1), 0)
            self.there = place < groups.stride

    def read(
        self, ref: Any, cls_ref: Any, lanes: slice, bias_ref: Any = None, scale: float = 1.0, *, queries: bool = False
    ) -> Array:
        """Return rows plus the bias, times `scale`, in the dtype of the patches; those of queries fill whole parts."""
        x = self._existing(ref[..., lanes])
        missing = self.groups.queries - self.groups.patches - self.groups.copies if queries else 0
        dtype, x = x.dtype, x.reshape(-1, LANES)
        if cls_ref is None and bias_ref is None and not missing:
            return x
        x = x.astype(jnp.float32)
        if cls_ref is not None:
            copies = jnp.broadcast_to(cls_ref[:, lanes], (self.groups.copies, LANES))
            x = jnp.concatenate([x, self._existing(copies)], axis=0)
        if missing:
            x = jnp.concatenate([x, jnp.zeros((missing, LANES), jnp.float32)])
        if bias_ref is not None:
            x = (x + bias_ref[:, lanes]) * scale
        return x.astype(dtype)

    def _existing(self, x: Array) -> Array:
        """Set places beyond the array to zero."""
        return x if self.there is None else jnp.where(self.there, x, jnp.zeros_like(x))

    def write(self, ref: Any, lanes: slice, x: Array) -> None:
        """Write the patches' rows in the dtype of the array."""
        ref[..., lanes] = x[: self.groups.patches].astype(ref.dtype).reshape(*ref.shape[:-1], LANES)

    def cls_rows(self, x: Array) -> Array:
        """Return the rows of the CLS."""
        return x[self.groups.patches : self.groups.patches + self.groups.copies]

    @property
    def seen(self) -> Array | None:
        """Pairs of tokens in one group; None if a tile is one group."""
        groups = self.groups
        if groups.places == 1:
            return None
        rows = groups.patches + groups.copies
        query, key = (jax.lax.broadcasted_iota(jnp.int32, shape, axis) for axis, shape in enumerate([(rows, 1), (1, rows)]))
        if groups.stride > 1:  # rows count tokens, then places
            return jax.lax.rem(query, groups.places) == jax.lax.rem(key, groups.places)
        return jax.lax.div(query, groups.length) == jax.lax.div(key, groups.length)

    @property
    def heads(self) -> list[Array | None]:
        """Lanes of each head in a row."""
        if self.groups.heads == 1:
            return [None]
        lane = jax.lax.broadcasted_iota(jnp.int32, (1, LANES), 1)
        return [jax.lax.div(lane, LANES // self.groups.heads) == head for head in range(self.groups.heads)]


class Inputs:
    """References to the packed product, its bias and the CLS, each in three thirds."""

    def __init__(self, groups: Groups, refs: Any):
        self.tile, self.qkv, self.bias, rest = Tile(groups), refs[:3], refs[3:6], refs[6:]
        self.cls = rest[:3] if groups.has_cls else (None,) * 3
        self.rest = rest[3 * groups.has_cls :]

    def read(self, lanes: slice) -> list[Array]:
        """Return queries, divided by sqrt(d), keys and values of the heads that share a row of lanes, with their bias."""
        scales = (self.tile.groups.scale, 1.0, 1.0)
        return [
            self.tile.read(ref, cls_ref, lanes, bias_ref, scale, queries=ref is self.qkv[0])
            for ref, cls_ref, bias_ref, scale in zip(self.qkv, self.cls, self.bias, scales, strict=True)
        ]


def rows_of_lanes(groups: Groups) -> Iterator[slice]:
    """Yield the lanes of q, k and v, within a program's part, whose heads share a row."""
    for start in range(0, groups.width, LANES):
        yield slice(start, start + LANES)
