"""Means and rates of the steps since the last report."""

from typing import Any

import jax
import numpy as np

from timesformer_jax.errors import InputError
from timesformer_jax.training.chips import device_memory, peak_teraflops
from timesformer_jax.training.clock import DeviceClock, Timing
from timesformer_jax.training.step import Metrics

SUMS = ("skipped",)
"""Metrics that are summed; the others are averaged."""


class Window:
    """Collect the metrics of steps on the devices, and report them together with rates.

    Args:
        clock: Clock with which every step is registered as well.
        batch_size: Number of clips per step.
        flops_per_clip: FLOPs of one clip's forward and backward pass (a multiply-add counts as two).
        most_skipped: Number of consecutive skipped steps that end training.
    """

    def __init__(self, clock: DeviceClock, *, batch_size: int, flops_per_clip: float, most_skipped: int):
        self._clock = clock
        self._batch_size = batch_size
        self._flops_per_clip = flops_per_clip
        self._most_skipped = most_skipped
        self._peak = peak_teraflops(jax.devices()[0].device_kind)
        self._metrics: list[Metrics] = []
        self._num_steps = 0
        self.timed = Timing(0, 0.0, 0.0)
        """Timing of all steps so far that could be timed."""

    def __len__(self) -> int:
        return len(self._metrics)

    def add(self, metrics: Metrics) -> None:
        """Add the metrics of a dispatched step."""
        self._metrics.append(metrics)
        self._num_steps += 1

    def take(self, step: int) -> dict[str, float]:
        """Report the window that ended with `step`, and begin the next one.

        Means exclude skipped steps. Rates are missing if the steps were too few or too fast to time.

        Raises `InputError` if too many consecutive steps were skipped.
        """
        values: list[dict[str, Any]] = jax.device_get(self._metrics)
        in_a_row = max(int(value.get("skipped_in_a_row", 0)) for value in values)
        if in_a_row >= self._most_skipped:
            raise InputError(
                f"The loss or the gradient was not finite in {in_a_row} steps in a row, up to step {step} or shortly before; "
                "they were skipped, and the parameters are those from before. Lower optimizer.learning_rate, lengthen its "
                "warm-up or clip gradients (optimizer.clip_norm); debug=True shows where it first happens."
            )
        good = [value for value in values if not value.get("skipped", 0)] or values
        report = {
            name: float(sum(value[name] for value in values) if name in SUMS else np.mean([value[name] for value in good]))
            for name in values[0]
            if name != "skipped_in_a_row"
        }
        if (timing := self._clock.take(self._num_steps)) is not None:
            report |= self._rates(timing)
            steps, seconds, waited = self.timed
            self.timed = Timing(steps + timing.steps, seconds + timing.seconds, waited + timing.waited)
        if memory := device_memory():
            report["memory_gib"] = memory[0]
        self._metrics = []
        return report

    def _rates(self, timing: Timing) -> dict[str, float]:
        clips_per_second = timing.steps * self._batch_size / timing.seconds
        teraflops = clips_per_second * self._flops_per_clip / jax.device_count() / 1e12
        return {
            "clips_per_second": clips_per_second,
            "waiting_for_data": timing.waited / timing.seconds,
            "teraflops_per_device": teraflops,
            **({} if self._peak is None else {"mfu": teraflops / self._peak}),
        }
