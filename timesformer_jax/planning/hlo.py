"""Reading of compiled programs: instructions, their arrays, and how often each is executed.

A compiled program's text (`jax.stages.Compiled.as_text`) is a list of computations. Those that run are the entry, the bodies of
loops and what they call; the computations of fusions describe what happens within a single instruction.
"""

import functools
import math
import re
from collections.abc import Iterator
from typing import NamedTuple

BITS = {"pred": 8, "token": 0, "s4": 4, "u4": 4}
"""Maps dtypes whose name doesn't end in their number of bits to that number."""

NOT_RUN = frozenset(
    {
        "parameter",
        "constant",
        "tuple",
        "get-tuple-element",
        "bitcast",
        "while",
        "conditional",
        "call",
        "partition-id",
        "after-all",
    }
)
"""Operations that move no data by themselves."""


class Array(NamedTuple):
    """An array of a program."""

    dtype: str
    """Dtype as XLA names it, such as "bf16"."""
    dims: tuple[int, ...]
    """Shape."""
    num_bytes: int
    """Size in memory, with the padding of its layout."""
    on_chip: bool
    """True if the compiler placed it in the chip's own memory (VMEM) instead of HBM."""

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(map(str, self.dims))}]"


class Instruction(NamedTuple):
    """An instruction of a program."""

    name: str
    """Unique name."""
    opcode: str
    """Operation, such as "fusion" or "all-gather"."""
    results: tuple[Array, ...]
    """Arrays that it returns."""
    operands: tuple[str, ...]
    """Names of the instructions whose results it takes."""
    attributes: str
    """The rest of its line."""

    def attribute(self, name: str) -> str | None:
        """Name of a computation in an attribute such as `body` or `calls`; None if the instruction lacks it."""
        found = re.search(rf"\b{name}=%?([\w.\-]+)", self.attributes)
        return found[1] if found else None

    @property
    def source(self) -> str:
        """Path of the code that makes it, such as "jit(train_step)/jvp(TimeSformer)/blocks_0/attn/dot_general"."""
        found = re.search(r'op_name="([^"]*)"', self.attributes)
        return found[1] if found else ""

    @property
    def cycles(self) -> int:
        """Cycles that the compiler estimates for one execution; 0 if it gives none."""
        found = re.search(r'"estimated_cycles":"(\d+)"', self.attributes)
        return int(found[1]) if found else 0


class Computation(NamedTuple):
    """A computation of a program: instructions by name, in order, and the name of the last one."""

    name: str
    instructions: dict[str, Instruction]
    root: str


class Program(NamedTuple):
    """A compiled program."""

    computations: dict[str, Computation]
    """Computations by name."""
    entry: str
    """Name of the computation that runs first."""


class Execution(NamedTuple):
    """An instruction that runs."""

    instruction: Instruction
    computation: Computation
    """Computation that contains it."""
    times: int
    """Number of executions per run of the program."""


def parse_program(text: str) -> Program:
    """Parse the text of a compiled program."""
    computations: dict[str, Computation] = {}
    entry, name, instructions, root = "", "", {}, ""
    for line in text.splitlines():
        if header := _HEADER.match(line):
            name, instructions, root = header[2], {}, ""
            entry = name if header[1] else entry
        elif line.startswith("}") and name:
            computations[name] = Computation(name, instructions, root)
            name = ""
        elif name and (found := _INSTRUCTION.match(line)):
            instruction = _instruction(found[2], found[3])
            instructions[instruction.name] = instruction
            root = instruction.name if found[1] else root
    return Program(computations, entry)


_HEADER = re.compile(r"(ENTRY )?%?([\w.\-]+) \(.*\{\s*$")
_INSTRUCTION = re.compile(r"\s+(ROOT )?%?([\w.\-]+) = (.*)$")
_ARRAY = re.compile(r"([a-z]\w*)\[([\d,]*)\](?:\{([^{}]*)\})?")


