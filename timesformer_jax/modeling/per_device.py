"""Functions that the compiler can't partition, applied on each device to its own part of the arrays.

Modules name the meaning of each axis ("clips", "frames"), and the code that shards them says which mesh axes these are. The
mesh, even of one device, also determines the platform whose functions are traced.
"""

import contextlib
import functools
import math
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

Names = tuple[str | None, ...]
"""Meaning of each axis of an array; None for an axis that is never sharded."""


class Placement(NamedTuple):
    """Mesh that computations being traced run on, and the mesh axes of each named axis."""

    mesh: Mesh
    axes: tuple[tuple[str, Any], ...]


_PLACEMENT: ContextVar[Placement | None] = ContextVar("placement", default=None)
_PLATFORM: ContextVar[str | None] = ContextVar("platform", default=None)
"""Platform of the innermost `platform_dependent` whose function is being traced."""


@contextlib.contextmanager
def placed_on(mesh: Mesh, axes: Mapping[str, Any]) -> Iterator[None]:
    """Say where the models traced within the context run, and how they are sharded.

    Args:
        mesh: The devices.
        axes: Maps a name to a mesh axis, or to a tuple of them.
    """
    token = _PLACEMENT.set(Placement(mesh, tuple(axes.items())))
    try:
        yield
    finally:
        _PLACEMENT.reset(token)


def current_placement() -> Placement | None:
    """Return the placement of the models being traced; None if they aren't sharded.

    Derivatives may be traced after the context has ended, so functions with custom derivatives must keep it.
    """
    placement = _PLACEMENT.get()
    return placement if placement and placement.mesh.size > 1 else None


def platform_dependent(*arrays: Any, default: Callable[..., Any], **functions: Callable[..., Any]) -> Any:
    """Apply the function for the platform that the program is compiled for, as `jax.lax.platform_dependent` does.

    Where the platform is known, only its function is traced: within `placed_on`, by the mesh, and within another function for
    one platform. Otherwise a conditional would remain wherever a checkpoint hides the platform from the compiler, which can't
    optimize across it.

    Args:
        *arrays: Arguments of the functions.
        default: Function for all other platforms.
        **functions: Maps a platform ("cuda", "tpu") to its function.
    """
    placement = _PLACEMENT.get()
    platform = _platform_of(placement.mesh) if placement else _PLATFORM.get()
    if platform is not None:
        return functions.get(platform, default)(*arrays)
    traced_for = {platform: functools.partial(_apply_for, platform, apply) for platform, apply in functions.items()}
    return jax.lax.platform_dependent(*arrays, default=default, **traced_for)


def _apply_for(platform: str, apply: Callable[..., Any], *arrays: Any) -> Any:
    token = _PLATFORM.set(platform)
    try:
        return apply(*arrays)
    finally:
        _PLATFORM.reset(token)


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
