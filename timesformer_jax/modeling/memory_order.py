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

from timesformer_jax._typing import Array, Float


def row_major(x: Float[Array, "*tokens D"]) -> Float[Array, "*tokens D"]:
    """Return `x` unchanged, constrained to be stored token by token.

    Without the constraint, XLA stores parts of the residual stream with frames or locations last, and transposes it between
    layers. Exported programs (`jax.export`) omit the constraint, because it has no stable serialized form.
    """
    return _row_major.bind(x)


SPLIT = ("cuda", "cpu")
"""Platforms on which the constraint is known to work for sharded arrays."""


def _lower(context: mlir.LoweringRuleContext, x: Any) -> Any:
    module, aval = context.module_context, cast(Any, context.avals_in[0])
    exported = getattr(module.lowering_parameters, "for_export", False)
    devices = getattr(module.axis_context, "num_devices", 1)
    if exported or (devices != 1 and not set(module.platforms) <= set(SPLIT)):
        return [x]
    return mlir.lower_fun(_constrain_on_each_device(aval.ndim), multiple_results=False)(context, x)


@functools.cache
def _constrain_on_each_device(rank: int) -> Callable[[Array], Array]:
    """Return the constraint for arrays of this rank, partitioned explicitly because XLA would gather sharded arrays."""

    def constrain(x: Array) -> Array:
        return with_layout_constraint(x, Layout(tuple(range(rank))))

    def partition(mesh: Any, arguments: Any, result: Any) -> Any:
        return mesh, constrain, arguments[0].sharding, (arguments[0].sharding,)

    split = custom_partitioning(constrain)
    axes = " ".join(string.ascii_lowercase[:rank])
    split.def_partition(partition=partition, sharding_rule=f"{axes} -> {axes}")
    return split


_row_major = Primitive("row_major")
# JAX passes devices to a lowering rule only if the primitive is registered as needing them.
dispatch.prim_requires_devices_during_lowering.add(_row_major)
_row_major.def_impl(jax.jit(lambda x: x))
_row_major.def_abstract_eval(lambda x: x)
ad.deflinear2(_row_major, lambda gradient, _: [gradient if type(gradient) is ad.Zero else row_major(gradient)])
batching.defvectorized(_row_major)
mlir.register_lowering(_row_major, _lower)
