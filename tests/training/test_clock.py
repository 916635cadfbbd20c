"""The share of time lost to data: nothing while the device is busy, all of it while it's idle."""

import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import pytest

from timesformer_jax.training.clock import DeviceClock


class Device:
    """Stands for a device that works on one thing after the other."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.free_at = 0.0
        monkeypatch.setattr(jax, "block_until_ready", lambda output: output())

    def work(self, seconds: float, error: Exception | None = None) -> Callable[[], None]:
        """Begins work that takes some seconds; what it returns waits for the end."""
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


@pytest.mark.parametrize(("data", "device", "waits"), [(0.05, 0.1, 0.0), (0.1, 0.02, 0.08)])
def test_only_idle_time_counts(monkeypatch: pytest.MonkeyPatch, data: float, device: float, waits: float):
    simulated = Device(monkeypatch)
    clock = DeviceClock()
    batches = clock.batches(slow_batches(data, 6))
    next(batches)
    clock.dispatched(simulated.work(device))
    clock.take_waited()
    for _ in range(4):
        next(batches)
        clock.dispatched(simulated.work(device))
    assert clock.take_waited() == pytest.approx(4 * waits, abs=0.15)
    assert clock.take_waited() == 0
    clock.close()


def test_the_loop_cannot_run_ahead_without_end(monkeypatch: pytest.MonkeyPatch):
    simulated = Device(monkeypatch)
    clock = DeviceClock(most_in_flight=2)
    begin = time.perf_counter()
    for _ in range(6):
        clock.dispatched(simulated.work(0.05))
        last = time.perf_counter()
    assert last - begin > 0.1
    clock.close()


def test_an_error_on_the_device_reaches_the_loop(monkeypatch: pytest.MonkeyPatch):
    simulated = Device(monkeypatch)
    clock = DeviceClock()
    clock.dispatched(simulated.work(0.0, RuntimeError("out of memory")))
    time.sleep(0.1)
    with pytest.raises(RuntimeError, match="out of memory"):
        clock.dispatched(simulated.work(0.0))
    clock.close()


def test_real_arrays():
    clock = DeviceClock()
    for batch in clock.batches(iter([1.0, 2.0])):
        clock.dispatched({"loss": jnp.asarray(batch)})
    assert clock.take_waited() >= 0
    clock.close()
