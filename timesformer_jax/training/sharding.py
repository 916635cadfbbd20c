"""Where arrays live: one mesh over every device there is, the batch split over it, everything else on each device."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from timesformer_jax.errors import InputError

DATA_AXIS = "data"


def make_mesh(devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh with one axis, `data`, over `devices` (all of them by default)."""
    devices = jax.devices() if devices is None else devices
    # Auto: the compiler places what isn't annotated. jax.make_mesh's own default, Explicit, rejects the model's reshapes.
    return jax.make_mesh((len(devices),), (DATA_AXIS,), axis_types=(AxisType.Auto,), devices=devices)


def replicated(mesh: Mesh) -> NamedSharding:
    """The whole array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def split_batch(mesh: Mesh) -> NamedSharding:
    """The first axis split over the devices."""
    return NamedSharding(mesh, PartitionSpec(DATA_AXIS))


def local_batch_size(name: str, batch_size: int, mesh: Mesh) -> int:
    """This host's part of a global batch; raises `InputError` where the devices don't divide it."""
    devices = mesh.size
    if batch_size < 1 or batch_size % devices:
        nearest = max(round(batch_size / devices), 1) * devices
        raise InputError(
            f"{name}={batch_size} can't be split evenly over {devices} device(s): use a multiple of {devices}, "
            f"such as {nearest}."
        )
    return batch_size // jax.process_count()


def to_devices(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Global arrays from every host's part of the batch (NumPy, first axis)."""
    sharding = split_batch(mesh)
    return {name: jax.make_array_from_process_local_data(sharding, array) for name, array in batch.items()}
