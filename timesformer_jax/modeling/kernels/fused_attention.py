"""Fused attention within groups of tokens, a GPU kernel written in Pallas for Triton.

The kernel reads the packed product `[q | k | v]` of the patches as it lies in memory, `[B, X, L, Y, 3, h, d]`: the L tokens of
a group have a stride of Y. In temporal attention, L counts frames and Y locations; in spatial attention, X counts frames and L
locations. So nothing is transposed, and the CLS, one more token of every group, is never concatenated to the patches.

A group's matrix of weights is never written to memory. Each program processes one head of a tile: either P neighbouring groups
together, separated by a block-diagonal mask, or a single group whose tokens are cut into pieces, since sizes in Triton are
powers of two (197 <= 128 + 64 + 16). The pieces stay in registers and shared memory, and are few enough that no running maximum
is needed:

    S = (Q + b_q) K^T / sqrt(d);   P = softmax(S);   O = P V + b_v

The bias of the keys would add the same to all scores of a query, which the softmax ignores. That of the values is added to the
output, since each row of P sums to 1. The backward pass recomputes P, a few queries at a time, and returns the full gradient of
the packed product:

    dV = P^T dO;   dP = dO (V + b_v)^T;   dS = P * (dP - rowsum(P * dP)) / sqrt(d);   dQ = dS K;   dK = dS^T (Q + b_q)

The gradients of all the keys of a long group exceed the registers. Its pieces are therefore processed in two passes over the
queries, which need the logarithm of each softmax's denominator from the forward pass, and rowsum(dO * O) = rowsum(P * dP).

Sums and the softmax are computed in float32; operands of matrix products have the input's dtype. The backward pass is that of
FlashAttention (Dao et al. 2022, algorithm 4); packing several groups into a tile is our own.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from timesformer_jax._typing import Array, Float
from timesformer_jax.modeling.kernels.partitioned import partitioned
from timesformer_jax.modeling.kernels.tiles import SMALLEST, Piece, Shape, shape_of


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def fused_attention(
    qkv: Float[Array, "B X L Y 3 h d"],
    bias: Float[Array, "3 h d"],
    cls: Float[Array, "B F 3 h d"] | None = None,
    interpret: bool = False,
) -> tuple[Float[Array, "B X L Y h d"], Float[Array, "B X Y h d"] | None]:
    """Apply self-attention within each group.

    Args:
        qkv: Unscaled queries, keys and values, without bias, of X * Y groups of L patches, in float16 or bfloat16. A group has
            at most `LONGEST` tokens.
        bias: Bias to be added to `qkv` and `cls`.
        cls: Unscaled query, key and value, without bias, of the CLS that joins every group of a clip (F = 1), or the groups of
            one x (F = X); None for none.
        interpret: Run as ordinary JAX operations on any device, which is slow and meant for tests.

    Returns:
        For each patch, its group's values as mixed by each head; and the same for each group's copy of the CLS.
    """
    mixed, cls_mixed, _ = _forward_pass(qkv, bias, cls, interpret)
    return mixed, cls_mixed


def _forward_pass(qkv: Array, bias: Array, cls: Array | None, interpret: bool) -> tuple[Array, Any, Any]:
    """Return the mixed values of patches and CLS, and the logarithms of the denominators (None if a tile holds a group)."""
    results = _kernel("forward", shape_of(qkv, cls), interpret)(*(x for x in (qkv, bias, cls) if x is not None))
    mixed, *rest = results
    cls_mixed = None if cls is None else rest.pop(0)
    return mixed, cls_mixed, rest.pop() if rest else None


def _forward(qkv: Array, bias: Array, cls: Array | None, interpret: bool) -> tuple[Any, Any]:
    mixed, cls_mixed, log_sums = _forward_pass(qkv, bias, cls, interpret)
    return (mixed, cls_mixed), (qkv, bias, cls, None if log_sums is None else (mixed, cls_mixed, log_sums))


def _backward(interpret: bool, kept: Any, gradients: tuple[Array, Array | None]) -> tuple[Array, Array, Array | None]:
    qkv, bias, cls, outputs = kept
    given = (qkv, bias, cls, *(outputs or ()), *gradients)
    dqkv, dbias, *rest = _kernel("backward", shape_of(qkv, cls), interpret)(*(x for x in given if x is not None))
    dbias = dbias.sum((0, 1)).astype(bias.dtype)
    if cls is None:
        return dqkv, dbias, None
    (dcls,) = rest
    over = (2,) if cls.shape[1] == qkv.shape[1] else (1, 2)  # the CLS is shared by all groups, or by those of one x
    return dqkv, dbias, dcls.sum(over, dtype=jnp.float32).astype(cls.dtype).reshape(cls.shape)


fused_attention.defvjp(_forward, _backward)


AXES = {
    "qkv": "b x l y t h d",
    "cls": "b f t h d",
    "bias": "t h d",
    "mixed": "b x l y h d",
    "cls_mixed": "b x y h d",
    "log_sums": "b x y h n",
    "gradient": "b x l y h d",
    "cls_gradient": "b x y h d",
    "dqkv": "b x l y t h d",
    "dcls": "b x y t h d",
    "dbias": "b x t h d",
}
"""Maps an array to its axes: clips, the three axes of the patches, CLS tokens, q/k/v, heads, head size, queries."""


CLS_OF = {"qkv": "cls", "mixed": "cls_mixed", "gradient": "cls_gradient", "dqkv": "dcls"}
"""Maps an array of patches to the array of the CLS."""


def _names(direction: str, shape: Shape) -> tuple[list[str], list[str]]:
    """Return the names of a kernel's arguments and results."""
    arguments, outputs, kept = ["qkv", "bias", "cls"], ["mixed", "cls_mixed"], ["log_sums"]
    taken, given = {
        "forward": (arguments, [*outputs, *(kept if shape.is_long else [])]),
        "backward": (
            [*arguments, *([*outputs, *kept] if shape.is_long else []), "gradient", "cls_gradient"],
            ["dqkv", "dbias", "dcls"],
        ),
    }[direction]
    absent = () if shape.has_cls else CLS_OF.values()
    return [name for name in taken if name not in absent], [name for name in given if name not in absent]


