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
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from timesformer_jax._typing import Array
from timesformer_jax.modeling.kernels.tpu_tiles import LANES, MOST_STRIDED, PART, SUBLANES, Groups, Inputs, Tile, rows_of_lanes


def call(direction: str, interpret: bool, *arrays: Array) -> list[Array]:
    """Call the kernel of one pass on the arrays of one device.

    Args:
        direction: "forward" or "backward".
        interpret: Run as ordinary JAX operations on any device, which is slow and meant for tests.
        *arrays: The packed product `[B, X, L, Y, 3, h, d]` and the bias `[3, h, d]`; with a CLS, its packed product
            `[B, 1 or X, 3, h, d]`; in the backward pass, the gradients of the results of the forward pass.

    Returns:
        In the forward pass, the mixed values `[B, X, L, Y, h, d]` and those of the CLS `[B, X, Y, h, d]`. In the backward pass,
        the gradients of the packed product, of the bias `[B, 1, 1, 3, h, d]` and of the CLS `[B, X, 1, 3, h, d]`, in float32.
    """
    qkv, bias, *rest = arrays
    batch, x, length, y, _, heads, head_dim = qkv.shape
    has_cls = len(rest) == (1 if direction == "forward" else 3)
    tiling = {"has_cls": has_cls, "heads": LANES // head_dim, "dim": heads * head_dim}
    if y > 1 and length > MOST_STRIDED:  # bring the tokens of a group together
        cls, gradients = rest[:has_cls], rest[has_cls:]
        together = [z.swapaxes(2, 3).reshape(batch, x * y, length, 1, *z.shape[4:]) for z in (qkv, *gradients[:1])]
        of_cls = [z.reshape(batch, x * y, 1, *z.shape[3:]) for z in gradients[1:]]
        results = call(direction, interpret, together[0], bias, *cls, *together[1:], *of_cls)
        results[0] = results[0].reshape(batch, x, y, length, *results[0].shape[4:]).swapaxes(2, 3)
        if has_cls:
            apart = results[-1].reshape(batch, x, y, *results[-1].shape[3:])
            results[-1] = apart if direction == "forward" else apart.sum(2, keepdims=True)
        return results
    if y > 1:
        places = max(LANES // length // SUBLANES, 1) * SUBLANES
        groups = Groups(batch * x, length, places, y, **tiling)
    else:
        fitting = [n for n in range(1, max(LANES // length, 1) + 1) if x % n == 0]
        places = 1 if has_cls else max(fitting)
        groups = Groups(batch * x // places, length, places, 1, **tiling)
    return _launch(direction, interpret, groups, *arrays)


def _launch(direction: str, interpret: bool, groups: Groups, qkv: Array, bias: Array, *rest: Array) -> list[Array]:
    from jax.experimental import pallas as pl
    from jax.experimental.pallas import tpu as pltpu

    batch, x = qkv.shape[:2]
    forward, strided, dim, width = direction == "forward", groups.stride > 1, groups.dim, groups.width
    # A program of a long group computes the gradients of q, k and v at once, but writes them one after the other.
    writes = 3 if groups.is_long and not forward else 1
    grid = (groups.count, groups.tiles, dim // width, writes)
    written = width if forward or groups.is_long else 3 * dim

    # Index maps take the four indices of the grid: tile, tile along the stride, rows of lanes, write.
    def tokens(width: int, lanes: Any) -> Any:
        if strided:
            return pl.BlockSpec((None, groups.length, groups.places, width), lambda i, j, p, t: (i, 0, j, lanes(p, t)))
        return pl.BlockSpec((None, groups.patches, width), lambda i, j, p, t: (i, 0, lanes(p, t)))

    def of_cls(width: int, lanes: Any) -> Any:
        rows = groups.places if strided else 1
        return pl.BlockSpec((None, rows, width), lambda i, j, p, t: (i, j, lanes(p, t)))

    def sums(width: int, lanes: Any) -> Any:
        return pl.BlockSpec((None, 1, width), lambda i, j, p, t: (i * groups.tiles + j, 0, lanes(p, t)))

    def third(which: int) -> Any:
        return lambda p, t: which * (dim // width) + p

    def vector(rows_per_tile: Any, which: int) -> Any:
        lanes = third(which)
        return pl.BlockSpec((None, 1, width), lambda i, j, p, t: (rows_per_tile(i), 0, lanes(p, t)))

    def flat(z: Array) -> Array:
        return z.reshape(groups.count, -1, *((groups.stride,) if strided else ()), math.prod(z.shape[4:]))

    cls, gradients = rest[: groups.has_cls], rest[groups.has_cls :]
    packed, thirds = flat(qkv), range(3)
    given = [(packed, tokens(width, third(which))) for which in thirds]
    # Blocks of a single row can be read in float32 only.
    given += [(bias.reshape(1, 1, 3 * dim).astype(jnp.float32), vector(lambda i: 0, which)) for which in thirds]
    for z in cls:
        tile_to_row = functools.partial(lambda per, i: jax.lax.div(i, per), x // z.shape[1])
        given += [(z.reshape(-1, 1, 3 * dim).astype(jnp.float32), vector(tile_to_row, which)) for which in thirds]
    if not forward:
        given.append((flat(gradients[0]), tokens(width, third(0))))
    for z in gradients[1:]:
        given.append((z.reshape(groups.count, -1, dim).astype(jnp.float32), of_cls(width, third(0))))

    target = third(0) if forward else (lambda p, t: t * (dim // width) + p if groups.is_long else 0)
    total = dim if forward else 3 * dim
    results = [(jax.ShapeDtypeStruct((*packed.shape[:-1], total), qkv.dtype), tokens(written, target))]
    single = jax.ShapeDtypeStruct((groups.count * groups.tiles, 1, 3 * dim), jnp.float32)
    if forward and groups.has_cls:
        results.append((jax.ShapeDtypeStruct((groups.count, groups.stride, dim), jnp.float32), of_cls(written, target)))
    if not forward:
        results += [(single, sums(written, target))] * (1 + groups.has_cls)
    found: list[Array] = list(
        pl.pallas_call(
            functools.partial(_forward_kernel if forward else _backward_kernel, groups),
            grid=grid,
            in_specs=[spec for _, spec in given],
            out_specs=[spec for _, spec in results],
            out_shape=[shape for shape, _ in results],
            scratch_shapes=_scratch(forward, groups, qkv.dtype),
            compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "parallel", "parallel", "arbitrary")),
            cost_estimate=_cost(forward, groups, [packed, *gradients, *(shape for shape, _ in results)]),
            interpret=interpret,
            name=f"attention_{direction}",
        )(*(array for array, _ in given))
    )
    parts = qkv.shape[4:]
    found[0] = found[0].reshape(*qkv.shape[:4], *(parts[1:] if forward else parts))
    if forward and groups.has_cls:
        found[1] = found[1].reshape(batch, x, qkv.shape[3], *parts[1:]).astype(qkv.dtype)
    if not forward:
        found[1] = found[1].reshape(batch, -1, 3 * dim).sum(1).reshape(batch, 1, 1, *parts)
    if not forward and groups.has_cls:
        found[2] = found[2].reshape(batch, x, groups.tiles, 3 * dim).sum(2).reshape(batch, x, 1, *parts)
    return found


def _scratch(forward: bool, groups: Groups, dtype: Any) -> list[Any]:
    """Return the fast memory of a long group: the queries, and mixed values or gradients as in `_backward_kernel`."""
    from jax.experimental.pallas import tpu as pltpu

    if not groups.is_long:
        return []
    rows = groups.queries, LANES
    sums = [pltpu.VMEM(rows if forward else (3, *rows), jnp.float32)]
    return [pltpu.VMEM(rows, dtype) for _ in range(1 if forward else 2)] + sums


def _cost(forward: bool, groups: Groups, arrays: Any) -> Any:
    """Count what the kernel computes, including the lanes and groups that masks set to zero."""
    from jax.experimental import pallas as pl

    rows = groups.patches + groups.copies
    weights = groups.count * groups.tiles * rows * rows * groups.heads * (groups.dim // LANES)
    return pl.CostEstimate(
        flops=2 * (2 if forward else 5) * weights * LANES,
        transcendentals=weights,
        bytes_accessed=sum(math.prod(x.shape) * x.dtype.itemsize for x in arrays),
    )


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


def _forward_kernel(groups: Groups, *refs: Any) -> None:
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


def _backward_kernel(groups: Groups, *refs: Any) -> None:
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
