"""Functions that the compiler can't partition, applied on each device to its own part of the arrays.

Modules name the meaning of each axis ("clips", "frames"), and the code that shards them says which mesh axes these are. The
mesh also determines the platform whose functions are traced.
"""

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

Names = tuple[str | None, ...]
"""Meaning of each axis of an array; None for an axis that is never sharded."""


class Placement(NamedTuple):
    """Mesh that computations being traced are sharded over, and the mesh axes of each named axis."""

    mesh: Mesh
    axes: tuple[tuple[str, Any], ...]


_PLACEMENT: ContextVar[Placement | None] = ContextVar("placement", default=None)


@contextlib.contextmanager
def placed_on(mesh: Mesh, axes: Mapping[str, Any]) -> Iterator[None]:
    """Say how the models traced within the context are sharded: maps a name to a mesh axis, or to a tuple of them."""
    token = _PLACEMENT.set(Placement(mesh, tuple(axes.items())) if mesh.size > 1 else None)
    try:
        yield
    finally:
        _PLACEMENT.reset(token)


def current_placement() -> Placement | None:
    """Return the placement of the models being traced; None if they aren't sharded.

    Derivatives may be traced after the context has ended, so functions with custom derivatives must keep it.
    """
    return _PLACEMENT.get()


def platform_dependent(*arrays: Any, default: Callable[..., Any], **functions: Callable[..., Any]) -> Any:
    """Apply the function for the platform that the program is compiled for, as `jax.lax.platform_dependent` does.

    While sharded models are traced, their mesh determines the platform, so that the program contains only its function.
    Otherwise a conditional would remain wherever a checkpoint hides the platform from the compiler, which can't optimize
    across it.

    Args:
        *arrays: Arguments of the functions.
        default: Function for all other platforms.
        **functions: Maps a platform ("cuda", "tpu") to its function.
    """
    placement = current_placement()
    if placement is None:
        return jax.lax.platform_dependent(*arrays, default=default, **functions)
    return functions.get(_platform_of(placement.mesh), default)(*arrays)


def _platform_of(mesh: Mesh) -> str:
    device = mesh.devices.flat[0]
    if device.platform == "gpu":  # JAX's name for both CUDA and ROCm
        return "rocm" if "rocm" in device.client.platform_version else "cuda"
    return device.platform


def sharding_of_axes(placement: Placement | None, shape: tuple[Any, ...], names: Names) -> NamedSharding | None:
    """Return the sharding of an array with these axes; None if nothing is sharded.

    An axis that its mesh axes don't divide isn't sharded.
    """
    if placement is None:
        return None
    mesh_axes = dict(placement.axes)

    def fitting(size: int, name: str | None) -> Any:
        axes = mesh_axes.get(name) if name else None
        devices = math.prod(placement.mesh.shape[axis] for axis in ((axes,) if isinstance(axes, str) else axes or ()))
        return axes if size % devices == 0 else None

    return NamedSharding(placement.mesh, PartitionSpec(*(fitting(*each) for each in zip(shape, names, strict=True))))
