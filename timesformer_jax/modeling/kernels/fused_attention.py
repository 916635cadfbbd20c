"""Attention within short groups of tokens as one kernel for GPUs, written in Pallas for Triton.

A group's matrix of weights is never written to memory. Let a group have L tokens. One program takes one head of a tile of rows
of the packed product `[q | k | v]`: as many whole groups as fit into `TILES` rows, side by side, kept apart by a mask that is
block-diagonal (128 / L places of temporal attention, say), or one group of up to `LONGEST` tokens (a frame in spatial
attention). Its keys and values stay in registers and shared memory; so few of them need no running maximum:

    S = (Q + b_q) (K + b_k)^T / sqrt(d);   P = softmax(S);   O = P (V + b_v)

The backward pass computes P again, some queries at a time, and gives the whole gradient of the packed product:

    dV = P^T dO;   dP = dO V^T;   dS = P * (dP - rowsum(P * dP)) / sqrt(d);   dQ = dS K;   dK = dS^T Q

Sums and the softmax are float32, factors of products in the input's dtype. Source: the backward pass is that of
FlashAttention (Dao et al. 2022, algorithm 4); the tiles of many groups are our own.
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
"""Tokens of a group that the kernel can hold."""


class Tile(NamedTuple):
    """How a kernel cuts its work: rows of a tile (more where one group needs them), queries at a time, warps."""

    rows: int
    queries: int
    warps: int


TILES: dict[tuple[str, str], Tile] = {
    ("forward", "short"): Tile(64, 64, 4),
    ("forward", "long"): Tile(64, 64, 4),
    ("backward", "short"): Tile(32, 32, 4),
    ("backward", "long"): Tile(64, 32, 8),
}
"""(pass, groups that fit into a tile at all, or longer ones) -> the fastest of those tried on an H100."""


def fits(num_tokens: int, head_dim: int, dtype: Any) -> bool:
    """Whether the kernel takes groups of so many tokens, heads of this size and this dtype."""
    return num_tokens <= LONGEST and head_dim in (16, 32, 64, 128) and dtype in (jnp.bfloat16, jnp.float16)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def fused_attention(
    qkv: Float[Array, "B G L 3 h d"], bias: Float[Array, "3 h d"], interpret: bool = False
) -> Float[Array, "B G L h d"]:
    """Self-attention within each group, from the packed product (its bias not yet added) to the mixtures of values.

    Args:
        qkv: Queries (not scaled), keys and values of G groups of L tokens, L at most `LONGEST`; float16 or bfloat16.
        bias: Added to `qkv`.
        interpret: Run as ordinary JAX operations, on any device: slow, for tests.

    Returns:
        Each token's mixture of its group's values, for every head.
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
"""Pass -> the axes of its arrays. Clips, groups and heads may be on different devices."""


@functools.cache
def _split_over_devices(direction: str, interpret: bool) -> Any:
    """The kernel of one pass on each device's clips, groups and heads: XLA by itself would gather them all."""
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
        if is_batched[1]:  # each with its own bias: one after the other
            return jax.lax.map(lambda xs: batched(*xs), (qkv, bias, *gradient)), True
        merged = batched(_merge(qkv), arrays[1], *map(_merge, gradient))
        return merged.reshape(size, -1, *merged.shape[1:]), True

    return batched


def _merge(x: Array) -> Array:
    return x.reshape(-1, *x.shape[2:])


def _call(direction: str, interpret: bool, qkv: Array, bias: Array, *gradient: Array) -> Array:
    """The kernel of one pass on `[rows, features]`."""
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
    """The next one: Triton's arrays have no other sizes."""
    return 1 << (number - 1).bit_length()


class _Shape(NamedTuple):
    """The sizes that a kernel is made for."""

    length: int
    groups: int
    tile_rows: int
    queries: int
    parts: int
    """`queries` at a time, so often."""
    rows: int
    """Of the whole array."""
    dim: int
    head_dim: int


class _Head:
    """One head's rows of a tile: loads and stores that leave out what isn't there."""

    def __init__(self, shape: _Shape, tile: Any, head: Any, bias_ref: Any):
        self._shape, self._start, self._head, self._bias = shape, tile * shape.groups * shape.length, head, bias_ref

    def columns(self, third: int) -> Any:
        from jax.experimental import pallas as pl

        return pl.ds(third * self._shape.dim + self._head * self._shape.head_dim, self._shape.head_dim)

    def rows(self, first: Any, count: int) -> tuple[Any, Array]:
        """Where `count` rows of the tile are, and which of them there are."""
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
        """The softmax over the keys of each query's own group, `[queries, tile_rows]`."""
        shape, column = self._shape, jnp.arange(self._shape.tile_rows)
        if shape.groups > 1:
            row = first + jnp.arange(shape.queries)
            seen = row[:, None] // shape.length == column[None] // shape.length
        else:
            seen = column[None] < shape.length
        # exp2 is what the hardware has
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
