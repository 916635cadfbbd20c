"""Fused attention within short groups of tokens, a GPU kernel written in Pallas for Triton.

A group's matrix of weights is never written to memory. Each program processes one head of a tile of rows of the packed product
`[q | k | v]`. With L tokens per group, a tile holds either as many whole groups as fit into the number of rows in `TILES`,
separated by a block-diagonal mask (say, 128 / L locations in temporal attention), or one group of up to `LONGEST` tokens (a
frame in spatial attention). The tile's keys and values stay in registers and shared memory, and are few enough that no running
maximum is needed:

    S = (Q + b_q) (K + b_k)^T / sqrt(d);   P = softmax(S);   O = P (V + b_v)

The backward pass recomputes P, a few queries at a time, and returns the full gradient of the packed product:

    dV = P^T dO;   dP = dO V^T;   dS = P * (dP - rowsum(P * dP)) / sqrt(d);   dQ = dS K;   dK = dS^T Q

Sums and the softmax are computed in float32; operands of matrix products have the input's dtype. The backward pass is that of
FlashAttention (Dao et al. 2022, algorithm 4); packing several groups into a tile is our own.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap
from jax.experimental.custom_partitioning import custom_partitioning
from jax.sharding import NamedSharding, PartitionSpec

from timesformer_jax._typing import Array, Float

LONGEST = 256
"""Maximum number of tokens per group that the kernel supports."""


class Tile(NamedTuple):
    """Tiling of a kernel."""

    rows: int
    """Rows of a tile; more if a single group needs them."""
    queries: int
    """Number of queries processed at a time."""
    warps: int
    """Number of warps of a program."""


TILES: dict[tuple[str, str], Tile] = {
    ("forward", "short"): Tile(64, 64, 4),
    ("forward", "long"): Tile(64, 64, 4),
    ("backward", "short"): Tile(32, 32, 4),
    ("backward", "long"): Tile(64, 32, 8),
}
"""Maps (pass, "short" if a group fits into a tile, else "long") to the fastest tiling found on an H100."""


def fits(num_tokens: int, head_dim: int, dtype: Any) -> bool:
    """Return True if the kernel supports this number of tokens per group, head size and dtype."""
    return num_tokens <= LONGEST and head_dim in (16, 32, 64, 128) and dtype in (jnp.bfloat16, jnp.float16)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def fused_attention(
    qkv: Float[Array, "B G L 3 h d"], bias: Float[Array, "3 h d"], interpret: bool = False
) -> Float[Array, "B G L h d"]:
    """Apply self-attention within each group.

    Args:
        qkv: Unscaled queries, keys and values, without bias, of G groups of L tokens, in float16 or bfloat16. L is at most
            `LONGEST`.
        bias: Bias to be added to `qkv`.
        interpret: Run as ordinary JAX operations on any device, which is slow and meant for tests.

    Returns:
        For each token, its group's values as mixed by each head.
    """
    return _split_over_devices("forward", interpret)(qkv, bias)


def _forward(qkv: Array, bias: Array, interpret: bool) -> tuple[Array, tuple[Array, Array]]:
    return fused_attention(qkv, bias, interpret), (qkv, bias)


def _backward(interpret: bool, kept: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    qkv, bias = kept
    dqkv = _split_over_devices("backward", interpret)(qkv, bias, gradient)
    return dqkv, dqkv.sum((0, 1, 2), dtype=jnp.float32).astype(bias.dtype)


fused_attention.defvjp(_forward, _backward)


RULES = {"forward": "b g l t h d, t h d -> b g l h d", "backward": "b g l t h d, t h d, b g l h d -> b g l t h d"}
"""Maps a pass to the axes of its arrays. Clips, groups and heads may be sharded over devices."""


@functools.cache
def _split_over_devices(direction: str, interpret: bool) -> Any:
    """Return one pass's kernel, partitioned over clips, groups and heads, whose arrays XLA would otherwise gather."""
    call = functools.partial(_call, direction, interpret)

    def partition(mesh: Any, arguments: Any, result: Any) -> Any:
        batch, group, _, _, head, *_ = (*arguments[0].sharding.spec, *[None] * 6)
        axes = {"b": batch, "g": group, "h": head}
        taken, given = RULES[direction].split(" -> ")

        def place(names: str) -> NamedSharding:
            return NamedSharding(mesh, PartitionSpec(*(axes.get(name) for name in names.split())))

        return mesh, call, place(given), tuple(place(names) for names in taken.split(", "))

    split = custom_partitioning(call)
    split.def_partition(partition=partition, sharding_rule=RULES[direction], need_replication_factors=("l", "t", "d"))
    batched = custom_vmap(lambda *arrays: split(*arrays))

    @batched.def_vmap
    def over_one_more_axis(size: int, is_batched: list[bool], *arrays: Array) -> tuple[Array, bool]:
        qkv, bias, *gradient = (
            x if has else jnp.broadcast_to(x, (size, *x.shape)) for x, has in zip(arrays, is_batched, strict=True)
        )
        if is_batched[1]:  # the kernel takes a single bias, so entries with different biases run in turn
            return jax.lax.map(lambda xs: batched(*xs), (qkv, bias, *gradient)), True
        merged = batched(_merge(qkv), arrays[1], *map(_merge, gradient))
        return merged.reshape(size, -1, *merged.shape[1:]), True

    return batched


