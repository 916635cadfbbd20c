"""Both passes of attention within groups of tokens on one TPU, written in Pallas.

The kernels read the packed product `[q | k | v]` of the patches as it lies in memory, `[B, X, L, Y, 3 D]`: the L tokens of a
group have a stride of Y. A group's matrix of weights stays in fast memory, and is computed again in the backward pass:

    S = (Q + b_q) (K + b_k)^T / sqrt(d);   P = softmax(S);   O = P (V + b_v)
    dV = P^T dO;   dP = dO V^T;   dS = P * (dP - rowsum(P * dP));   dQ = dS K / sqrt(d);   dK = dS^T Q / sqrt(d)

A TPU multiplies matrices of 128 x 128 and stores arrays in rows of 128 lanes. So that neither is left half empty:

- Heads of 64 are processed in pairs that share 128 lanes. Instead of cutting out 64 lanes, a head's products set the lanes of
  the other head to zero in one operand.
- With a stride (temporal attention: L frames of Y locations), a tile holds 128 / L neighbouring groups, separated by a
  block-diagonal mask. Loading it needs no transposition. Groups of more than `MOST_STRIDED` tokens are brought together first.
- Without a stride (spatial attention: X frames of L patches), a tile is a whole group. Groups of more than `WHOLE` tokens are
  processed one row of lanes at a time, and their queries in parts of `PART`, to fit into the fast memory of every TPU.
- The CLS is read apart and becomes the last token of each group in fast memory.

The backward pass returns the full gradient of the packed product, and the gradients of the bias and of the CLS summed over each
tile. Sums and the softmax are computed in float32; operands of matrix products have the input's dtype. The backward pass is
that of FlashAttention (Dao et al. 2022, algorithm 4) with a single block of keys; packing groups and heads into tiles is our
own.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from timesformer_jax._typing import Array
from timesformer_jax.modeling.kernels.tpu_tiles import LANES, PART, Groups, Inputs, Tile, rows_of_lanes


def _only(lanes: Array | None, x: Array) -> Array:
    return x if lanes is None else jnp.where(lanes, x, jnp.zeros_like(x))


def _dot(a: Array, b: Array, over: tuple[int, int]) -> Array:
    """Multiply matrices over one axis of each, with sums in float32."""
    precision = jax.lax.Precision.HIGHEST if a.dtype == jnp.float32 else None
    return jax.lax.dot_general(a, b, ((over[:1], over[1:]), ((), ())), precision, jnp.float32)


def _softmax(query: Array, key: Array, seen: Array | None) -> tuple[Array, Array]:
    """Return the softmax as exponentials and the factor of each row."""
    scores = _dot(query, key, (1, 1))
    if seen is not None:
        scores = jnp.where(seen, scores, jnp.finfo(jnp.float32).min)
    exponentials = jnp.exp(scores - scores.max(axis=-1, keepdims=True))
    return exponentials, 1.0 / exponentials.sum(axis=-1, keepdims=True)


def _each_part(groups: Groups, process: Callable[[Any], None]) -> None:
    """Call `process` with the rows of each part of a long group's queries."""
    from jax.experimental import pallas as pl

    def step(i: Array, _: None) -> None:
        process(pl.ds(pl.multiple_of(i * PART, PART), PART))

    jax.lax.fori_loop(0, groups.queries // PART, step, None)


def forward_kernel(groups: Groups, *refs: Any) -> None:
    """Mix the values of one tile, for the heads of one row of lanes; `refs` are as in `tpu_launch`."""
    inputs = Inputs(groups, refs)
    mixed_ref, *rest = inputs.rest
    cls_mixed_refs, scratch = rest[: groups.has_cls], rest[groups.has_cls :]
    mix_all = functools.partial(_mix_in_parts, *scratch) if scratch else _mix
    for lanes in rows_of_lanes(groups):
        mixed = mix_all(inputs.tile, *inputs.read(lanes))
        inputs.tile.write(mixed_ref, lanes, mixed)
        for ref in cls_mixed_refs:
            ref[:, lanes] = inputs.tile.cls_rows(mixed)


def _mix(tile: Tile, query: Array, key: Array, value: Array) -> Array:
    """Return the values that some queries mix, with the heads of a row of lanes side by side."""
    mixed: Any = 0.0
    for head in tile.heads:
        exponentials, factor = _softmax(_only(head, query), key, tile.seen)
        mixed += _dot(exponentials.astype(value.dtype), _only(head, value), (1, 0)) * factor
    return mixed


def _mix_in_parts(query_ref: Any, mixed_ref: Any, tile: Tile, query: Array, key: Array, value: Array) -> Array:
    query_ref[...] = query

    def process(part: Any) -> None:
        mixed_ref[part] = _mix(tile, query_ref[part], key, value)

    _each_part(tile.groups, process)
    return mixed_ref[...]


def backward_kernel(groups: Groups, *refs: Any) -> None:
    """Compute the gradients of one tile, for the heads of one row of lanes; `refs` are as in `tpu_launch`."""
    from jax.experimental import pallas as pl

    inputs = Inputs(groups, refs)
    tile, (gradient_ref, *rest) = inputs.tile, inputs.rest
    cls_gradient_ref, *rest = rest if groups.has_cls else (None, *rest)
    dqkv_ref, dbias_ref, *rest = rest
    dcls_refs, scratch = rest[: groups.has_cls], rest[groups.has_cls :]

    def read(lanes: slice) -> list[Array]:
        return [*inputs.read(lanes), tile.read(gradient_ref, cls_gradient_ref, lanes, queries=True)]

    def write(lanes: slice, total: Array) -> None:
        tile.write(dqkv_ref, lanes, total)
        dbias_ref[:, lanes] = total.sum(axis=0, keepdims=True)
        for ref in dcls_refs:
            ref[:, lanes] = tile.cls_rows(total).sum(axis=0, keepdims=True)

    if not scratch:
        for lanes in rows_of_lanes(groups):
            for third, total in enumerate(_gradients(tile, *read(lanes))):
                write(slice(third * groups.dim + lanes.start, third * groups.dim + lanes.stop), total)
        return
    query_ref, own_gradient_ref, totals_ref = scratch
    turn, rows = pl.program_id(3), groups.patches + groups.copies

    @pl.when(turn == 0)
    def _() -> None:
        query_ref[...], key, value, own_gradient_ref[...] = read(slice(0, LANES))
        totals_ref[...] = jnp.zeros_like(totals_ref)

        def process(part: Any) -> None:
            totals_ref[0, part], dkey, dvalue = _gradients(tile, query_ref[part], key, value, own_gradient_ref[part])
            totals_ref[1, :rows] += dkey
            totals_ref[2, :rows] += dvalue

        _each_part(groups, process)

    write(slice(0, LANES), totals_ref[turn])


def _gradients(tile: Tile, query: Array, key: Array, value: Array, gradient: Array) -> tuple[Array, Array, Array]:
    """Return the gradients of some queries, and what they contribute to those of the keys and values."""
    dquery: Any = 0.0
    dkey: Any = 0.0
    dvalue: Any = 0.0
    for head in tile.heads:
        own_query, own_gradient = _only(head, query), _only(head, gradient)
        exponentials, factor = _softmax(own_query, key, tile.seen)
        weights = exponentials * factor
        dweights = _dot(own_gradient, value, (1, 1))
        dscores = (weights * (dweights - (weights * dweights).sum(axis=-1, keepdims=True))).astype(key.dtype)
        dquery += _dot(dscores, _only(head, key), (1, 0)) * tile.groups.scale
        dkey += _dot(dscores, own_query, (0, 0))
        dvalue += _dot(weights.astype(key.dtype), own_gradient, (0, 0))
    return dquery, dkey, dvalue
