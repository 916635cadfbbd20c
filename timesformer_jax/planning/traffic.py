"""Bytes that a compiled program moves between the chip and its memory."""

from collections.abc import Sequence

from timesformer_jax.planning.hlo import NOT_RUN, Array, Computation, Instruction, Program, executed, fused

_SLICES = ("slice", "dynamic-slice", "gather")
_SAME = ("bitcast", "reshape", "convert", "copy")
_NO_TRAFFIC = NOT_RUN | {"copy-done", "slice-done", "async-done", "all-reduce-done", "all-gather-done", "iota"}


def memory_traffic(program: Program) -> int:
    """Bytes that a program reads from and writes to the chip's memory (HBM) per run.

    Each instruction reads its operands and writes its results once. Of arrays that it only slices or updates in place, the
    slice counts; arrays that the compiler keeps on the chip don't count.
    """
    return sum(
        each.times * _moved(program, each.computation, each.instruction)
        for each in executed(program)
        if each.instruction.opcode not in _NO_TRAFFIC
    )


def _moved(program: Program, around: Computation, instruction: Instruction) -> int:
    arrays = [around.instructions[name].results for name in instruction.operands if name in around.instructions]
    operands = [array for results in arrays for array in results[:1]]
    if instruction.opcode in ("copy-start", "slice-start"):
        target = instruction.results[0 if instruction.opcode == "copy-start" else 1]
        return target.num_bytes * sum(not array.on_chip for array in (target, *operands[:1]))
    if "AllocateBuffer" in instruction.attributes or "ConcatBitcast" in instruction.attributes:
        return 0
    if instruction.opcode == "dynamic-update-slice":
        return 2 * operands[1].num_bytes if not instruction.results[0].on_chip else 0
    if instruction.opcode in _SLICES:
        return _bytes(instruction.results) * sum(not array.on_chip for array in (instruction.results[0], *operands[:1]))
    inner = fused(program, instruction)
    if inner is None:
        return _bytes([*instruction.results, *operands])
    return _read(program, inner, operands) + _written(program, inner, instruction)


def _bytes(arrays: Sequence[Array]) -> int:
    return sum(array.num_bytes for array in arrays if not array.on_chip)


def _read(program: Program, inner: Computation, operands: Sequence[Array]) -> int:
    """Bytes that a fusion reads; of operands that are only sliced, the slices."""
    read = _read_of_parameters(program, inner)
    return sum(
        array.num_bytes if read.get(number) is None else min(read[number] or 0, array.num_bytes)
        for number, array in enumerate(operands)
        if not array.on_chip
    )


def _read_of_parameters(program: Program, inner: Computation) -> dict[int, int | None]:
    """Bytes that a fused computation reads of each of its parameters; None for all of them."""
    users: dict[str, list[Instruction]] = {}
    for instruction in inner.instructions.values():
        for name in dict.fromkeys(instruction.operands):
            users.setdefault(name, []).append(instruction)

    def read(name: str) -> int | None:
        parts = [read_by(user, name) for user in users.get(name, [])]
        return None if None in parts else sum(part or 0 for part in parts)

    def read_by(user: Instruction, name: str) -> int | None:
        if user.opcode in _SLICES and user.operands[0] == name:
            return sum(array.num_bytes for array in user.results)
        if user.opcode == "dynamic-update-slice" and user.operands[0] == name:
            return 0  # updated in place
        if user.opcode in _SAME:
            return read(user.name)
        if (nested := fused(program, user)) is not None:
            parts = _read_of_parameters(program, nested)
            taken = [parts.get(number) for number, operand in enumerate(user.operands) if operand == name]
            return None if None in taken else sum(part or 0 for part in taken)
        return None

    return {
        int(instruction.attributes.strip("()") or 0): read(name)
        for name, instruction in inner.instructions.items()
        if instruction.opcode == "parameter"
    }


def _written(program: Program, inner: Computation, instruction: Instruction) -> int:
    """Bytes that a fusion writes; of results that are updated in place, the update."""
    made = _made(inner, inner.root)
    if len(made) != len(instruction.results):
        return _bytes(instruction.results)
    return sum(
        min(array.num_bytes, _update(program, inner, maker, array))
        for array, maker in zip(instruction.results, made, strict=True)
        if not array.on_chip
    )


def _made(inner: Computation, root: str) -> list[Instruction]:
    last = inner.instructions[root]
    return [inner.instructions[name] for name in last.operands] if last.opcode == "tuple" else [last]


def _update(program: Program, inner: Computation, maker: Instruction, whole: Array) -> int:
    """Bytes that change in a result: all of it, or the slice that a loop's step updates."""
    while maker.opcode in _SAME and maker.operands[0] in inner.instructions:
        maker = inner.instructions[maker.operands[0]]
    if maker.opcode == "dynamic-update-slice":
        return inner.instructions[maker.operands[1]].results[0].num_bytes
    nested = fused(program, maker)
    if nested is not None and len(made := _made(nested, nested.root)) == 1:
        return _update(program, nested, made[0], whole)
    return whole.num_bytes