@functools.cache
def _kernel(direction: str, shape: Shape, interpret: bool) -> Any:
    """Return one pass's kernel as a function of arrays."""
    axes_of = {**AXES, "cls": AXES["cls"].replace("f", "x")} if shape.cls_per_x else AXES
    taken, given = (tuple((name, axes_of[name]) for name in names) for names in _names(direction, shape))
    return partitioned(functools.partial(_call, direction, shape, interpret), taken, given, summed=("dbias",))


def _call(direction: str, shape: Shape, interpret: bool, *arrays: Array) -> tuple[Array, ...]:
    """Call the kernel of one pass, with all heads of a token side by side."""
    from jax.experimental import pallas as pl
    from jax.experimental.pallas import triton

    taken, given = _names(direction, shape)
    clips, x, length, strides, _, heads, head_dim = arrays[0].shape
    shape = shape._replace(strides=strides)  # of this device
    dim, groups, tiles = heads * head_dim, clips * x, -(-strides // shape.together)
    queries = -(-shape.tokens // SMALLEST) * SMALLEST
    flat = {
        **dict.fromkeys(("qkv", "dqkv"), (groups, length, strides, 3 * dim)),
        **dict.fromkeys(("mixed", "gradient"), (groups, length, strides, dim)),
        "bias": (3 * dim,),
        "cls": (-1, 3 * dim),
        **dict.fromkeys(("cls_mixed", "cls_gradient"), (groups, strides, dim)),
        "dcls": (groups, strides, 3 * dim),
        "log_sums": (groups, strides, heads, queries),
        "dbias": (groups, tiles, 3 * dim),
    }
    kernel = {"forward": _forward_kernel, "backward": _backward_kernel}[direction]
    floats = ("log_sums", "dbias")
    results = pl.pallas_call(
        functools.partial(kernel, shape, 1 if shape.cls_per_x else x, interpret),
        grid=(groups, tiles, heads),
        out_shape=tuple(jax.ShapeDtypeStruct(flat[name], jnp.float32 if name in floats else arrays[0].dtype) for name in given),
        compiler_params=triton.CompilerParams(num_warps=shape.tile.warps, num_stages=1),
        interpret=interpret,
        name=f"attention_{direction}",
    )(*(array.reshape(flat[name]) for name, array in zip(taken, arrays, strict=True)))
    sizes = {"b": clips, "x": x, "l": length, "y": strides, "t": 3, "h": heads, "d": head_dim, "n": queries}
    results = (part.sum(1) if name == "dbias" else part for name, part in zip(given, results, strict=True))
    return tuple(part.reshape([sizes[axis] for axis in AXES[name].split()]) for name, part in zip(given, results, strict=True))


class _Head:
    """Loads and stores of one head's rows in a tile, and its attention weights.

    A piece is loaded as `[positions x P, head_dim]`, in which the P groups of the tile alternate.

    Args:
        shape: Sizes of the kernel.
        groups_per_cls: Number of x that share a CLS.
        direction: Pass of the kernel.
        refs: Its arguments and results.
    """

    def __init__(self, shape: Shape, groups_per_cls: int, direction: str, refs: Sequence[Any]):
        from jax.experimental import pallas as pl

        taken, given = _names(direction, shape)
        self.refs = dict(zip([*taken, *given], refs, strict=True))
        self._shape, self._dim = shape, self.refs["bias"].shape[0] // 3
        self._group, self._tile, self._head = (pl.program_id(axis) for axis in range(3))
        self._clip = self._group // groups_per_cls

    def columns(self, third: int) -> Any:
        """Return the columns of this head's queries (0), keys (1) or values (2)."""
        from jax.experimental import pallas as pl

        return pl.ds(third * self._dim + self._head * self._shape.head_dim, self._shape.head_dim)

    def load(self, name: str, third: int, piece: Piece) -> Array:
        """Load a piece of the patches in `name`, and the CLS from the array that belongs to it."""
        from jax.experimental.pallas import triton

        index, is_patch, is_cls = self._rows(piece)
        x = triton.load(self.refs[name].at[(*index, self.columns(third))], mask=is_patch, other=0.0)
        if self._may_hold_cls(piece):
            ref, cls_index, inside = self._cls(name, third)
            masked = {} if inside is None else {"mask": inside, "other": 0.0}
            cls = triton.load(ref.at[cls_index], **masked)
            x = jnp.where(is_cls, cls.reshape(1, -1, self._shape.head_dim), x)
        return x.reshape(-1, self._shape.head_dim)

    def bias(self, third: int) -> Array:
        """Return the bias of the queries (0) or the values (2)."""
        from jax.experimental.pallas import triton

        return triton.load(self.refs["bias"].at[self.columns(third)]).astype(jnp.float32)

    def load_biased(self, third: int, piece: Piece) -> Array:
        """Load a piece of the queries or values, with their bias."""
        x = self.load("qkv", third, piece)
        return (x.astype(jnp.float32) + self.bias(third)[None]).astype(x.dtype)

    def store(self, name: str, third: int, piece: Piece, x: Array) -> None:
        """Store what `load` loads."""
        from jax.experimental.pallas import triton

        index, is_patch, is_cls = self._rows(piece)
        ref = self.refs[name]
        x = x.reshape(piece[1], self._shape.together, self._shape.head_dim)
        triton.store(ref.at[(*index, self.columns(third))], x.astype(ref.dtype), mask=is_patch)
        if self._may_hold_cls(piece):
            ref, cls_index, inside = self._cls(name, third)
            first, count = piece
            here = inside & (first <= self._shape.length) & (self._shape.length < first + count)
            cls = jnp.where(is_cls, x.astype(jnp.float32), 0.0).sum(axis=0)
            triton.store(ref.at[cls_index], cls.astype(ref.dtype), mask=here)

    def _rows(self, piece: Piece) -> tuple[Any, Array, Array]:
        """Return the index of a piece's patches, and which of the rows `[positions, P, 1]` are patches, and the CLS."""
        from jax.experimental import pallas as pl

        shape, (first, count) = self._shape, piece
        position = (first + jnp.arange(count))[:, None, None]
        # The first position is made dynamic, because Pallas refuses constant slices that exceed the array, masked or not.
        index = self._group, pl.ds(first + 0 * self._group, count), self._places()
        inside = self._inside()[None]
        return index, (position < shape.length) & inside, (position == shape.length) & inside

    def _places(self) -> Any:
        from jax.experimental import pallas as pl

        return pl.ds(self._tile * self._shape.together, self._shape.together)

    def _inside(self) -> Array:
        """Return which groups of the tile exist, `[P, 1]`."""
        return (self._tile * self._shape.together + jnp.arange(self._shape.together) < self._shape.strides)[:, None]

    def _may_hold_cls(self, piece: Piece) -> bool:
        first, count = piece
        return self._shape.has_cls and not (isinstance(first, int) and first + count <= self._shape.length)

    def _cls(self, name: str, third: int) -> tuple[Any, Any, Any]:
        """Return the array that holds the CLS of `name`, the index of the tile's rows, and which of them exist."""
        ref = self.refs[CLS_OF[name]]
        if name == "qkv":  # one row for all groups
            return ref, (self._clip, self.columns(third)), None
        return ref, (self._group, self._places(), self.columns(third)), self._inside()

    def log_sums(self, piece: Piece) -> Any:
        """Return the part of the array of logarithms that belongs to a piece of queries."""
        from jax.experimental import pallas as pl

        first, count = piece
        return self.refs["log_sums"].at[self._group, self._tile, self._head, pl.ds(first + 0 * self._group, count)]

    def exist(self, queries: Piece) -> Array:
        """Return which queries are tokens, not padding."""
        first, count = queries
        return first + jnp.arange(count) < self._shape.tokens

    def scores(self, query: Array, key: Array, queries: Piece, keys: Piece) -> Array:
        """Compute scores for base 2, since the hardware computes exp2; other groups and padding get a score of -1e30."""
        shape, (first, count) = self._shape, keys
        scores = _dot(query, key.T) * (math.log2(math.e) * shape.head_dim**-0.5)
        column = jnp.arange(count * shape.together)
        seen = (first + column // shape.together < shape.tokens)[None]
        if shape.together > 1:
            row = jnp.arange(queries[1] * shape.together)
            seen = seen & (row[:, None] % shape.together == column[None] % shape.together)
        elif first + count <= shape.tokens:
            return scores
        return jnp.where(seen, scores, -1e30)


def _dot(a: Array, b: Array) -> Array:
    from jax.experimental.pallas import triton

    return triton.dot(a, b)


def _softmax(scores: Sequence[Array]) -> tuple[list[Array], Array, Array]:
    """Return the exponentials of scores that are cut into pieces, their sums, and the logarithms of the denominators."""
    highest = functools.reduce(jnp.maximum, (part.max(axis=1) for part in scores))
    exponentials = [jnp.exp2(part - highest[:, None]) for part in scores]
    sums = functools.reduce(jnp.add, (part.sum(axis=1) for part in exponentials))
    return exponentials, sums, highest + jnp.log2(sums)


def _forward_kernel(shape: Shape, groups_per_cls: int, interpret: bool, *refs: Any) -> None:
    from jax.experimental.pallas import triton

    head = _Head(shape, groups_per_cls, "forward", refs)
    keys, values = ([head.load("qkv", third, piece) for piece in shape.keys] for third in (1, 2))
    value_bias = head.bias(2)

    def some_queries(queries: Piece) -> None:
        query = head.load_biased(0, queries)
        scores = [head.scores(query, key, queries, piece) for key, piece in zip(keys, shape.keys, strict=True)]
        exponentials, sums, log_sums = _softmax(scores)
        mixed = sum(_dot(part.astype(value.dtype), value) for part, value in zip(exponentials, values, strict=True))
        head.store("mixed", 0, queries, mixed * (1.0 / sums)[:, None] + value_bias[None])
        if shape.is_long:
            triton.store(head.log_sums(queries), log_sums, mask=head.exist(queries))

    if shape.is_long:
        at_once = shape.tile.queries
        jax.lax.fori_loop(0, -(-shape.tokens // at_once), lambda i, _: some_queries((i * at_once, at_once)), None)
    else:
        some_queries(shape.keys[0])


def _backward_kernel(shape: Shape, groups_per_cls: int, interpret: bool, *refs: Any) -> None:
    from jax.experimental import pallas as pl
    from jax.experimental.pallas import triton

    head = _Head(shape, groups_per_cls, "backward", refs)
    bias_sums = [jnp.zeros((shape.head_dim,), jnp.float32)] * 3
    for number, pieces in enumerate(shape.passes):
        if number and not interpret:
            triton.debug_barrier()  # the first pass's gradients of the queries are read by other threads
        sums = _backward_pass(shape, head, pieces, is_first=not number, is_last=number == len(shape.passes) - 1)
        for third, parts in enumerate(sums):
            bias_sums[third] += functools.reduce(jnp.add, (part.sum(axis=0) for part in parts))
            if third:
                for piece, part in zip(pieces, parts, strict=True):
                    head.store("dqkv", third, piece, part)
    for third, bias_sum in enumerate(bias_sums):
        triton.store(head.refs["dbias"].at[pl.program_id(0), pl.program_id(1), head.columns(third)], bias_sum)


def _backward_pass(
    shape: Shape, head: _Head, pieces: tuple[Piece, ...], *, is_first: bool, is_last: bool
) -> tuple[Sequence[Array], ...]:
    """Add the gradients of queries due to some keys; return their sum, and the gradients of these keys and values."""
    from jax.experimental.pallas import triton

    keys, values = [head.load("qkv", 1, piece) for piece in pieces], [head.load_biased(2, piece) for piece in pieces]

    def some_queries(queries: Piece, totals: tuple[Any, ...]) -> tuple[Any, ...]:
        dqueries, dkeys, dvalues = totals
        query, gradient = head.load_biased(0, queries), head.load("gradient", 0, queries)
        scores = [head.scores(query, key, queries, piece) for key, piece in zip(keys, pieces, strict=True)]
        dweights = [_dot(gradient, value.T) for value in values]
        if shape.is_long:
            log_sums = triton.load(head.log_sums(queries), mask=head.exist(queries), other=1e30)
            weights = [jnp.exp2(part - log_sums[:, None]) for part in scores]
            mixed = head.load("mixed", 0, queries).astype(jnp.float32)
            row_sums = (mixed * gradient.astype(jnp.float32)).sum(axis=1)
        else:
            (exponentials,), sums, _ = _softmax(scores)
            weights = [exponentials * (1.0 / sums)[:, None]]
            row_sums = (weights[0] * dweights[0]).sum(axis=1)
        dscores = [
            (weight * (dweight - row_sums[:, None]) * shape.head_dim**-0.5).astype(query.dtype)
            for weight, dweight in zip(weights, dweights, strict=True)
        ]
        dquery = functools.reduce(jnp.add, (_dot(dscore, key) for dscore, key in zip(dscores, keys, strict=True)))
        if not is_first:
            dquery += head.load("dqkv", 0, queries).astype(jnp.float32)
        head.store("dqkv", 0, queries, dquery)
        return (
            dqueries + dquery.sum(axis=0) if is_last else dqueries,
            tuple(total + _dot(dscore.T, query) for total, dscore in zip(dkeys, dscores, strict=True)),
            tuple(
                total + _dot(weight.astype(gradient.dtype).T, gradient) for total, weight in zip(dvalues, weights, strict=True)
            ),
        )

    zeros = tuple(jnp.zeros((count * shape.together, shape.head_dim), jnp.float32) for _, count in pieces)
    totals = jnp.zeros((shape.head_dim,), jnp.float32), zeros, zeros
    if shape.is_long:
        at_once = shape.tile.backward_queries

        def step(i: Any, totals: tuple[Any, ...]) -> tuple[Any, ...]:
            return some_queries((i * at_once, at_once), totals)

        totals = jax.lax.fori_loop(0, -(-shape.tokens // at_once), step, totals)
    else:
        totals = some_queries(pieces[0], totals)
    dqueries, dkeys, dvalues = totals
    return [dqueries[None]], dkeys, dvalues
