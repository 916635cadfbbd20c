"""Tiling of groups of tokens for the fused attention kernel."""

from typing import Any, NamedTuple

import jax.numpy as jnp

from timesformer_jax._typing import Array

LONGEST = 256
"""Maximum number of tokens per group that the kernel supports, including the CLS."""


class Tile(NamedTuple):
    """Tiling of a kernel, a row of `TILES`."""

    rows: int
    """Rows of a tile; the largest piece of a group that exceeds a tile."""
    queries: int
    """Queries of a long group that the forward pass processes at a time."""
    backward_queries: int
    """Queries of a long group that the backward pass processes at a time."""
    warps: int
    """Number of warps of a program."""


TILES: tuple[Tile, ...] = (
    Tile(rows=32, queries=32, backward_queries=32, warps=1),
    Tile(rows=64, queries=64, backward_queries=64, warps=4),
    Tile(rows=128, queries=64, backward_queries=32, warps=4),
)
"""Tilings that were the fastest on an H200; a group uses the first that holds all its tokens, or else the last."""


def fits(num_tokens: int, head_dim: int, dtype: Any) -> bool:
    """Return True if the kernel supports this number of tokens per group (including the CLS), head size and dtype.

    Groups of wide heads must fit into the smallest tile, since larger ones exceed the registers and the shared memory of most
    GPUs.
    """
    longest = {16: LONGEST, 32: LONGEST, 64: LONGEST, 128: TILES[0].rows}.get(head_dim, 0)
    return num_tokens <= longest and dtype in (jnp.bfloat16, jnp.float16)


Piece = tuple[Any, int]
"""First position in a group, and the number of positions."""


class Shape(NamedTuple):
    """Sizes that a kernel is compiled for."""

    length: int
    """Patches per group."""
    strides: int
    """Y: number of groups whose tokens alternate in memory."""
    has_cls: bool
    """Whether a CLS follows the patches of each group."""
    cls_per_x: bool
    """Whether there is a CLS for each x (as opposed to one for each clip)."""
    head_dim: int
    """Width of one head."""
    tile: Tile
    together: int
    """P: groups per tile."""
    keys: tuple[Piece, ...]
    """Pieces that cover a group."""

    @property
    def tokens(self) -> int:
        """Tokens per group, including the CLS."""
        return self.length + self.has_cls

    @property
    def is_long(self) -> bool:
        """True if the group is cut into pieces, or is as long as one that might be."""
        return self.tile is TILES[-1]

    @property
    def passes(self) -> tuple[tuple[Piece, ...], ...]:
        """Pieces of the keys in each pass of the backward kernel over the queries."""
        return tuple(part for part in (self.keys[:1], self.keys[1:]) if part)


def shape_of(qkv: Array, cls: Array | None) -> Shape:
    """Choose the tiling for the arguments of `fused_attention`."""
    _, x, length, strides, _, _, head_dim = qkv.shape
    tokens = length + (cls is not None)
    tile = next((tile for tile in TILES if tokens <= tile.rows), TILES[-1])
    rows = power_of_two(tokens)
    together = 1 if strides == 1 or tile is TILES[-1] else max(tile.rows // rows, 1)
    keys = pieces_of(tokens, tile.rows) if tile is TILES[-1] else ((0, rows if together > 1 else max(rows, SMALLEST)),)
    return Shape(length, strides, cls is not None, cls is not None and cls.shape[1] == x > 1, head_dim, tile, together, keys)


SMALLEST = 16
"""Smallest operand of a matrix product in Triton."""


def power_of_two(number: int) -> int:
    """Round up to a power of two, as Triton requires of array sizes."""
    return 1 << (number - 1).bit_length()


def pieces_of(number: int, largest: int) -> tuple[Piece, ...]:
    """Cut positions into pieces of descending powers of two, from `largest` to `SMALLEST`."""
    pieces, first, size = [], 0, largest
    rest = -(-number // SMALLEST) * SMALLEST
    while rest > 0:
        while size > max(rest, SMALLEST):
            size //= 2
        pieces.append((first, size))
        first, rest = first + size, rest - size
    return tuple(pieces)
