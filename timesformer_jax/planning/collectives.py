"""Communication of a compiled program: kind, count, bytes and mesh axis of its collectives."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from timesformer_jax.planning.hlo import Computation, Instruction, Program, executed, fused

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute", "ragged-all-to-all")


class Collective(NamedTuple):
    """The collectives of a step that have the same kind and run over the same axes of the mesh."""

    kind: str
    """Operation, such as "all-gather"."""
    axes: str
    """Axes of the mesh over which it runs, such as "fsdp" or "data x fsdp"."""
    count: int
    """Number of executions per step."""
    num_bytes: int
    """Bytes of its arrays on a chip per step: what an all-gather returns, and what the others take."""
    sent: int
    """Bytes that a chip has to send per step, by the cheapest algorithm."""


class Transfer(NamedTuple):
    """A collective operation, as executed."""

    kind: str
    """One of `KINDS`."""
    instruction: Instruction
    """Executed instruction, or the one inside its fusion."""
    num_bytes: int
    """Bytes of its arrays on a chip: what an all-gather returns, and what the others take."""
    times: int
    """Number of executions per step."""


def transfers(program: Program) -> Iterator[Transfer]:
    """Yield a program's collective operations; the steps of an asynchronous one count once."""
    seen: set[str] = set()
    for execution in executed(program):
        inner = fused(program, execution.instruction)
        for instruction in [execution.instruction] if inner is None else inner.instructions.values():
            kind = _kind(instruction, inner)
            channel = re.search(r"channel_id=(\d+)", instruction.attributes)
            if kind is None:
                continue
            # XLA:TPU runs an asynchronous collective in steps, as one instruction in several fusions, on one channel. Other
            # collectives on one channel are different ones: two that each combine several reduce-scatters may share it.
            if inner and channel and kind != "reduce-scatter":
                if channel[1] in seen:
                    continue
                seen.add(channel[1])
            yield Transfer(kind, instruction, _size(kind, instruction, inner or execution.computation), execution.times)


def find_collectives(program: Program, mesh: Mapping[str, int]) -> list[Collective]:
    """Collectives of a program, the largest first.

    Args:
        program: The compiled program.
        mesh: Size of each axis of the mesh, in order.
    """
    totals: dict[tuple[str, str], list[int]] = {}
    for kind, instruction, size, times in transfers(program):
        group = first_group(instruction.attributes, int(np.prod(list(mesh.values()))))
        if len(group) < 2 and kind != "collective-permute":
            continue
        total = totals.setdefault((kind, _axes(group, mesh)), [0, 0, 0])
        for index, value in enumerate((1, size, _sent(kind, size, len(group)))):
            total[index] += times * value
    found = [Collective(kind, axes, *total) for (kind, axes), total in totals.items()]
    return sorted(found, key=lambda each: -each.sent)


def _kind(instruction: Instruction, inner: Computation | None) -> str | None:
    kind = instruction.opcode.removesuffix("-start")
    if kind not in KINDS:
        return None
    # XLA:TPU's reduce-scatter is a fusion of an all-reduce and a slice.
    return "reduce-scatter" if kind == "all-reduce" and inner and inner.name.startswith("all-reduce-scatter") else kind


def _size(kind: str, instruction: Instruction, around: Computation) -> int:
    operands = [around.instructions[name] for name in instruction.operands if name in around.instructions]
    taken = sum(array.num_bytes for operand in operands for array in operand.results)
    returned = sum(array.num_bytes for array in instruction.results)
    if instruction.opcode.endswith("-start"):  # it returns its operands as well
        returned -= taken
    return returned if kind == "all-gather" else taken


def _sent(kind: str, size: int, group: int) -> int:
    if kind == "collective-permute":
        return size
    return size * (group - 1) // group * (2 if kind == "all-reduce" else 1)


def _axes(group: Sequence[int], mesh: Mapping[str, int]) -> str:
    """Axes of the mesh along which the devices of a group differ."""
    places = np.unravel_index(np.asarray(group), tuple(mesh.values()))
    return " x ".join(axis for axis, place in zip(mesh, places, strict=True) if len(set(place.tolist())) > 1) or "-"


def first_group(attributes: str, num_devices: int) -> list[int]:
    """Devices of an instruction's first replica group, in any of XLA's notations: lists, a reshaped range or a mesh.

    Permutations give the first pair of devices. All devices are one group if the instruction names none.
    """
    if pairs := re.search(r"source_target_pairs=\{\{(\d+),(\d+)\}", attributes):
        return [int(pairs[1]), int(pairs[2])]
    if listed := re.search(r"replica_groups=\{\{([\d,]+)\}", attributes):
        return [int(device) for device in listed[1].split(",")]
    if tiled := re.search(r"replica_groups=\[([\d,]+)\]<=(\[[\d,]+\](?:T\([\d,]+\))?)", attributes):
        return _range(tiled[2]).reshape(_numbers(tiled[1]))[0].tolist()
    if mesh := re.search(
        r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\((.*?\]?(?:T\([\d,]+\))?)\))? \{([^}]*)\}", attributes
    ):
        return _mesh_group(mesh[1], mesh[2], mesh[3])
    return list(range(num_devices))


def _numbers(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", text)]


def _range(text: str) -> np.ndarray:
    """Devices of `[2,4]T(1,0)`: a range of this shape, transposed."""
    shape, _, order = text.partition("T")
    devices = np.arange(np.prod(_numbers(shape))).reshape(_numbers(shape))
    return devices.transpose(_numbers(order)) if order else devices


def _mesh_group(sizes: str, devices: str | None, taken: str) -> list[int]:
    """First group of `mesh['a'=2,'b'=4], device_ids=([4,2]T(1,0)) {'b'}`; `'b':(2)2` is a part of an axis."""
    shape = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", sizes)}
    arranged = np.arange(np.prod(list(shape.values()))) if devices is None else _range(devices)
    grid = arranged.reshape(list(shape.values()))
    parts = {
        name: (int(before or 1), int(size or 0)) for name, before, size in re.findall(r"'([^']+)'(?::\((\d+)\)(\d+))?", taken)
    }
    index = []
    for name, size in shape.items():
        before, part = parts.get(name, (1, 1))
        part = part or size
        index.append(np.arange(part) * (size // (before * part)))
    return grid[np.ix_(*index)].ravel().tolist()
