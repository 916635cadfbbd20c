"""The steps since the last report: their means, and how fast they went."""

from typing import Any

import jax
import numpy as np

from timesformer_jax.errors import InputError
from timesformer_jax.training.chips import device_memory, peak_teraflops
from timesformer_jax.training.clock import DeviceClock, Timing
from timesformer_jax.training.step import Metrics

SUMS = ("skipped",)
"""Metrics that are added up; of the others the mean is reported."""


class Window:
    """Collects the metrics of steps, as they are on the devices, and reports them with rates.

    `clock` is told of every step, and each one is added here.

    `batch_size` counts the clips of a step, `flops_per_clip` what a clip's forward and backward pass takes (operations, a
    multiply-add being two). `most_skipped`: so many skipped steps in a row end training.
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
        """All steps so far whose time is known."""

    def __len__(self) -> int:
        return len(self._metrics)

    def add(self, metrics: Metrics) -> None:
        """One more step, as it was dispatched."""
        self._metrics.append(metrics)
        self._num_steps += 1

    def take(self, step: int) -> dict[str, float]:
        """The report of the window that ended with `step`; the next one begins.

        Steps that were skipped have no part in the means. Rates are missing where the steps were too few or too fast to time.

        Raises `InputError` where too many in a row were skipped.
        """
        values: list[dict[str, Any]] = jax.device_get(self._metrics)
        in_a_row = max(int(value.get("skipped_in_a_row", 0)) for value in values)
        if in_a_row >= self._most_skipped:
            raise InputError(
                f"The loss or the gradient was not finite in {in_a_row} steps in a row, up to step {step} or shortly before; "
                "they were skipped, and the parameters are those from before. Lower optimizer.learning_rate, lengthen its "
                "warm-up or clip gradients (optimizer.clip_norm); --config.debug=True shows where the first such number arises."
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
