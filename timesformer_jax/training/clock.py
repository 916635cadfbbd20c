"""Timing of steps on the device: how fast they end, and how long the device waited for data."""

import queue
import threading
import time
from collections.abc import Iterator
from typing import Any, NamedTuple, TypeVar

import jax

T = TypeVar("T")

SHORTEST = 0.01
"""Seconds. A thread notes the ends of steps, to within a few milliseconds: shorter stretches aren't timed."""


class Timing(NamedTuple):
    """Steps that ended within a stretch of time.

    Attributes:
        steps: Their number.
        seconds: From the end of the step before the first (or from `DeviceClock.restart`) to the end of the last.
        waited: Seconds of these in which the device was idle because the next batch wasn't there.
    """

    steps: int
    seconds: float
    waited: float


class DeviceClock:
    """Watches the dispatched steps from a thread, so that the loop itself never waits for the device.

    Steps are dispatched before the device has begun them, so only their ends tell how fast they are. And the time spent in
    `next(batches)` says little: the device may be busy all the while. Only the part of it after the last dispatched step has
    ended is time lost to data.
    """

    def __init__(self, most_in_flight: int = 2):
        self._dispatched: queue.Queue[Any] = queue.Queue(most_in_flight)
        self._changed = threading.Condition()
        self._num_dispatched = self._num_ended = 0
        self._ends: dict[int, float] = {}
        """Number of a step that isn't timed yet -> when it ended."""
        self._waits: list[tuple[float, float]] = []
        self._idle_since = time.perf_counter()
        self._timed, self._since = 0, self._idle_since
        """The steps that were timed, and when the last of them ended."""
        self._error: BaseException | None = None
        threading.Thread(target=self._watch, daemon=True, name="device clock").start()

    def batches(self, iterator: Iterator[T]) -> Iterator[T]:
        """The same batches; measures how long the device waited for each."""
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
        """Tells that a step with this output (arrays that are not donated) has been dispatched.

        Waits while too many steps are in flight; raises what the device raised.
        """
        with self._changed:
            self._num_dispatched += 1
        self._dispatched.put(output)
        if self._error is not None:
            raise self._error

    def restart(self) -> None:
        """Waits for all dispatched steps; nothing up to now, steps included, is part of a later timing."""
        self._wait_for(self._num_dispatched)
        with self._changed:
            self._ends.clear()
            self._waits.clear()
            self._timed, self._since = self._num_dispatched, time.perf_counter()

    def take(self, num_steps: int) -> Timing | None:
        """Timing of the steps since the last one, up to the `num_steps`th that was dispatched, for which it waits.

        None if there is no such step, or if they took less than `SHORTEST` seconds; then they are part of the next timing.
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
        """Ends the thread."""
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
            except BaseException as error:  # the loop raises it in its own thread
                self._error = error
            with self._changed:
                self._num_ended += 1
                self._idle_since = self._ends[self._num_ended] = time.perf_counter()
                self._changed.notify_all()
