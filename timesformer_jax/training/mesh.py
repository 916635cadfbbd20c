"""The device mesh with its four axes, and the sharding of batches on it."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from timesformer_jax.errors import InputError

AXES = ("data", "fsdp", "tensor", "context")
"""Axes of the mesh; neighbouring devices are adjacent along the last ones.

- `data`: shards clips and replicates parameters.
- `fsdp`: shards clips and parameters, which are gathered layer by layer.
- `tensor`: shards attention heads and the MLP's hidden units.
- `context`: shards the frames of a clip.
"""

BATCH_AXES = ("data", "fsdp")
"""Axes over which the clips of a batch are sharded."""


def make_mesh(
    devices: Sequence[Any] | None = None, *, data: int = -1, fsdp: int = 1, tensor: int = 1, context: int = 1
) -> Mesh:
    """Make a mesh with the axes `AXES`.

    Devices in several slices (TPU pods connected by the data centre's network) are laid out with `data` across the slices.

    Args:
        devices: Devices of the mesh; all devices by default.
        data: Size of the axis `data`. One of the four sizes may be -1, to infer it from the number of devices.
        fsdp: Size of the axis `fsdp`.
        tensor: Size of the axis `tensor`.
        context: Size of the axis `context`.

    Raises:
        InputError: If the product of the sizes is not the number of devices.
    """
    devices = list(jax.devices() if devices is None else devices)
    sizes: dict[str, int] = {"data": data, "fsdp": fsdp, "tensor": tensor, "context": context}
    given = ", ".join(f"mesh.{axis}={size}" for axis, size in sizes.items())
    free = [axis for axis, size in sizes.items() if size == -1]
    if len(free) > 1 or any(size < 1 and size != -1 for size in sizes.values()):
        raise InputError(f"Each size of the mesh must be at least 1, or one of them -1 for the remaining devices; got {given}.")
    taken = int(np.prod([size for size in sizes.values() if size != -1]))
    if len(devices) % taken or (not free and taken != len(devices)):
        raise InputError(
            f"The mesh's sizes must multiply to the number of devices, {len(devices)}{', or divide it' if free else ''}; "
            f"got {given}."
        )
    for axis in free:
        sizes[axis] = len(devices) // taken
    # Auto: the compiler shards what isn't annotated. The default of jax.make_mesh, Explicit, rejects the model's reshapes.
    types, shape = (AxisType.Auto,) * len(AXES), tuple(sizes.values())
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    if slices > 1:
        if shape[0] % slices:
            raise InputError(f"mesh.data must be a multiple of the {slices} slices, got {shape[0]}.")
        within = (shape[0] // slices, *shape[1:])
        return Mesh(mesh_utils.create_hybrid_device_mesh(within, (slices, 1, 1, 1), devices), AXES, axis_types=types)
    return jax.make_mesh(shape, AXES, axis_types=types, devices=devices)


def replicated(mesh: Mesh) -> NamedSharding:
    """Sharding with the whole array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Sharding of the first axis over `BATCH_AXES`."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def batch_shards(mesh: Mesh) -> int:
    """Number of shards of a batch."""
    return mesh.shape["data"] * mesh.shape["fsdp"]


class Share(NamedTuple):
    """Share of every global batch that a process provides.

    Processes that hold different shards of the same clips (if `tensor` or `context` spans processes) have the same share.

    Attributes:
        index: Index of the share, from 0.
        count: Number of shares, which are equal.
        leads: True for exactly one process per share.
    """

    index: int
    count: int
    leads: bool


def batch_share(mesh: Mesh, process: int | None = None) -> Share:
    """Share of every batch that `process` (this one by default) provides.

    Raises `InputError` if the clips of two processes would overlap only partially.
    """
    process = jax.process_index() if process is None else process
    rows = mesh.devices.reshape(batch_shards(mesh), -1)
    held: dict[int, list[int]] = {}
    for shard, devices in enumerate(rows):
        for owner in {device.process_index for device in devices.flat}:
            held.setdefault(owner, []).append(shard)
    parts = sorted({tuple(shards) for shards in held.values()})
    if sum(map(len, parts)) != len(rows) or len({len(part) for part in parts}) > 1:
        raise InputError(
            "The mesh would give some processes overlapping shares of a batch: let mesh.tensor x mesh.context divide the "
            f"number of devices of a process, or be a multiple of it; got {dict(mesh.shape)} over {len(held)} processes."
        )
    mine = tuple(held[process])
    leader = min(owner for owner, shards in held.items() if tuple(shards) == mine)
    return Share(index=parts.index(mine), count=len(parts), leads=process == leader)


def local_batch_size(name: str, batch_size: int, mesh: Mesh, accumulation: int = 1) -> int:
    """Number of clips that this process provides to each global batch.

    Args:
        name: Name of the batch size, for the error.
        batch_size: Global batch size.
        mesh: Mesh over which batches are sharded.
        accumulation: Number of micro-batches.

    Raises:
        InputError: If `batch_size` is not divisible by the number of shards times `accumulation`.
    """
    parts = batch_shards(mesh) * accumulation
    if batch_size < 1 or batch_size % parts:
        nearest = max(round(batch_size / parts), 1) * parts
        steps = f" and {accumulation} micro-batches" if accumulation > 1 else ""
        raise InputError(
            f"{name}={batch_size} can't be split evenly over {batch_shards(mesh)} device(s){steps}: use a multiple of {parts}, "
            f"such as {nearest}."
        )
    return batch_size // batch_share(mesh).count


def to_devices(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Make global arrays from this process's share of a batch (NumPy arrays, batch axis first)."""
    sharding = batch_sharding(mesh)
    return {name: jax.make_array_from_process_local_data(sharding, array) for name, array in batch.items()}
