"""Estimates of a step's time, from a chip's peaks and from the compiler's cycles. Nothing here is measured."""

import re
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
    """Estimated cycles of everything but communication: the compiler's, and ours for Pallas kernels; 0 if it gives none."""
    kernels: float
    """Seconds of `cycles` at the chip's clock; 0 if the compiler gives none."""
    uncounted: int = 0
    """Number of calls of Pallas kernels without an estimate."""

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


KERNEL_SLOWDOWN = 2.75
"""Cycles that our own attention kernels take for each cycle that the matrix units need at least.

XLA:TPU estimates no cycles for Pallas kernels. Counted by the bundles in the compiler's schedules for a v5e, times the grid:
3.0 in temporal attention, 2.6 in spatial attention, and 2.75 in both together.
"""


def kernel_flops(program: Program) -> tuple[float, int]:
    """Return the FLOPs of all calls of Pallas kernels, by their `pl.CostEstimate`, and the number of calls without one."""
    flops, unknown = 0.0, 0
    for each in executed(program):
        if 'custom_call_target="tpu_custom_call"' in each.instruction.attributes and not each.instruction.cycles:
            found = re.search(r'"flops":"(\d+)"', each.instruction.attributes)
            flops += each.times * int(found[1]) if found else 0
            unknown += 0 if found else each.times
    return flops, unknown


def kernel_cycles(flops: float, chip: Chip) -> float:
    """Estimate the cycles of our own kernels from their FLOPs."""
    return KERNEL_SLOWDOWN * flops / (chip.peak * 1e12) * chip.clock * 1e9


def step_time(
    chip: Chip, *, flops: float, memory_bytes: float, link_bytes: float, cycles: int, kernels: tuple[float, int] = (0.0, 0)
) -> StepTime:
    """Estimate the time of a step.

    Args:
        chip: The chip.
        flops: FLOPs on a chip.
        memory_bytes: Bytes between a chip and its memory.
        link_bytes: Bytes that a chip sends to others.
        cycles: Result of `estimated_cycles`.
        kernels: Result of `kernel_flops`.
    """
    own, uncounted = kernels
    cycles += round(kernel_cycles(own, chip))
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
