"""How long the devices stood idle because the next batch wasn't there."""

import queue
import threading
import time
from collections.abc import Iterator
from typing import Any, TypeVar

import jax

T = TypeVar("T")


class DeviceClock:
    """Watches the dispatched steps from a thread, so that the loop itself never waits for the device.

    The time spent in `next(batches)` says little: the devices may be busy all the while. Only the part of it after the last
    dispatched step has ended is time lost to data.
    """

    def __init__(self, most_in_flight: int = 2):
        self._dispatched: queue.Queue[Any] = queue.Queue(most_in_flight)
        self._lock = threading.Lock()
        self._in_flight = 0
        self._idle_since = time.perf_counter()
        self._waited = 0.0
        self._error: BaseException | None = None
        threading.Thread(target=self._watch, daemon=True, name="device clock").start()

    def batches(self, iterator: Iterator[T]) -> Iterator[T]:
        """The same batches; measures how long the devices waited for each."""
        while True:
            begin = time.perf_counter()
            try:
                batch = next(iterator)
            except StopIteration:
                return
            end = time.perf_counter()
            with self._lock:
                if not self._in_flight:
                    self._waited += max(end - max(begin, self._idle_since), 0.0)
            yield batch

    def dispatched(self, output: Any) -> None:
        """Tells that a step with this output (arrays that are not donated) has been dispatched.

        Waits while too many steps are in flight; raises what the device raised.
        """
        with self._lock:
            self._in_flight += 1
        self._dispatched.put(output)
        if self._error is not None:
            raise self._error

    def take_waited(self) -> float:
        """Seconds that the devices waited for data since the last call."""
        with self._lock:
            waited, self._waited = self._waited, 0.0
        return waited

    def close(self) -> None:
        """Ends the thread."""
        self._dispatched.put(None)

    def _watch(self) -> None:
        while (output := self._dispatched.get()) is not None:
            try:
                jax.block_until_ready(output)
            except BaseException as error:  # the loop raises it in its own thread
                self._error = error
            with self._lock:
                self._in_flight -= 1
                self._idle_since = time.perf_counter()
