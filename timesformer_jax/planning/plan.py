"""A plan: what a training step needs on given hardware, from compiling it."""

import contextlib
import dataclasses
import json
import math
import time
from typing import Any

import jax

from timesformer_jax.cost import count_multiply_adds
from timesformer_jax.errors import InputError, first_line
from timesformer_jax.planning.collectives import Collective, find_collectives
from timesformer_jax.planning.devices import target_devices
from timesformer_jax.planning.flops import count_flops
from timesformer_jax.planning.hlo import parse_program
from timesformer_jax.planning.memory import GIB, Buffer, Memory, analysed_memory, largest_buffers, refused_memory
from timesformer_jax.planning.request import StepRequest, make_step
from timesformer_jax.planning.step_time import StepTime, estimated_cycles, kernel_flops, step_time
from timesformer_jax.planning.targets import CHIPS, TPUS, Target, find_target
from timesformer_jax.planning.traffic import memory_traffic
from timesformer_jax.training import make_mesh
from timesformer_jax.training.chips import device_memory, peak_teraflops


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """What a training step needs on a target, as estimated by compiling it; nothing was run."""

    target: str
    """Name of the target."""
    device: str
    """Kind of its devices, such as "TPU v5 lite"."""
    mesh: dict[str, int]
    """Size of each axis of the mesh."""
    request: StepRequest
    """The step."""
    memory: Memory
    """Bytes on a chip."""
    available: float | None
    """GiB that a program can use on a chip; None if unknown."""
    time: StepTime | None
    """Estimates of the step's time; None if the step doesn't fit or the chip's peaks are unknown."""
    model_flops: float
    """FLOPs of a clip's forward and backward pass without recomputation, as in the training log's MFU."""
    peak: float | None
    """The chip's peak in TFLOP/s; None if unknown."""
    buffers: tuple[Buffer, ...]
    """The largest arrays."""
    buffers_of: str
    """Chip for which the program was compiled that has these arrays: another one if the step doesn't fit."""
    collectives: tuple[Collective, ...]
    """Communication of a step."""
    compile_seconds: float
    """Time that tracing and compiling took."""

    @property
    def num_chips(self) -> int:
        """Number of devices."""
        return math.prod(self.mesh.values())

    @property
    def micro_batch(self) -> int:
        """Number of clips that a group of chips with the same clips computes at a time."""
        return self.request.batch_size // self.request.accumulation // (self.mesh["data"] * self.mesh["fsdp"])

    @property
    def fits(self) -> bool | None:
        """Whether the step fits; None if the chip's memory is unknown."""
        return None if self.available is None else self.memory.total <= self.available * GIB

    @property
    def seconds(self) -> float | None:
        """Estimated seconds of a step; None if only the lower bound is known."""
        return self.time.estimate if self.time else None

    @property
    def clips_per_second(self) -> float | None:
        """Estimated clips per second over all chips."""
        return self.request.batch_size / self.seconds if self.seconds else None

    @property
    def mfu(self) -> float | None:
        """Estimated utilisation of the chips' peak by the model's FLOPs."""
        if not self.seconds or not self.peak:
            return None
        return self.model_flops * self.request.batch_size / self.num_chips / self.seconds / (self.peak * 1e12)

    @property
    def hours(self) -> float | None:
        """Estimated hours of the training, without evaluation, checkpoints and waiting for data."""
        return self.request.num_steps * self.seconds / 3600 if self.seconds else None

    def to_json(self) -> str:
        """Text from which `from_json` makes an equal plan."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Plan":
        """Parse the result of `to_json`."""
        values = json.loads(text)
        values["memory"], values["request"] = Memory(*values["memory"]), StepRequest(**values["request"])
        values["time"] = values["time"] and StepTime(*values["time"])
        values["buffers"] = tuple(Buffer(*each) for each in values["buffers"])
        values["collectives"] = tuple(Collective(*each) for each in values["collectives"])
        return cls(**values)


def plan_step(request: StepRequest, target_name: str, *, explain: bool = True) -> Plan:
    """Compile a training step for a target and describe what it needs.

    Args:
        request: The step.
        target_name: Name of the target, as for `find_target`.
        explain: Whether to compile a step that doesn't fit again, for a chip with more memory, to list its largest arrays.

    Raises:
        InputError: If the target is unknown, or if its devices can't shard the model or the batch.
    """
    target = find_target(target_name)
    devices = target_devices(target)
    mesh = make_mesh(devices, **request.mesh)
    chip = CHIPS.get(target.chip)
    peak, available = (chip.peak, chip.memory_gib) if chip else _chip_here(devices[0].device_kind)
    began = time.perf_counter()
    step, state, batch = make_step(request, mesh)
    # Kernels look for the GPU that they are compiled for there.
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh) if target.platform == "cuda" else contextlib.nullcontext():
        traced = step.trace(state, batch)
        compiled, memory = _compile(traced, state, batch)
    flops = count_flops(traced.jaxpr) / mesh.size
    text, buffers_of = compiled.as_text() if compiled else "", target.chip
    if compiled is None and explain:
        text, buffers_of = _on_a_larger_chip(request, target)
    program = parse_program(text) if text else None
    collectives = tuple(find_collectives(program, dict(mesh.shape))) if program else ()
    estimate = None
    if compiled and program and chip:
        estimate = step_time(
            chip,
            flops=flops,
            memory_bytes=memory_traffic(program),
            link_bytes=sum(each.sent for each in collectives),
            cycles=estimated_cycles(program),
            kernels=kernel_flops(program),
        )
    return Plan(
        target=target.name,
        device=devices[0].device_kind,
        mesh=dict(mesh.shape),
        request=request,
        memory=memory,
        available=available,
        time=estimate,
        model_flops=3 * 2 * count_multiply_adds(request.module, for_logits=True),
        peak=peak,
        buffers=tuple(largest_buffers(program)) if program else (),
        buffers_of=buffers_of,
        collectives=collectives,
        compile_seconds=time.perf_counter() - began,
    )


def _compile(traced: Any, state: Any, batch: Any) -> tuple[Any, Memory]:
    """Compile a traced step; the program is None if the compiler refuses it for lack of memory."""
    try:
        compiled = traced.lower().compile()
    except jax.errors.JaxRuntimeError as error:
        if "Shared memory size limit exceeded" in str(error):
            raise InputError(
                f"The step has a kernel that this GPU's multiprocessors are too small for ({first_line(error)}): set "
                "model.attention_implementation=xla."
            ) from error
        if (memory := refused_memory(str(error), state, batch)) is None:
            raise
        return None, memory
    return compiled, analysed_memory(state, batch, compiled.memory_analysis())


ROOMY = "v5p"
"""TPU with the most memory, for which a step is compiled that doesn't fit its target, to list its arrays."""


def _on_a_larger_chip(request: StepRequest, target: Target) -> tuple[str, str]:
    """Program of a refused step for as many chips of `ROOMY`, and that name; empty text if there is none."""
    _, shapes = TPUS[ROOMY]
    shape = {1: "1x1x1", **shapes}.get(target.num_chips)
    if shape is None or target.chip == ROOMY:
        return "", target.chip
    mesh = make_mesh(target_devices(find_target(f"{ROOMY}:{shape}")), **request.mesh)
    step, state, batch = make_step(request, mesh)
    compiled, _ = _compile(step.trace(state, batch), state, batch)
    return (compiled.as_text() if compiled else ""), ROOMY


def _chip_here(kind: str) -> tuple[float | None, float | None]:
    """Peak in TFLOP/s and memory in GiB of the devices of this process; None where unknown."""
    memory = device_memory()
    return peak_teraflops(kind), memory[1] if memory else None