def _merge(x: Array) -> Array:
    return x.reshape(-1, *x.shape[2:])


def _call(direction: str, interpret: bool, qkv: Array, bias: Array, *gradient: Array) -> Array:
    """Call the kernel of one pass on `[rows, features]`."""
    from jax.experimental import pallas as pl
    from jax.experimental.pallas import triton

    batch, groups, length, _, heads, head_dim = qkv.shape
    dim, rows = heads * head_dim, batch * groups * length
    tile = TILES[direction, "short" if length <= TILES[direction, "short"].rows else "long"]
    at_once = max(tile.rows // length, 1)
    tile_rows = max(tile.rows, _power_of_two(length))
    queries = min(tile.queries, tile_rows)
    parts = -(-at_once * length // queries)
    forward = direction == "forward"
    shape = _Shape(length, at_once, tile_rows, queries, parts, rows, dim, head_dim)
    tiles = -(-rows // (at_once * length))
    result = pl.pallas_call(
        functools.partial(_forward_kernel if forward else _backward_kernel, shape),
        grid=(tiles, parts, heads) if forward else (tiles, heads),
        out_shape=jax.ShapeDtypeStruct((rows, dim if forward else 3 * dim), qkv.dtype),
        compiler_params=triton.CompilerParams(num_warps=tile.warps, num_stages=1),
        interpret=interpret,
        name=f"attention_{direction}",
    )(qkv.reshape(rows, 3 * dim), bias.reshape(3 * dim), *(g.reshape(rows, dim) for g in gradient))
    return result.reshape(batch, groups, length, *(() if forward else (3,)), heads, head_dim)


def _power_of_two(number: int) -> int:
    """Round up to a power of two, as Triton requires of array sizes."""
    return 1 << (number - 1).bit_length()


class _Shape(NamedTuple):
    """Sizes that a kernel is compiled for."""

    length: int
    """Tokens per group."""
    groups: int
    """Groups per tile."""
    tile_rows: int
    """Rows of a tile, a power of two."""
    queries: int
    """Queries processed at a time."""
    parts: int
    """Number of these chunks of queries per tile."""
    rows: int
    """Rows of the whole array."""
    dim: int
    """Token width."""
    head_dim: int
    """Width of one head."""


class _Head:
    """Masked loads and stores of one head's rows in a tile."""

    def __init__(self, shape: _Shape, tile: Any, head: Any, bias_ref: Any):
        self._shape, self._start, self._head, self._bias = shape, tile * shape.groups * shape.length, head, bias_ref

    def columns(self, third: int) -> Any:
        from jax.experimental import pallas as pl

        return pl.ds(third * self._shape.dim + self._head * self._shape.head_dim, self._shape.head_dim)

    def rows(self, first: Any, count: int) -> tuple[Any, Array]:
        """Return the slice of `count` rows of the tile, and a mask that is False for padding."""
        from jax.experimental import pallas as pl

        row = first + jnp.arange(count)
        there = (row < self._shape.groups * self._shape.length) & (self._start + row < self._shape.rows)
        return pl.ds(self._start + first, count), there[:, None]

    def load(self, ref: Any, third: int, first: Any, count: int) -> Array:
        from jax.experimental.pallas import triton

        rows, there = self.rows(first, count)
        return triton.load(ref.at[rows, self.columns(third)], mask=there, other=0.0)

    def load_biased(self, ref: Any, third: int, first: Any, count: int) -> Array:
        from jax.experimental.pallas import triton

        x, bias = self.load(ref, third, first, count), triton.load(self._bias.at[self.columns(third)])
        return (x.astype(jnp.float32) + bias.astype(jnp.float32)[None]).astype(x.dtype)

    def store(self, ref: Any, third: int, first: Any, x: Array) -> None:
        from jax.experimental.pallas import triton

        rows, there = self.rows(first, x.shape[0])
        triton.store(ref.at[rows, self.columns(third)], x.astype(ref.dtype), mask=there)

    def weights(self, query: Array, key: Array, first: Any) -> Array:
        """Compute the softmax over the keys of each query's own group, `[queries, tile_rows]`."""
        shape, column = self._shape, jnp.arange(self._shape.tile_rows)
        if shape.groups > 1:
            row = first + jnp.arange(shape.queries)
            seen = row[:, None] // shape.length == column[None] // shape.length
        else:
            seen = column[None] < shape.length
        # The hardware computes exp2, not exp.
        scores = jnp.where(seen, _dot(query, key.T) * (math.log2(math.e) * shape.head_dim**-0.5), -1e30)
        exponentials = jnp.exp2(scores - scores.max(axis=1)[:, None])
        return exponentials * (1.0 / exponentials.sum(axis=1))[:, None]


def _dot(a: Array, b: Array) -> Array:
    from jax.experimental.pallas import triton

    return triton.dot(a, b)


def _forward_kernel(shape: _Shape, qkv_ref: Any, bias_ref: Any, mixture_ref: Any) -> None:
    from jax.experimental import pallas as pl

    head = _Head(shape, pl.program_id(0), pl.program_id(2), bias_ref)
    first = pl.program_id(1) * shape.queries
    query = head.load_biased(qkv_ref, 0, first, shape.queries)
    key, value = (head.load_biased(qkv_ref, third, 0, shape.tile_rows) for third in (1, 2))
    weights = head.weights(query, key, first)
    head.store(mixture_ref, 0, first, _dot(weights.astype(value.dtype), value))


def _backward_kernel(shape: _Shape, qkv_ref: Any, bias_ref: Any, gradient_ref: Any, dqkv_ref: Any) -> None:
    from jax.experimental import pallas as pl

    head = _Head(shape, pl.program_id(0), pl.program_id(1), bias_ref)
    key, value = (head.load_biased(qkv_ref, third, 0, shape.tile_rows) for third in (1, 2))

    def some_queries(part: Any, sums: tuple[Array, Array]) -> tuple[Array, Array]:
        first = part * shape.queries
        query = head.load_biased(qkv_ref, 0, first, shape.queries)
        gradient = head.load(gradient_ref, 0, first, shape.queries)
        weights = head.weights(query, key, first)
        dweights = _dot(gradient, value.T)
        dscores = weights * (dweights - (weights * dweights).sum(axis=1)[:, None]) * shape.head_dim**-0.5
        dscores = dscores.astype(query.dtype)
        head.store(dqkv_ref, 0, first, _dot(dscores, key))
        dkey, dvalue = sums
        return dkey + _dot(dscores.T, query), dvalue + _dot(weights.astype(gradient.dtype).T, gradient)

    zeros = jnp.zeros((shape.tile_rows, shape.head_dim), jnp.float32)
    sums = zeros, zeros
    dkey, dvalue = some_queries(0, sums) if shape.parts == 1 else jax.lax.fori_loop(0, shape.parts, some_queries, sums)
    head.store(dqkv_ref, 1, 0, dkey)
    head.store(dqkv_ref, 2, 0, dvalue)