def _instruction(name: str, rest: str) -> Instruction:
    end = _closing(rest) if rest.startswith("(") else rest.index(" ") - 1
    arrays, rest = rest[: end + 1], rest[end + 1 :].lstrip()
    opcode, _, _ = rest.partition("(")
    end = _closing(rest, len(opcode))
    operands = tuple(re.findall(r"%([\w.\-]+)", rest[len(opcode) : end + 1]))
    results = tuple(_array(*found) for found in _ARRAY.findall(arrays))
    attributes = rest[len(opcode) : end + 1] if opcode in ("constant", "parameter") else rest[end + 1 :]
    return Instruction(name, opcode, results, operands, attributes)


def _closing(text: str, start: int = 0) -> int:
    """Index of the parenthesis that closes the one at `start`."""
    depth = 0
    for index in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[index], 0)
        if depth == 0:
            return index
    return len(text) - 1


@functools.lru_cache(maxsize=4096)
def _array(dtype: str, shape: str, layout: str) -> Array:
    dims = tuple(int(size) for size in shape.split(",") if size)
    order, _, tiling = layout.partition(":")
    minor_to_major = [int(axis) for axis in order.split(",") if axis.isdigit()]
    sizes = [dims[axis] for axis in reversed(minor_to_major)] if len(minor_to_major) == len(dims) else list(dims)
    if tile := re.match(r"T\(([\d,]+)\)", tiling):
        tiles = [int(size) for size in tile[1].split(",")][-len(sizes) :] if sizes else []
        for back, size in enumerate(reversed(tiles), start=1):
            sizes[-back] = -(-sizes[-back] // size) * size
    bits = BITS.get(dtype) or int((re.findall(r"\d+", dtype) or ["8"])[0])
    if dtype == "token":
        bits = 0
    return Array(dtype, dims, math.prod(sizes) * bits // 8, bool(re.search(r"S\([1-9]\d*\)", tiling)))


def executed(program: Program) -> Iterator[Execution]:
    """Yield every instruction that runs, in the order of the text, with its number of executions.

    Loops count by their number of iterations; a loop whose number isn't known counts once, and all branches of a condition do.
    XLA:TPU may leave a condition with a single branch, which always runs.
    """

    def walk(name: str, times: int) -> Iterator[Execution]:
        computation = program.computations[name]
        for instruction in computation.instructions.values():
            yield Execution(instruction, computation, times)
            if instruction.opcode == "while":
                yield from walk(str(instruction.attribute("body")), times * (trip_count(program, instruction) or 1))
            elif instruction.opcode == "call":
                yield from walk(str(instruction.attribute("to_apply")), times)
            elif instruction.opcode == "async-start" and (called := instruction.attribute("calls")):
                yield from walk(called, times)
            elif instruction.opcode == "conditional":
                for branch in _branches(instruction):
                    yield from walk(branch, times)

    return walk(program.entry, 1)


def _branches(instruction: Instruction) -> list[str]:
    if listed := re.search(r"branch_computations=\{([^}]*)\}", instruction.attributes):
        return re.findall(r"[\w.\-]+", listed[1])
    return [name for key in ("true_computation", "false_computation") if (name := instruction.attribute(key))]


def trip_count(program: Program, loop: Instruction) -> int | None:
    """Number of iterations of a loop; None if it isn't known.

    XLA notes it for CPUs and GPUs. For TPUs, it follows from the condition of a `scan`: a counter from 0 below a constant.
    """
    if known := re.search(r'"known_trip_count":\{"n":"(\d+)"\}', loop.attributes):
        return int(known[1])
    condition = program.computations.get(str(loop.attribute("condition")))
    if condition is None or "direction=LT" not in condition.instructions[condition.root].attributes:
        return None
    constants = [condition.instructions.get(name) for name in condition.instructions[condition.root].operands]
    values = [int(found[1]) for c in constants if c and (found := re.match(r"\((\d+)\)", c.attributes))]
    return values[0] if len(values) == 1 else None


def fused(program: Program, instruction: Instruction) -> Computation | None:
    """Computation of a fusion; None for other instructions."""
    return program.computations.get(str(instruction.attribute("calls"))) if instruction.opcode == "fusion" else None
