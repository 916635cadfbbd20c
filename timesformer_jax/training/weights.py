"""Gathering of the weights that are sharded over `fsdp`, applied from outside the modules.

Left to itself, the compiler decides product by product whether to gather the weights or the tokens. It gathers queries, keys
and values separately and in a padded layout, and sums some gradients on every device before each keeps its shard.
"""

import math
from typing import Any

import jax
from flax import linen as nn
from jax.extend.core import Primitive
from jax.interpreters import ad, mlir
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from timesformer_jax._typing import Array
from timesformer_jax.modeling.kernels.tpu_tiles import LANES
from timesformer_jax.training.sharding import path_of, spec_of


def call_with_whole_weights(module: nn.Module, mesh: Mesh, args: Any, kwargs: Any, *, regather: bool) -> Any:
    """Call a module after gathering its weights in its compute dtype; each device receives its shard of their gradients.

    Args:
        module: The module.
        mesh: Mesh of the devices.
        args: Positional arguments of the call: arrays, or None.
        kwargs: Keyword arguments of the call, which are static.
        regather: Whether the backward pass gathers the weights again, so that only one module's weights are whole at a time.
            Unnecessary if it recomputes the module anyway.
    """
    path = "/".join(module.path)
    dtype: Any = getattr(module, "dtype", None)

    def gather(variables: Any) -> Any:
        return jax.tree_util.tree_map_with_path(
            lambda keys, leaf: _gather(leaf, mesh, spec_of(f"{path}/{path_of(keys[1:])}", leaf.shape, mesh), dtype), variables
        )

    def call(module: nn.Module, *args: Any) -> Any:
        return type(module).__call__(module, *args, **kwargs)

    run = nn.map_variables(call, "params", trans_in_fn=gather)
    if regather:
        run = nn.remat(run, policy=_saves)
    return run(module, *args)


def _saves(primitive: Any, *_: Any, **__: Any) -> bool:
    """Checkpoint policy that saves everything for the backward pass except whole weights and parts of them."""
    return primitive is not _all_gather and primitive.name not in ("reshape", "slice", "squeeze")


def _gather(leaf: Array, mesh: Mesh, spec: PartitionSpec, dtype: Any) -> Array:
    """Gather a weight over `fsdp`; weights with another sharding are returned as they are."""
    axis = next((axis for axis, names in enumerate(spec) if "fsdp" in _names(names)), None)
    if axis is None:
        return leaf
    shape, names = leaf.shape, [tuple(name for name in _names(names) if mesh.shape[name] > 1) for names in spec]
    if all(name == "fsdp" for group in names for name in group):  # neighbouring axes can be merged into a matrix
        last = len(shape) - 1 if shape[-1] % LANES == 0 and axis < len(shape) - 1 else axis + 1
        shape = (*shape[:axis], math.prod(shape[axis:last]), math.prod(shape[last:]))
        names = [*names[: axis + 1], ()]
    sharded = PartitionSpec(*(group or None for group in names))
    whole = PartitionSpec(*(tuple(name for name in group if name != "fsdp") or None for group in names))
    matrix = leaf.reshape(shape) if dtype is None else leaf.reshape(shape).astype(dtype)
    narrow = jax.lax.with_sharding_constraint(matrix, NamedSharding(mesh, sharded))
    gathered = _all_gather.bind(narrow, sharded=NamedSharding(mesh, sharded), whole=NamedSharding(mesh, whole))
    return gathered.reshape(leaf.shape)


def _names(names: Any) -> tuple[str, ...]:
    """Return the mesh axes of one entry of a `PartitionSpec`."""
    return () if names is None else (names,) if isinstance(names, str) else tuple(names)


def _constrain(x: Array, *, sharded: NamedSharding, whole: NamedSharding) -> Array:
    # The barrier keeps the compiler from gathering the weight in its original, padded shape or in float32.
    return jax.lax.with_sharding_constraint(jax.lax.optimization_barrier(x), whole)


def _scatter(gradient: Any, x: Any, *, sharded: NamedSharding, whole: NamedSharding) -> list[Any]:
    return [gradient if type(gradient) is ad.Zero else jax.lax.with_sharding_constraint(gradient, sharded)]


_all_gather = Primitive("gather_weight")
"""Gathers a weight; its transpose scatters the gradient. A primitive, so that the checkpoint policy recognises it."""
_all_gather.def_impl(_constrain)
_all_gather.def_abstract_eval(lambda x, **_: x)
ad.deflinear2(_all_gather, _scatter)
mlir.register_lowering(_all_gather, mlir.lower_fun(_constrain, multiple_results=False))
