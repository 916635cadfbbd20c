"""Memory that a compiled training step needs on a chip."""

import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from timesformer_jax.planning.hlo import NOT_RUN, Execution, Program, executed, fused
from timesformer_jax.training import TrainState

GIB = 2**30


class Memory(NamedTuple):
    """Bytes that a step needs on a chip.

    Attributes:
        parameters: Parameters.
        optimizer: Optimizer state.
        average: Moving average of the parameters.
        batch: The batch: uint8 windows, positions and labels.
        gradients: A gradient for each trained parameter.
        activations: The rest of the temporary memory: activations saved for the backward pass, and workspace.
        other: Padding of the arguments, results that reuse no argument, and the program.
    """

    parameters: int
    optimizer: int
    average: int
    batch: int
    gradients: int
    activations: int
    other: int

    @property
    def total(self) -> int:
        """All of it."""
        return sum(self)


class Buffer(NamedTuple):
    """The largest arrays of a program that have the same shape."""

    array: str
    """Dtype and shape on a chip, such as "bf16[8,8,12,197,197]"."""
    num_bytes: int
    """Size of one of them."""
    places: int
    """Number of instructions that make one."""
    source: str
    """The code that makes most of them, such as "blocks/attn.mix/dot_general, backward"."""


def _on_a_chip(tree: Any) -> int:
    leaves = jax.tree.leaves(tree)
    return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * np.dtype(leaf.dtype).itemsize for leaf in leaves)


def step_memory(state: TrainState, batch: Any, *, temporary: int, arguments: int | None = None, other: int = 0) -> Memory:
    """Divide the memory of a step among its purposes.

    Args:
        state: Shapes and shardings of the state.
        batch: Shapes and shardings of the batch.
        temporary: Bytes of temporary memory, according to the compiler.
        arguments: Bytes of the arguments, according to the compiler, with padding; None if unknown.
        other: Bytes of the program and of new results.
    """
    parameters, average = _on_a_chip(state.params), _on_a_chip(state.ema)
    optimizer, clips = _on_a_chip(state.opt_state), _on_a_chip(batch)
    padding = 0 if arguments is None else max(arguments - parameters - average - optimizer - clips, 0)
    # They live from the backward pass to the update, in float32 like the parameters, or shorter if they are applied at once.
    gradients = min(parameters, temporary)
    return Memory(parameters, optimizer, average, clips, gradients, temporary - gradients, other + padding)


def analysed_memory(state: TrainState, batch: Any, analysis: Any) -> Memory:
    """Memory of a compiled step, from `jax.stages.Compiled.memory_analysis`."""
    kept = analysis.output_size_in_bytes - analysis.alias_size_in_bytes
    return step_memory(
        state,
        batch,
        temporary=analysis.temp_size_in_bytes,
        arguments=analysis.argument_size_in_bytes,
        other=max(kept, 0) + analysis.generated_code_size_in_bytes,
    )


def refused_memory(message: str, state: TrainState, batch: Any) -> Memory | None:
    """Memory of a step that XLA:TPU refuses to compile, from its error; None if the error is a different one."""
    if temporary := re.search(r"HLO temporaries \(([\d.]+)([KMGT]?)\)", message):
        return step_memory(state, batch, temporary=_size(*temporary.groups()))
    if used := re.search(r"memory space hbm\. Used ([\d.]+)([KMGT]?) of", message):
        arguments = _on_a_chip((state, batch))
        return step_memory(state, batch, temporary=max(_size(*used.groups()) - arguments, 0))
    return None


def _size(number: str, unit: str) -> int:
    return int(float(number) * 1024 ** " KMGT".index(unit or " "))


def largest_buffers(program: Program, count: int = 5) -> list[Buffer]:
    """The largest arrays in a chip's memory that a program makes, by shape."""
    makers: dict[str, Counter[str]] = {}
    sizes: dict[str, int] = {}
    for execution in executed(program):
        instruction = execution.instruction
        if instruction.opcode in NOT_RUN or instruction.opcode.endswith(("-done", "-start")):
            continue
        for array in instruction.results:
            if not array.on_chip:
                sizes[str(array)] = array.num_bytes
                makers.setdefault(str(array), Counter())[_maker(program, execution)] += 1
    largest = sorted(sizes, key=lambda shape: -sizes[shape])[:count]
    return [Buffer(shape, sizes[shape], makers[shape].total(), _most_telling(makers[shape])) for shape in largest]


def _maker(program: Program, execution: Execution) -> str:
    """Describe the code that makes a result: the instruction's, or the last module named within its fusion or by its operands.

    What a loop saves is made by an update in place, which belongs to no module.
    """
    instruction, around = execution.instruction, execution.computation.instructions
    inner = fused(program, instruction)
    within = [] if inner is None else list(reversed(inner.instructions.values()))
    taken = [around[name] for name in reversed(instruction.operands) if name in around]
    described = [describe_source(each.source) for each in (instruction, *within, *taken)]
    named = next((source for source in described if "/" in source), None)
    in_place = "dynamic-update-slice" in instruction.name
    return named or (", ".join(["saved by a loop", *_pass(instruction.source)]) if in_place else described[0])


def _most_telling(makers: Counter[str]) -> str:
    """The most frequent description that names a module, else a loop, else anything."""
    best = max(makers, key=lambda source: ("/" in source, source.startswith("saved"), makers[source]))
    return best or "the compiler"


_PASSES = {"rematted_computation": "recomputed", "transpose(jvp": "backward", "jvp(": "forward"}


def describe_source(path: str) -> str:
    """Describe an instruction's path by module, operation and pass: "blocks/attn.mix/qkv/dot_general, backward"."""
    path = path.partition(";")[0]  # the first of several
    return ", ".join([*filter(None, ["/".join(_modules(path.split("/")))]), *_pass(path)])


def _pass(path: str) -> list[str]:
    return [name for mark, name in _PASSES.items() if mark in path][:1]


def _modules(parts: Sequence[str]) -> list[str]:
    kept: list[str] = []
    for part in parts:
        if _TRACING.fullmatch(part) or part in kept[-1:]:
            continue
        kept.append(part)
    return kept


_TRACING = re.compile(
    r"jit\(.*|jvp\(.*|transpose\(.*|while|body|cond|branch_\d+_fun|closed_call|checkpoint|rematted_computation|eval_jaxpr"
    r"|TimeSformer\.\w+|blocks\.\w+|.*->.*|vmap\(.*|shard_map"
)
