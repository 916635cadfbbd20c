"""Timing of asynchronous device work."""

import time
from collections.abc import Callable
from statistics import median
from typing import Any, NamedTuple

import jax

from benchmarks.accelerator.compiling import quiet

ROUNDS = 5
FEWEST_CALLS = 4
"""Minimum number of calls per round. Dispatching the first and waiting for the last add about 3 ms, which they share."""


class Measurement(NamedTuple):
    """One measurement.

    Attributes:
        name: Name, unique within its section.
        run: Function from the results so far to figures for JSON.
        limit: Time limit in seconds, including compilation.
        later: Whether to run in the second round, after the first round of all sections.
    """

    name: str
    run: Callable[[dict[str, Any]], dict[str, Any]]
    limit: float = 75.0
    later: bool = False


class Skipped(Exception):  # noqa: N818 (no error)
    """Raised with the reason to skip a measurement, which is recorded."""


compile_only = False
"""True in a process that only compiles (see `compiling`)."""


class Compiled(Exception):  # noqa: N818 (no error)
    """Ends a measurement in a process that only compiles; carries what is known of the compilation."""

    def __init__(self, figures: dict[str, Any]):
        super().__init__()
        self.figures = figures


_figures: dict[str, Any] = {}
"""Figures of the measurement's first compilation."""


def end_of_compilation() -> None:
    """End the measurement here in a process that only compiles."""
    if compile_only:
        figures = dict(_figures)
        _figures.clear()
        raise Compiled(figures)


def time_calls(call: Callable[[], Any], seconds: float) -> dict[str, float]:
    """Time `call`, which dispatches work and returns its output.

    Blocks only at the end of each round, so the device executes the calls back to back and dispatch costs nothing unless it
    takes longer than the work itself.

    Args:
        call: Compiled work; called twice to warm up.
        seconds: Wall time to spend, in `ROUNDS` rounds.

    Returns:
        Seconds per call, as median, minimum and maximum over rounds, and the number of timed calls.
    """
    end_of_compilation()
    jax.block_until_ready(call())
    with quiet():
        return _time_calls(call, seconds)


def _time_calls(call: Callable[[], Any], seconds: float) -> dict[str, float]:
    began = time.perf_counter()
    jax.block_until_ready(call())
    calls = max(round(seconds / ROUNDS / max(time.perf_counter() - began, 1e-6)), FEWEST_CALLS)
    rounds = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        for _ in range(calls):
            output = call()
        jax.block_until_ready(output)
        rounds.append((time.perf_counter() - began) / calls)
    return {"seconds": median(rounds), "fastest": min(rounds), "slowest": max(rounds), "calls": calls * ROUNDS}


def compile_timed(function: Any, *arguments: Any) -> tuple[Any, dict[str, Any]]:
    """Compile a jitted function for the given arguments.

    Returns:
        The compiled function and its figures: `compile_seconds`, and the compiler's estimates of temporary memory, `temp_gib`,
        and of memory including arguments and results, `needs_gib`.
    """
    began = time.perf_counter()
    compiled = function.lower(*arguments).compile()
    figures: dict[str, Any] = {"compile_seconds": time.perf_counter() - began}
    _figures.setdefault("compile_seconds", figures["compile_seconds"])
    if (memory := compiled.memory_analysis()) is not None:
        figures["temp_gib"] = memory.temp_size_in_bytes / 2**30
        needed = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
        figures["needs_gib"] = (needed + memory.temp_size_in_bytes) / 2**30
    return compiled, figures


def peak_gib() -> float | None:
    """Return the peak device memory of this process so far in GiB; None if the device doesn't report it."""
    stats = jax.local_devices()[0].memory_stats()
    return stats["peak_bytes_in_use"] / 2**30 if stats and "peak_bytes_in_use" in stats else None
