"""Fused attention within groups of tokens, TPU kernels written in Pallas.

The kernels read the packed product `[q | k | v]` of the patches as it lies in memory, `[B, X, L, Y, 3 D]`: the L tokens of a
group have a stride of Y. A group's matrix of weights stays in fast memory, and is computed again in the backward pass:

    S = (Q + b_q) (K + b_k)^T / sqrt(d);   P = softmax(S);   O = P (V + b_v)
    dV = P^T dO;   dP = dO V^T;   dS = P * (dP - rowsum(P * dP));   dQ = dS K / sqrt(d);   dK = dS^T Q / sqrt(d)

A TPU multiplies matrices of 128 x 128 and stores arrays in rows of 128 lanes. So that neither is left half empty:

- Heads of 64 are processed in pairs that share 128 lanes. Instead of cutting out 64 lanes, a head's products set the lanes of
  the other head to zero in one operand.
- With a stride (temporal attention: L frames of Y locations), a tile holds 128 / L neighbouring groups, separated by a
  block-diagonal mask. Loading it needs no transposition. Groups of more than `MOST_STRIDED` tokens are brought together first.
- Without a stride (spatial attention: X frames of L patches), a tile is a whole group. The CLS is read apart and becomes the
  group's last token in fast memory.

The backward pass returns the full gradient of the packed product, and the bias's gradient summed over each tile. Sums and the
softmax are computed in float32; operands of matrix products have the input's dtype. The backward pass is that of FlashAttention
(Dao et al. 2022, algorithm 4) with a single block of keys; packing groups and heads into tiles is our own.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax._src import dispatch
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir
from jax.sharding import NamedSharding

from timesformer_jax._typing import Array, Float
from timesformer_jax.modeling.per_device import Placement, current_placement, sharding_of_axes

LANES = 128
"""Length of a row of memory, and side of the matrices that a TPU multiplies."""
SUBLANES = 8
"""Number of rows in a tile of memory."""
MOST_STRIDED = LANES // SUBLANES
"""Maximum number of tokens of a group that is read with a stride."""
LONGEST = 256
"""Maximum number of tokens of a group, including the CLS: its products must fit into the fast memory of every TPU."""


def fits(strides: tuple[int, int, int], heads: int, head_dim: int, has_cls: bool) -> bool:
    """Return True if the kernels support these groups (X, L, Y) and heads."""
    _, length, stride = strides
    if length + has_cls > LONGEST or LANES % head_dim or head_dim < 32 or heads * head_dim % LANES:
        return False
    return stride == 1 or (not has_cls and stride >= SUBLANES)


def tpu_attention(
    qkv: Float[Array, "B X L Y 3 h d"], bias: Float[Array, "3 h d"], cls: Float[Array, "B F 3 h d"] | None = None
) -> tuple[Float[Array, "B X L Y h d"], Float[Array, "B X 1 h d"] | None]:
    """Apply self-attention within each group.

    On several devices, each computes its own clips, groups and heads if the model is traced within `placed_on` and a device's
    heads fill rows of lanes; otherwise, the matrices of weights are written to memory. On other hardware the kernels are
    interpreted, for tests.

    Args:
        qkv: Unscaled queries, keys and values, without bias, of X * Y groups of L patches that satisfy `fits`.
        bias: Bias to be added to `qkv` and `cls`.
        cls: Unscaled query, key and value, without bias, of the CLS that joins every group of a clip (F = 1), or the group of
            one x (F = X); None for none.

    Returns:
        For each patch, its group's values as mixed by each head; and the same for each group's copy of the CLS.
    """
    return _attend(current_placement(), qkv, bias, cls)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(placement: Placement | None, qkv: Array, bias: Array, cls: Array | None) -> tuple[Array, Array | None]:
    return _forward(placement, qkv, bias, cls)[0]


def _forward(placement: Placement | None, qkv: Array, bias: Array, cls: Array | None) -> tuple[Any, Any]:
    mixed, *rest = _bind("forward", placement, qkv, bias, cls)
    return (mixed, rest[0] if rest else None), (qkv, bias, cls)


def _backward(
    placement: Placement | None, kept: Any, gradients: tuple[Array, Array | None]
) -> tuple[Array, Array, Array | None]:
    qkv, bias, cls = kept
    dqkv, dbias, *rest = _bind("backward", placement, qkv, bias, cls, *gradients)
    dbias = dbias.sum((0, 1, 2)).astype(bias.dtype)
    if cls is None:
        return dqkv, dbias, None
    dcls = rest[0]  # [B, X, 3, h, d]
    return dqkv, dbias, (dcls if cls.shape[1] == dcls.shape[1] else dcls.sum(1, keepdims=True)).astype(cls.dtype)


_attend.defvjp(_forward, _backward)


AXES = {
    "qkv": ("clips", "frames", None, "places", None, "heads", None),
    "bias": (None, "heads", None),
    "cls": ("clips", "frames", None, "heads", None),
    "mixed": ("clips", "frames", None, "places", "heads", None),
    "cls_mixed": ("clips", "frames", None, "heads", None),
    "dbias": ("clips", "frames", "places", None, "heads", None),
}
"""Maps an array to the meaning of its axes. Groups without a stride are sharded by frame, others by location."""
TAKEN = {"forward": ("qkv", "bias", "cls"), "backward": ("qkv", "bias", "cls", "mixed", "cls_mixed")}
GIVEN = {"forward": ("mixed", "cls_mixed"), "backward": ("qkv", "dbias", "cls")}


def _bind(direction: str, placement: Placement | None, *arrays: Array | None) -> list[Array]:
    """Apply the kernel of one pass. Arrays of the CLS are skipped if there is none."""
    present = [x for x in arrays if x is not None]
    kept = [name for name in AXES if arrays[2] is not None or "cls" not in name]
    taken, given = ([name for name in names[direction] if name in kept] for names in (TAKEN, GIVEN))
    unsharded = "frames" if present[0].shape[3] > 1 else "places"

    def sharding(name: str, shape: tuple[int, ...]) -> NamedSharding | None:
        return sharding_of_axes(placement, shape, tuple(None if axis == unsharded else axis for axis in AXES[name]))

    inputs = tuple(sharding(name, x.shape) for name, x in zip(taken, present, strict=True))
    if inputs[0] is not None and not _whole_rows(inputs[0].shard_shape(present[0].shape)):
        return _attention.bind(*present, direction=direction, inputs=(None,) * len(taken), outputs=(None,) * len(given))
    results = _results(direction, _shards(inputs[0]), present)
    outputs = tuple(sharding(name, x.shape) for name, x in zip(given, results, strict=True))
    return _attention.bind(*present, direction=direction, inputs=inputs, outputs=outputs)


def _whole_rows(shape: tuple[int, ...]) -> bool:
    """Return True if the heads of a device fill rows of lanes."""
    return shape[-2] * shape[-1] % LANES == 0


def _has_cls(direction: str, arrays: Any) -> bool:
    """Return True if the arguments of a pass include the CLS."""
    return len(arrays) == len(TAKEN[direction])


def _shards(sharding: NamedSharding | None) -> tuple[int, int]:
    """Return the number of shards along the axes X and Y of a packed product."""
    if sharding is None:
        return 1, 1
    names = [jax.tree.leaves(axes) for axes in (*sharding.spec, None, None, None, None)]
    x, y = (math.prod(sharding.mesh.shape[name] for name in names[axis]) for axis in (1, 3))
    return x, y


def _results(direction: str, shards: tuple[int, int], arrays: Any) -> list[jax.ShapeDtypeStruct]:
    """Return the shapes and dtypes of the results of one pass. The bias's gradient has an entry per clip and shard."""
    qkv, bias, *_ = arrays
    batch, x, *_, heads, head_dim = qkv.shape
    results = {
        "forward": [((*qkv.shape[:4], heads, head_dim), qkv.dtype), ((batch, x, 1, heads, head_dim), qkv.dtype)],
        "backward": [
            (qkv.shape, qkv.dtype),
            ((batch, *shards, *bias.shape), jnp.float32),
            ((batch, x, 3, heads, head_dim), jnp.float32),
        ],
    }[direction]
    has_cls = _has_cls(direction, arrays)
    return [jax.ShapeDtypeStruct(*each) for each in (results if has_cls else results[:-1])]


