"""Kernels as functions of arrays that may be sharded over devices and mapped by `vmap`."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap
from jax.experimental.custom_partitioning import custom_partitioning
from jax.sharding import NamedSharding, PartitionSpec

from timesformer_jax._typing import Array

Named = tuple[tuple[str, str], ...]
"""Arguments or results of a kernel, in order: the name and the axes of each, such as ("bias", "h d")."""

SPLIT = ("b", "x", "y", "h")
"""Axes that may be sharded: clips, groups (two axes), heads."""


def has_constant_shape(x: Any) -> bool:
    """Return False for arrays with symbolic axes (`jax.export.symbolic_shape`), which Pallas doesn't support."""
    return all(isinstance(size, int) for size in x.shape)


def partitioned(call: Callable[..., Sequence[Array]], taken: Named, given: Named, *, summed: tuple[str, ...] = ()) -> Any:
    """Return `call` with rules for sharded arrays, which XLA would otherwise gather, and for `vmap`.

    Args:
        call: Function of arrays that launches a kernel; `given` must hold for shards as well.
        taken: Arguments. The first has all axes that may be sharded.
        given: Results. Those with an axis b belong to one clip.
        summed: Names of results that `call` sums over y.

    Returns:
        The function, with a tuple of results. Arguments without an axis b, such as a bias, are shared by all clips.
    """
    split = _split_over_devices(call, taken, given, summed)
    batched = custom_vmap(lambda *arrays: tuple(split(*arrays)))

    @batched.def_vmap
    def over_one_more_axis(size: int, is_batched: list[bool], *arrays: Array) -> tuple[Any, Any]:
        arrays = tuple(x if has else jnp.broadcast_to(x, (size, *x.shape)) for x, has in zip(arrays, is_batched, strict=True))
        own = ["b" in axes.split() for _, axes in taken]
        if any(has and not mine for has, mine in zip(is_batched, own, strict=True)):
            # A kernel takes a single bias, so entries with different biases run in turn.
            return jax.lax.map(lambda xs: batched(*xs), arrays), tuple(True for _ in given)
        merged = batched(*(x.reshape(-1, *x.shape[2:]) if mine else x[0] for x, mine in zip(arrays, own, strict=True)))
        return tuple(x.reshape(size, -1, *x.shape[1:]) for x in merged), tuple(True for _ in given)

    return batched


@functools.cache
def _split_over_devices(call: Callable[..., Sequence[Array]], taken: Named, given: Named, summed: tuple[str, ...]) -> Any:
    first = taken[0][1].split()
    call = jax.jit(call, inline=True)  # so that the blocks of a model share the trace of a kernel

    def partition(mesh: Any, arguments: Any, results: Any) -> Any:
        specs = (*arguments[0].sharding.spec, *[None] * len(first))
        over = {axis: spec for axis, spec in zip(first, specs, strict=False) if axis in SPLIT}

        def place(axes: str) -> NamedSharding:
            return NamedSharding(mesh, PartitionSpec(*(over.get(axis) for axis in axes.split())))

        def on_each_device(*arrays: Array) -> tuple[Array, ...]:
            return tuple(
                jax.lax.psum(part, over["y"]) if name in summed and over.get("y") is not None else part
                for (name, _), part in zip(given, call(*arrays), strict=True)
            )

        return mesh, on_each_device, tuple(place(axes) for _, axes in given), tuple(place(axes) for _, axes in taken)

    split = custom_partitioning(lambda *arrays: tuple(call(*arrays)))
    sides = [[axes for _, axes in names] for names in (taken, given)]
    factors = dict.fromkeys(axis for _, axes in (*taken, *given) for axis in axes.split())
    split.def_partition(
        partition=partition,
        sharding_rule=" -> ".join(map(", ".join, sides)),
        need_replication_factors=tuple(axis for axis in factors if axis not in SPLIT),
    )
    return split
