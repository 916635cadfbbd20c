"""Fused attention within groups of tokens on TPUs: derivatives, sharding and lowering of the kernels in `tpu_kernels`."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax._src import dispatch
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir
from jax.sharding import NamedSharding, PartitionSpec

from timesformer_jax._typing import Array, Float
from timesformer_jax.modeling.kernels.tpu_launch import call
from timesformer_jax.modeling.kernels.tpu_tiles import LANES
from timesformer_jax.modeling.memory_order import row_major
from timesformer_jax.modeling.per_device import Placement, current_placement, sharding_of_axes


def tpu_attention(
    qkv: Float[Array, "B X L Y 3 h d"], bias: Float[Array, "3 h d"], cls: Float[Array, "B F 3 h d"] | None = None
) -> tuple[Float[Array, "B X L Y h d"], Float[Array, "B X Y h d"] | None]:
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
    results: Any = _attend(current_placement(), qkv, bias, cls)
    mixed, cls_mixed = results
    if mixed.shape[3] == 1:  # else XLA copies it, transposed, for the gradient of the next layer's kernel
        tokens = mixed.reshape(*mixed.shape[:3], -1)
        mixed = row_major(tokens, ("clips", "frames", None, "heads")).reshape(mixed.shape)
    return mixed, cls_mixed


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
    dcls = rest[0].sum(2)  # [B, X, shards of Y, 3, h, d] -> [B, X, 3, h, d]
    return dqkv, dbias, (dcls if cls.shape[1] == dcls.shape[1] else dcls.sum(1, keepdims=True)).astype(cls.dtype)


_attend.defvjp(_forward, _backward)


AXES = {
    "qkv": ("clips", "frames", None, "places", None, "heads", None),
    "bias": (None, "heads", None),
    "cls": ("clips", "frames", None, "heads", None),
    "mixed": ("clips", "frames", None, "places", "heads", None),
    "cls_mixed": ("clips", "frames", "places", "heads", None),
    "dbias": ("clips", "frames", "places", None, "heads", None),
    "dcls": ("clips", "frames", "places", None, "heads", None),
}
"""Maps an array to the meaning of its axes. Groups that span frames (X = 1) are sharded by location, others by frame."""
TAKEN = {"forward": ("qkv", "bias", "cls"), "backward": ("qkv", "bias", "cls", "mixed", "cls_mixed")}
GIVEN = {"forward": ("mixed", "cls_mixed"), "backward": ("qkv", "dbias", "dcls")}


def _bind(direction: str, placement: Placement | None, *arrays: Array | None) -> list[Array]:
    """Apply the kernel of one pass. Arrays of the CLS are skipped if there is none."""
    present = [x for x in arrays if x is not None]
    taken, given = _names(direction, arrays[2] is not None)
    x, _, y = present[0].shape[1:4]
    unsharded = "frames" if x == 1 and y > 1 else "places"

    def sharding(name: str, shape: tuple[int, ...]) -> NamedSharding | None:
        return sharding_of_axes(placement, shape, tuple(None if axis == unsharded else axis for axis in AXES[name]))

    inputs = tuple(sharding(name, x.shape) for name, x in zip(taken, present, strict=True))
    if inputs[0] is not None and not _whole_rows(inputs[0].shard_shape(present[0].shape)):
        return _attention.bind(*present, direction=direction, inputs=(None,) * len(taken), outputs=(None,) * len(given))
    results = _results(direction, _shards(inputs[0]), present)
    outputs = tuple(sharding(name, x.shape) for name, x in zip(given, results, strict=True))
    return _attention.bind(*present, direction=direction, inputs=inputs, outputs=outputs)


def _names(direction: str, has_cls: bool) -> tuple[list[str], list[str]]:
    """Return the names of the arrays that a pass takes and gives."""
    taken, given = ([name for name in names[direction] if has_cls or "cls" not in name] for names in (TAKEN, GIVEN))
    return taken, given


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
    """Return the shapes and dtypes of the results of one pass. Summed gradients have an entry per clip and shard."""
    qkv, bias, *_ = arrays
    batch, x, _, y, _, heads, head_dim = qkv.shape
    results = {
        "forward": [((*qkv.shape[:4], heads, head_dim), qkv.dtype), ((batch, x, y, heads, head_dim), qkv.dtype)],
        "backward": [
            (qkv.shape, qkv.dtype),
            ((batch, *shards, *bias.shape), jnp.float32),
            ((batch, x, shards[1], *bias.shape), jnp.float32),
        ],
    }[direction]
    has_cls = _has_cls(direction, arrays)
    return [jax.ShapeDtypeStruct(*each) for each in (results if has_cls else results[:-1])]


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
    whole = [jnp.zeros((batch, x, 1, *bias.shape), jnp.float32).at[:, : one.shape[1], 0].set(one) for one in dcls]
    return [dqkv, first, *whole]


def _lower(context: mlir.LoweringRuleContext, *arrays: Any, direction: str, inputs: Any, outputs: Any) -> Any:
    module = context.module_context
    sharded = inputs[0] is not None
    alone = getattr(module.axis_context, "num_devices", 1) == 1
    if not sharded and not alone:
        return mlir.lower_fun(functools.partial(_reference, direction))(context, *arrays)
    attend = functools.partial(call, direction, tuple(context.platforms or module.platforms) != ("tpu",))
    if sharded:
        attend = functools.partial(_on_each_device, attend, direction, inputs, outputs)
    return mlir.lower_fun(attend)(context, *arrays)


def _on_each_device(attend: Any, direction: str, inputs: Any, outputs: Any, *arrays: Array) -> list[Array]:
    """Apply the kernel to the shards of each device.

    Unless the heads are sharded, the axes of heads enter and leave as one, because TPUs pad the last two axes of an array to
    rows of lanes, and XLA would copy the packed product to and from the padded form.
    """
    taken, given = _names(direction, _has_cls(direction, arrays))
    heads = arrays[0].shape[-2:]
    whole = inputs[0].shard_shape(arrays[0].shape)[-2:] == heads

    def parts(name: str) -> tuple[int, ...]:
        return heads if "mixed" in name else (3, *heads)

    def join(name: str, x: Array) -> Array:
        return x.reshape(*x.shape[: x.ndim - len(parts(name))], -1) if whole else x

    def divide(name: str, x: Array) -> Array:
        return x.reshape(*x.shape[:-1], *parts(name)) if whole else x

    def spec(name: str, sharding: NamedSharding) -> PartitionSpec:
        return PartitionSpec(*sharding.spec[: len(AXES[name]) - len(parts(name))]) if whole else sharding.spec

    def on_one(*shards: Array) -> list[Array]:
        results = attend(*(divide(name, x) for name, x in zip(taken, shards, strict=True)))
        return [join(name, x) for name, x in zip(given, results, strict=True)]

    mapped = jax.shard_map(
        on_one,
        mesh=inputs[0].mesh,
        in_specs=tuple(spec(name, sharding) for name, sharding in zip(taken, inputs, strict=True)),
        out_specs=[spec(name, sharding) for name, sharding in zip(given, outputs, strict=True)],
        check_vma=False,
    )
    results = mapped(*(join(name, x) for name, x in zip(taken, arrays, strict=True)))
    return [divide(name, x) for name, x in zip(given, results, strict=True)]


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
