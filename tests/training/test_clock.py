"""Rates measured at the ends of steps, and time lost to data: only while the device is idle."""

import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import pytest

from timesformer_jax.training.clock import DeviceClock


class Device:
    """Stand-in for a device that executes one task at a time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.free_at = 0.0
        monkeypatch.setattr(jax, "block_until_ready", lambda output: output())

    def work(self, seconds: float, error: Exception | None = None) -> Callable[[], None]:
        """Dispatch work that takes some seconds; calling the result waits for its end."""
        ready_at = self.free_at = max(self.free_at, time.perf_counter()) + seconds

        def wait() -> None:
            time.sleep(max(ready_at - time.perf_counter(), 0))
            if error:
                raise error

        return wait


def slow_batches(seconds: float, count: int):
    for index in range(count):
        time.sleep(seconds)
        yield index


@pytest.mark.parametrize(("data", "device", "waits"), [(0.05, 0.2, False), (0.2, 0.02, True)])
def test_clock_counts_only_idle_time(monkeypatch: pytest.MonkeyPatch, data: float, device: float, waits: bool):
    """In four steps the device waits 0 s, or 0.72 s."""
    simulated = Device(monkeypatch)
    clock = DeviceClock()
    batches = clock.batches(slow_batches(data, 6))
    next(batches)
    clock.dispatched(simulated.work(device))
    clock.restart()
    for _ in range(4):
        next(batches)
        clock.dispatched(simulated.work(device))
    timing = clock.take(5)
    assert timing is not None
    assert (timing.waited > 0.35) == waits
    assert clock.take(5) is None
    clock.close()


def test_clock_times_steps_by_their_end_and_not_by_dispatch(monkeypatch: pytest.MonkeyPatch):
    """With one step in flight, as in the loop, the time of three steps counts for three, however early it is read."""
    simulated = Device(monkeypatch)
    clock = DeviceClock()
    for _ in range(2):
        clock.dispatched(simulated.work(0.2))
        began = time.perf_counter()
        clock.restart()
    restarted = time.perf_counter()
    for _ in range(3):
        clock.dispatched(simulated.work(0.2))
    first, rest = clock.take(3), clock.take(5)
    ended = time.perf_counter()
    assert first is not None
    assert rest is not None
    assert (first.steps, rest.steps) == (1, 2)
    assert first.seconds >= 0.19
    assert 0.59 <= first.seconds + rest.seconds <= ended - began  # a busy machine may register the end of a step late
    assert ended - restarted >= 0.59
    clock.close()


def test_clock_merges_windows_too_short_to_time(monkeypatch: pytest.MonkeyPatch):
    simulated = Device(monkeypatch)
    clock = DeviceClock()
    monkeypatch.setattr("timesformer_jax.training.clock.SHORTEST", 0.1)
    clock.restart()
    clock.dispatched(simulated.work(0.0))
    assert clock.take(1) is None
    clock.dispatched(simulated.work(0.2))
    timing = clock.take(2)
    assert timing is not None
    assert timing.steps == 2
    clock.close()


def test_clock_bounds_the_steps_in_flight(monkeypatch: pytest.MonkeyPatch):
    simulated = Device(monkeypatch)
    clock = DeviceClock(most_in_flight=2)
    begin = time.perf_counter()
    for _ in range(6):
        clock.dispatched(simulated.work(0.05))
        last = time.perf_counter()
    assert last - begin > 0.1
    clock.close()


def test_clock_passes_device_errors_to_the_loop(monkeypatch: pytest.MonkeyPatch):
    simulated = Device(monkeypatch)
    clock = DeviceClock()
    clock.dispatched(simulated.work(0.0, RuntimeError("out of memory")))
    time.sleep(0.1)
    with pytest.raises(RuntimeError, match="out of memory"):
        clock.dispatched(simulated.work(0.0))
    with pytest.raises(RuntimeError, match="out of memory"):
        clock.take(1)
    clock.close()


def test_clock_on_real_arrays():
    clock = DeviceClock()
    for batch in clock.batches(iter([1.0, 2.0])):
        clock.dispatched({"loss": jnp.asarray(batch)})
    clock.restart()
    assert clock.take(2) is None
    clock.close()
