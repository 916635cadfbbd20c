"""Layout constraint that keeps an array in row-major order in memory."""

import functools
import string
from collections.abc import Callable
from typing import Any, cast

import jax
from jax._src import dispatch
from jax.experimental.custom_partitioning import custom_partitioning
from jax.experimental.layout import Layout, with_layout_constraint
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jax.sharding import NamedSharding

from timesformer_jax._typing import Array, Float
from timesformer_jax.modeling.kernels.partitioned import has_constant_shape
from timesformer_jax.modeling.per_device import current_placement, sharding_of_axes


def row_major(
    x: Float[Array, "B T N D"], axes: tuple[str | None, ...] = ("clips", "frames", None, None)
) -> Float[Array, "B T N D"]:
    """Return `x` unchanged, constrained to be stored token by token.

    Without the constraint, XLA stores parts of the residual stream with frames or locations last, and transposes it between
    layers. Exported programs (`jax.export`) omit the constraint, because it has no stable serialized form. Arrays with symbolic
    axes, which only exporters trace, don't get it at all, since exporters to other formats don't know the primitive.

    Args:
        x: Tokens.
        axes: Meaning of the axes, by which a mesh shards them, as in `per_device.sharding_of_axes`.
    """
    if not has_constant_shape(x):
        return x
    return _row_major.bind(x, sharding=sharding_of_axes(current_placement(), x.shape, axes))


PARTITIONED = ("cuda", "cpu")
"""Platforms on which `custom_partitioning` works for arrays whose sharding isn't known while tracing."""


def _lower(context: mlir.LoweringRuleContext, x: Any, *, sharding: NamedSharding | None) -> Any:
    module, aval = context.module_context, cast(Any, context.avals_in[0])
    exported = getattr(module.lowering_parameters, "for_export", False)
    devices = getattr(module.axis_context, "num_devices", 1)
    if exported or (devices != 1 and sharding is None and not set(module.platforms) <= set(PARTITIONED)):
        return [x]
    constrain = _partitioned(aval.ndim) if sharding is None else _mapped(sharding)
    return mlir.lower_fun(constrain, multiple_results=False)(context, x)


def _constrain(x: Array) -> Array:
    return with_layout_constraint(x, Layout(tuple(range(x.ndim))))


def _mapped(sharding: NamedSharding) -> Callable[[Array], Array]:
    """Return the constraint for arrays of this sharding, applied on each device because XLA would gather sharded arrays."""
    return jax.shard_map(_constrain, mesh=sharding.mesh, in_specs=sharding.spec, out_specs=sharding.spec, check_vma=False)


@functools.cache
def _partitioned(rank: int) -> Callable[[Array], Array]:
    """Return the constraint for arrays of this rank, partitioned like its argument."""

    def partition(mesh: Any, arguments: Any, result: Any) -> Any:
        return mesh, _constrain, arguments[0].sharding, (arguments[0].sharding,)

    split = custom_partitioning(_constrain)
    axes = " ".join(string.ascii_lowercase[:rank])
    split.def_partition(partition=partition, sharding_rule=f"{axes} -> {axes}")
    return split


_row_major = Primitive("row_major")
# JAX passes devices to a lowering rule only if the primitive is registered as needing them.
dispatch.prim_requires_devices_during_lowering.add(_row_major)
_row_major.def_impl(lambda x, **_: x)
_row_major.def_abstract_eval(lambda x, **_: x)
ad.deflinear2(
    _row_major,
    lambda gradient, _, **how: [gradient if type(gradient) is ad.Zero else _row_major.bind(gradient, **how)],
)
batching.primitive_batchers[_row_major] = lambda xs, axes, **_: (_row_major.bind(*xs, sharding=None), *axes)
mlir.register_lowering(_row_major, _lower)