class _Groups(NamedTuple):
    """Tiling of the groups of one device."""

    count: int
    """Number of tiles along the first axis of the array."""
    length: int
    """Tokens of a group, without the CLS."""
    places: int
    """Groups side by side in a tile."""
    stride: int
    """Number of neighbouring groups Y; 1 if the tokens of a group are neighbours."""
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


def _call(direction: str, interpret: bool, *arrays: Array) -> list[Array]:
    """Call the kernel of one pass on the arrays of one device."""
    qkv, *_ = arrays
    batch, x, length, y, _, heads, head_dim = qkv.shape
    dim = heads * head_dim
    together = y > 1 and length > MOST_STRIDED  # bring the tokens of a group together
    if together:
        turned = [z if z.ndim != qkv.ndim - (i > 1) else z.swapaxes(2, 3) for i, z in enumerate(arrays)]
        flat = [z.reshape(batch, x * y, length, 1, *z.shape[4:]) if i != 1 else z for i, z in enumerate(turned)]
        mixed, *others = _call(direction, interpret, *flat)
        return [mixed.reshape(batch, x, y, length, *mixed.shape[4:]).swapaxes(2, 3), *others]
    if y > 1:
        groups = _Groups(batch * x, length, LANES // length // SUBLANES * SUBLANES, y, LANES // head_dim, dim)
    else:
        fitting = [n for n in range(1, max(LANES // length, 1) + 1) if x % n == 0]
        places = 1 if _has_cls(direction, arrays) else max(fitting)
        groups = _Groups(batch * x // places, length, places, 1, LANES // head_dim, dim)
    return _launch(direction, interpret, groups, *arrays)


def _launch(direction: str, interpret: bool, groups: _Groups, *arrays: Array) -> list[Array]:
    from jax.experimental import pallas as pl
    from jax.experimental.pallas import tpu as pltpu

    qkv, bias, *rest = arrays
    batch, x = qkv.shape[:2]
    has_cls, dim = _has_cls(direction, arrays), groups.dim
    strided = groups.stride > 1
    rows = groups.length if strided else groups.length * groups.places

    def tokens(width: int) -> Any:
        if strided:
            return pl.BlockSpec((None, rows, groups.places, width), lambda i, j: (i, 0, j, 0))
        return pl.BlockSpec((None, rows, width), lambda i, j: (i, 0, 0))

    def flat(z: Array, width: int) -> Array:
        return z.reshape(groups.count, rows, *((groups.stride,) if strided else ()), width)

    def row(width: int, per: int = 1) -> Any:
        return pl.BlockSpec((None, 1, width), lambda i, j: (jax.lax.div(i, per), 0, 0))

    cls = rest[:1] if has_cls else []
    gradients = rest[has_cls:]
    given = [flat(qkv, 3 * dim), bias.reshape(1, 3 * dim).astype(jnp.float32)]
    specs = [tokens(3 * dim), pl.BlockSpec((1, 3 * dim), lambda i, j: (0, 0))]
    for z in cls:  # blocks of a single row can be read in float32 only
        given.append(z.reshape(-1, 1, 3 * dim).astype(jnp.float32))
        specs.append(row(3 * dim, x // z.shape[1]))
    for i, z in enumerate(gradients):
        given.append(flat(z, dim) if i == 0 else z.reshape(-1, 1, dim).astype(jnp.float32))
        specs.append(tokens(dim) if i == 0 else row(dim))
    forward, width = direction == "forward", dim if direction == "forward" else 3 * dim
    shape = functools.partial(jax.ShapeDtypeStruct, dtype=jnp.float32)
    results = [jax.ShapeDtypeStruct((*given[0].shape[:-1], width), qkv.dtype)]
    result_specs = [tokens(width)]
    if not forward:
        results.append(shape((groups.count * groups.tiles, 1, 3 * dim)))
        result_specs.append(pl.BlockSpec((None, 1, 3 * dim), lambda i, j: (i * groups.tiles + j, 0, 0)))
    if has_cls:
        results.append(shape((groups.count, 1, width)))
        result_specs.append(row(width))
    found: list[Array] = list(
        pl.pallas_call(
            functools.partial(_forward_kernel if forward else _backward_kernel, groups, has_cls),
            grid=(groups.count, groups.tiles),
            in_specs=specs,
            out_specs=result_specs,
            out_shape=results,
            compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "parallel")),
            cost_estimate=_cost(forward, groups, has_cls, [*given, *results]),
            interpret=interpret,
            name=f"attention_{direction}",
        )(*given)
    )
    found[0] = found[0].reshape(*qkv.shape[:4], *(() if forward else (3,)), *qkv.shape[5:])
    if not forward:
        found[1] = found[1].reshape(batch, -1, 3 * dim).sum(1).reshape(batch, 1, 1, *bias.shape)
    if has_cls:
        found[-1] = found[-1].reshape(batch, x, *((1,) if forward else (3,)), *qkv.shape[5:])
        found[-1] = found[-1].astype(qkv.dtype) if forward else found[-1]
    return found


def _cost(forward: bool, groups: _Groups, has_cls: bool, arrays: Any) -> Any:
    """Count what the kernel computes, including the lanes and groups that masks set to zero."""
    from jax.experimental import pallas as pl

    rows = groups.length * groups.places + has_cls
    weights = groups.count * groups.tiles * rows * rows * groups.heads * (groups.dim // LANES)
    return pl.CostEstimate(
        flops=2 * (2 if forward else 5) * weights * LANES,
        transcendentals=weights,
        bytes_accessed=sum(math.prod(x.shape) * x.dtype.itemsize for x in arrays),
    )


def _lanes(third: int, pair: int, dim: int) -> slice:
    """Return the lanes of q, k or v that one pair of heads shares."""
    return slice(third * dim + pair * LANES, third * dim + (pair + 1) * LANES)


class _Reader:
    """Reads rows `[tokens, LANES]` of a tile, with the CLS last, and writes them."""

    def __init__(self, groups: _Groups, has_cls: bool):
        from jax.experimental import pallas as pl

        self.groups, self.has_cls, self.there = groups, has_cls, None
        if groups.stride % groups.places and groups.stride > 1:  # the last tile has places beyond the array
            place = pl.program_id(1) * groups.places + jax.lax.broadcasted_iota(jnp.int32, (1, groups.places, 1), 1)
            self.there = place < groups.stride

    def read(self, ref: Any, cls_ref: Any, lanes: slice, bias_ref: Any = None, scale: float = 1.0) -> Array:
        """Return rows plus the bias, times `scale`, in the dtype of the patches."""
        x = ref[..., lanes]
        if self.there is not None:
            x = jnp.where(self.there, x, jnp.zeros_like(x))
        dtype, x = x.dtype, x.reshape(-1, LANES)
        if cls_ref is None and bias_ref is None:
            return x
        x = x.astype(jnp.float32)
        if cls_ref is not None:
            x = jnp.concatenate([x, cls_ref[:, lanes]], axis=0)
        if bias_ref is not None:
            x = (x + bias_ref[:, lanes]) * scale
        return x.astype(dtype)

    def queries_keys_values(self, pair: int, qkv_ref: Any, cls_ref: Any, bias_ref: Any) -> list[Array]:
        """Return queries, divided by sqrt(d), keys and values of the heads that share a row of lanes, with their bias."""
        return [
            self.read(qkv_ref, cls_ref, _lanes(third, pair, self.groups.dim), bias_ref, factor)
            for third, factor in enumerate((self.groups.scale, 1.0, 1.0))
        ]

    def write(self, ref: Any, cls_ref: Any, lanes: slice, x: Array) -> None:
        """Write rows in the dtype of the array."""
        patches = x[:-1] if self.has_cls else x
        ref[..., lanes] = patches.astype(ref.dtype).reshape(*ref.shape[:-1], LANES)
        if self.has_cls:
            cls_ref[:, lanes] = x[-1:]

    @property
    def seen(self) -> Array | None:
        """Pairs of tokens in one group; None if a tile is one group."""
        if self.groups.places == 1:
            return None
        rows = self.groups.places * self.groups.length
        query, key = (jax.lax.broadcasted_iota(jnp.int32, shape, axis) for axis, shape in enumerate([(rows, 1), (1, rows)]))
        if self.groups.stride > 1:  # rows count tokens, then places
            return jax.lax.rem(query, self.groups.places) == jax.lax.rem(key, self.groups.places)
        return jax.lax.div(query, self.groups.length) == jax.lax.div(key, self.groups.length)

    @property
    def heads(self) -> list[Array | None]:
        """Lanes of each head in a row."""
        if self.groups.heads == 1:
            return [None]
        lane = jax.lax.broadcasted_iota(jnp.int32, (1, LANES), 1)
        return [jax.lax.div(lane, LANES // self.groups.heads) == head for head in range(self.groups.heads)]


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


def _forward_kernel(groups: _Groups, has_cls: bool, qkv_ref: Any, bias_ref: Any, *refs: Any) -> None:
    cls_ref, mixed_ref, cls_mixed_ref = refs if has_cls else (None, *refs, None)
    tile = _Reader(groups, has_cls)
    for pair in range(groups.dim // LANES):
        query, key, value = tile.queries_keys_values(pair, qkv_ref, cls_ref, bias_ref)
        mixed: Any = 0.0
        for lanes in tile.heads:
            exponentials, factor = _softmax(_only(lanes, query), key, tile.seen)
            mixed += _dot(exponentials.astype(value.dtype), _only(lanes, value), (1, 0)) * factor
        tile.write(mixed_ref, cls_mixed_ref, _lanes(0, pair, groups.dim), mixed)


def _backward_kernel(groups: _Groups, has_cls: bool, qkv_ref: Any, bias_ref: Any, *refs: Any) -> None:
    if has_cls:
        cls_ref, gradient_ref, cls_gradient_ref, dqkv_ref, dbias_ref, dcls_ref = refs
    else:
        (gradient_ref, dqkv_ref, dbias_ref), cls_ref, cls_gradient_ref, dcls_ref = refs, None, None, None
    tile = _Reader(groups, has_cls)
    for pair in range(groups.dim // LANES):
        query, key, value = tile.queries_keys_values(pair, qkv_ref, cls_ref, bias_ref)
        gradient = tile.read(gradient_ref, cls_gradient_ref, _lanes(0, pair, groups.dim))
        sums: list[Any] = [0.0, 0.0, 0.0]
        for lanes in tile.heads:
            own_query, own_gradient = _only(lanes, query), _only(lanes, gradient)
            exponentials, factor = _softmax(own_query, key, tile.seen)
            weights = exponentials * factor
            dweights = _dot(own_gradient, value, (1, 1))
            dscores = (weights * (dweights - (weights * dweights).sum(axis=-1, keepdims=True))).astype(key.dtype)
            sums[0] += _dot(dscores, _only(lanes, key), (1, 0)) * groups.scale
            sums[1] += _dot(dscores, own_query, (0, 0))
            sums[2] += _dot(weights.astype(key.dtype), own_gradient, (0, 0))
        for third, total in enumerate(sums):
            lanes = _lanes(third, pair, groups.dim)
            tile.write(dqkv_ref, dcls_ref, lanes, total)
            dbias_ref[:, lanes] = total.sum(axis=0, keepdims=True)


def _reference(direction: str, *arrays: Array) -> list[Array]:
    """Compute one pass with ordinary operations, which the compiler can partition."""
    qkv, bias, *rest = arrays
    has_cls = _has_cls(direction, arrays)

    def attend(qkv: Array, bias: Array, *cls: Array) -> list[Array]:
        batch, x, length, y, _, heads, head_dim = qkv.shape
        tokens = jnp.moveaxis(qkv, 4, 0).swapaxes(3, 4)  # [3, B, X, Y, L, h, d]
        for one in cls:
            copies = jnp.broadcast_to(one[:, :, None, None], (batch, x, y, 1, 3, heads, head_dim))
            tokens = jnp.concatenate([tokens, jnp.moveaxis(copies, 4, 0)], axis=4)
        query, key, value = tokens + bias.astype(qkv.dtype).reshape(3, 1, 1, 1, 1, heads, head_dim)
        scores = jnp.einsum("bxyqhd,bxykhd->bxyhqk", query * head_dim**-0.5, key, preferred_element_type=jnp.float32)
        weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
        mixed = jnp.einsum("bxyhqk,bxykhd->bxqyhd", weights, value)
        return [mixed[:, :, :length], mixed[:, :, length]] if cls else [mixed]

    if direction == "forward":
        return attend(*arrays)
    cls, gradients = rest[:has_cls], rest[has_cls:]
    _, backward = jax.vjp(attend, qkv, bias, *cls)
    dqkv, dbias, *dcls = backward(list(gradients))
    batch, x = qkv.shape[:2]
    # In the shape of the kernel's results: the sum stands in the first entry.
    first = jnp.zeros((batch, 1, 1, *bias.shape), jnp.float32).at[0].set(dbias.astype(jnp.float32)[None, None])
    whole = [jnp.zeros((batch, x, *one.shape[2:]), jnp.float32).at[:, : one.shape[1]].set(one) for one in dcls]
    return [dqkv, first, *whole]


def _lower(context: mlir.LoweringRuleContext, *arrays: Any, direction: str, inputs: Any, outputs: Any) -> Any:
    module = context.module_context
    sharded = inputs[0] is not None
    alone = getattr(module.axis_context, "num_devices", 1) == 1
    if not sharded and not alone:
        return mlir.lower_fun(functools.partial(_reference, direction))(context, *arrays)
    call = functools.partial(_call, direction, tuple(context.platforms or module.platforms) != ("tpu",))
    if sharded:
        specs, results = ([sharding.spec for sharding in every] for every in (inputs, outputs))
        call = jax.shard_map(call, mesh=inputs[0].mesh, in_specs=tuple(specs), out_specs=results, check_vma=False)
    return mlir.lower_fun(call)(context, *arrays)


def _one_by_one(arrays: Any, axes: Any, **how: Any) -> Any:
    """Apply the kernels to the entries of a mapped axis in turn."""
    size = next(x.shape[axis] for x, axis in zip(arrays, axes, strict=True) if axis is not None)
    mapped = [
        jnp.broadcast_to(x, (size, *x.shape)) if axis is None else jnp.moveaxis(x, axis, 0)
        for x, axis in zip(arrays, axes, strict=True)
    ]
    results = jax.lax.map(lambda xs: _attention.bind(*xs, **how), mapped)
    return results, [0] * len(results)


_attention = Primitive("tpu_attention")
"""One pass; a primitive, so that the number of devices and the platform are known when it is lowered."""
_attention.multiple_results = True
dispatch.prim_requires_devices_during_lowering.add(_attention)


@_attention.def_abstract_eval
def _shapes_of(*arrays: Any, direction: str, inputs: Any, outputs: Any) -> list[Any]:
    results = _results(direction, _shards(inputs[0]), arrays)
    return [ShapedArray(x.shape, x.dtype) for x in results]


@_attention.def_impl
def _run(*arrays: Array, **how: Any) -> Any:
    return jax.jit(functools.partial(_attention.bind, **how))(*arrays)


batching.primitive_batchers[_attention] = _one_by_one
mlir.register_lowering(_attention, _lower)
