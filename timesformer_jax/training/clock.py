"""Measure steps on the device: their rate, and how long the device waited for data."""

import queue
import threading
import time
from collections.abc import Iterator
from typing import Any, NamedTuple, TypeVar

import jax

T = TypeVar("T")

SHORTEST = 0.01
"""Shortest interval that is timed, in seconds: a thread records the ends of steps to within a few milliseconds."""


class Timing(NamedTuple):
    """Steps that ended within an interval.

    Attributes:
        steps: Number of steps.
        seconds: Time from the end of the preceding step (or from `DeviceClock.restart`) to the end of the last step.
        waited: The part of `seconds` in which the device was idle because the next batch wasn't ready.
    """

    steps: int
    seconds: float
    waited: float


class DeviceClock:
    """Time dispatched steps from a background thread, so that the loop itself never waits for the device.

    Steps are dispatched before the device starts them, so their rate can only be measured at their ends. Time spent in
    `next(batches)` is not lost while the device is busy; only the time after the end of the last dispatched step is.

    Args:
        most_in_flight: Number of dispatched steps after which `dispatched` blocks.
    """

    def __init__(self, most_in_flight: int = 2):
        self._dispatched: queue.Queue[Any] = queue.Queue(most_in_flight)
        self._changed = threading.Condition()
        self._num_dispatched = self._num_ended = 0
        self._ends: dict[int, float] = {}
        """Maps the number of a step that isn't timed yet to the time of its end."""
        self._waits: list[tuple[float, float]] = []
        self._idle_since = time.perf_counter()
        self._timed, self._since = 0, self._idle_since
        """Number of timed steps, and the time when the last of them ended."""
        self._error: BaseException | None = None
        threading.Thread(target=self._watch, daemon=True, name="device clock").start()

    def batches(self, iterator: Iterator[T]) -> Iterator[T]:
        """Yield the same batches, measuring how long the device waits for each."""
        while True:
            begin = time.perf_counter()
            try:
                batch = next(iterator)
            except StopIteration:
                return
            end = time.perf_counter()
            with self._changed:
                if self._num_ended == self._num_dispatched:
                    self._waits.append((max(begin, self._idle_since), end))
            yield batch

    def dispatched(self, output: Any) -> None:
        """Register a dispatched step by its output (arrays that are not donated).

        Blocks while too many steps are in flight, and re-raises exceptions of the device.
        """
        with self._changed:
            self._num_dispatched += 1
        self._dispatched.put(output)
        if self._error is not None:
            raise self._error

    def restart(self) -> None:
        """Wait for all dispatched steps and exclude everything up to now from later timings."""
        self._wait_for(self._num_dispatched)
        with self._changed:
            self._ends.clear()
            self._waits.clear()
            self._timed, self._since = self._num_dispatched, time.perf_counter()

    def take(self, num_steps: int) -> Timing | None:
        """Wait for the `num_steps`th dispatched step and return the timing of the steps since the last call.

        Returns None if there are no such steps, or if they took less than `SHORTEST` seconds; they then count towards the next
        timing.
        """
        self._wait_for(num_steps)
        with self._changed:
            if num_steps <= self._timed or (end := self._ends[num_steps]) - self._since < SHORTEST:
                return None
            begin, steps = self._since, num_steps - self._timed
            waited = sum(max(min(stop, end) - max(start, begin), 0.0) for start, stop in self._waits)
            self._waits = [(start, stop) for start, stop in self._waits if stop > end]
            self._ends = {number: ended for number, ended in self._ends.items() if number > num_steps}
            self._timed, self._since = num_steps, end
        return Timing(steps, end - begin, waited)

    def close(self) -> None:
        """Stop the thread."""
        self._dispatched.put(None)

    def _wait_for(self, num_steps: int) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._num_ended >= num_steps)
        if self._error is not None:
            raise self._error

    def _watch(self) -> None:
        while (output := self._dispatched.get()) is not None:
            try:
                jax.block_until_ready(output)
            except BaseException as error:  # re-raised in the loop's thread
                self._error = error
            with self._changed:
                self._num_ended += 1
                self._idle_since = self._ends[self._num_ended] = time.perf_counter()
                self._changed.notify_all()
