"""The devices as one mesh of four axes, and the batch on it."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from timesformer_jax.errors import InputError

AXES = ("data", "fsdp", "tensor", "context")
"""`data`: clips, every device with all parameters. `fsdp`: clips too, and the parameters are split (gathered layer by layer).
`tensor`: heads and the MLP's hidden units. `context`: a clip's frames. Neighbouring devices lie along the last axes."""

BATCH_AXES = ("data", "fsdp")
"""The axes that a batch's clips are split over."""


def make_mesh(
    devices: Sequence[Any] | None = None, *, data: int = -1, fsdp: int = 1, tensor: int = 1, context: int = 1
) -> Mesh:
    """A mesh over `devices` (all there are by default); one size may be -1: what the others leave.

    Devices in several slices (TPU pods joined by the data centre's network) are laid out so that `data` goes over the slices.

    Raises `InputError` where the sizes don't multiply to the number of devices.
    """
    devices = list(jax.devices() if devices is None else devices)
    sizes: dict[str, int] = {"data": data, "fsdp": fsdp, "tensor": tensor, "context": context}
    given = ", ".join(f"mesh.{axis}={size}" for axis, size in sizes.items())
    free = [axis for axis, size in sizes.items() if size == -1]
    if len(free) > 1 or any(size < 1 and size != -1 for size in sizes.values()):
        raise InputError(f"Each size of the mesh must be at least 1, or one of them -1 for what is left; got {given}.")
    taken = int(np.prod([size for size in sizes.values() if size != -1]))
    if len(devices) % taken or (not free and taken != len(devices)):
        raise InputError(
            f"The mesh's sizes must multiply to the number of devices, {len(devices)}{', or divide it' if free else ''}; "
            f"got {given}."
        )
    for axis in free:
        sizes[axis] = len(devices) // taken
    # Auto: the compiler places what isn't annotated. jax.make_mesh's own default, Explicit, rejects the model's reshapes.
    types, shape = (AxisType.Auto,) * len(AXES), tuple(sizes.values())
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    if slices > 1:
        if shape[0] % slices:
            raise InputError(f"mesh.data must be a multiple of the {slices} slices, got {shape[0]}.")
        within = (shape[0] // slices, *shape[1:])
        return Mesh(mesh_utils.create_hybrid_device_mesh(within, (slices, 1, 1, 1), devices), AXES, axis_types=types)
    return jax.make_mesh(shape, AXES, axis_types=types, devices=devices)


def replicated(mesh: Mesh) -> NamedSharding:
    """The whole array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The first axis split over the axes of the batch."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def batch_shards(mesh: Mesh) -> int:
    """Into how many parts a batch is split."""
    return mesh.shape["data"] * mesh.shape["fsdp"]


class Share(NamedTuple):
    """This process's part of every global batch: the `index`th of `count` equal ones.

    Processes that hold other parts of the same clips (`tensor` or `context` going over processes) have the same share, and
    `leads` is True for one of them.
    """

    index: int
    count: int
    leads: bool


def batch_share(mesh: Mesh, process: int | None = None) -> Share:
    """Which clips process number `process` (this one by default) has to bring.

    Raises `InputError` where processes share some of their clips and not all.
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
            "The mesh would give some processes overlapping parts of a batch: let mesh.tensor x mesh.context divide the number "
            f"of devices of a process, or be a multiple of it; got {dict(mesh.shape)} over {len(held)} processes."
        )
    mine = tuple(held[process])
    leader = min(owner for owner, shards in held.items() if tuple(shards) == mine)
    return Share(index=parts.index(mine), count=len(parts), leads=process == leader)


def local_batch_size(name: str, batch_size: int, mesh: Mesh, accumulation: int = 1) -> int:
    """This process's part of a global batch; raises `InputError` where the devices, or the micro-batches, don't divide it."""
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
    """Global arrays from every process's part of the batch (NumPy, first axis)."""
    sharding = batch_sharding(mesh)
    return {name: jax.make_array_from_process_local_data(sharding, array) for name, array in batch.items()}
