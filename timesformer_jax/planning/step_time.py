"""Estimates of a step's time, from a chip's peaks and from the compiler's cycles. Nothing here is measured."""

from typing import NamedTuple

from timesformer_jax.planning.hlo import Program, executed
from timesformer_jax.planning.targets import Chip


class StepTime(NamedTuple):
    """Work of a step on a chip, and estimates of its time in seconds."""

    flops: float
    """FLOPs of the matrix products, recomputation included."""
    memory_bytes: float
    """Bytes read from and written to the chip's memory."""
    link_bytes: float
    """Bytes sent to other chips."""
    arithmetic: float
    """Seconds of `flops` at the chip's peak."""
    memory: float
    """Seconds of `memory_bytes` at the memory's bandwidth."""
    links: float
    """Seconds of `link_bytes` at the bandwidth of all links; 0 for a single chip."""
    cycles: int
    """Cycles that the compiler estimates for everything but communication; 0 if it gives none."""
    kernels: float
    """Seconds of `cycles` at the chip's clock; 0 if the compiler gives none."""
    uncounted: int = 0
    """Number of Pallas kernel calls in a step, for which the compiler has no cycles."""

    @property
    def bound(self) -> float:
        """Lower bound in seconds: the longest of arithmetic, memory and links."""
        return max(self.arithmetic, self.memory, self.links)

    @property
    def estimate(self) -> float | None:
        """Estimate in seconds: the compiler's cycles, and the links as if nothing hid them; None without cycles."""
        return max(self.kernels + self.links, self.bound) if self.cycles else None


def estimated_cycles(program: Program) -> int:
    """Cycles that XLA:TPU estimates for a program, with each loop counted by its iterations."""
    return sum(each.times * each.instruction.cycles for each in executed(program))


def kernels_without_cycles(program: Program) -> int:
    """Number of times that a program calls Pallas kernels for which XLA:TPU estimates no cycles."""
    return sum(
        each.times
        for each in executed(program)
        if 'custom_call_target="tpu_custom_call"' in each.instruction.attributes and not each.instruction.cycles
    )


def step_time(chip: Chip, *, flops: float, memory_bytes: float, link_bytes: float, cycles: int, uncounted: int = 0) -> StepTime:
    """Estimate the time of a step.

    Args:
        chip: The chip.
        flops: FLOPs on a chip.
        memory_bytes: Bytes between a chip and its memory.
        link_bytes: Bytes that a chip sends to others.
        cycles: Result of `estimated_cycles`.
        uncounted: Result of `kernels_without_cycles`.
    """
    return StepTime(
        flops=flops,
        memory_bytes=memory_bytes,
        link_bytes=link_bytes,
        arithmetic=flops / (chip.peak * 1e12),
        memory=memory_bytes / (chip.hbm * 1e9),
        links=link_bytes / (chip.link * 1e9) if chip.link else 0.0,
        cycles=cycles,
        kernels=cycles / (chip.clock * 1e9) if chip.clock else 0.0,
        uncounted=uncounted if chip.clock else 0,
    )
