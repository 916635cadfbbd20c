"""The training loop: one function, from the first batch to the last checkpoint."""

import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from tqdm import tqdm

from timesformer_jax.errors import InputError
from timesformer_jax.training.checkpoints import Checkpoints
from timesformer_jax.training.clock import DeviceClock
from timesformer_jax.training.sharding import to_devices
from timesformer_jax.training.step import Metrics, TrainState


def train(
    *,
    state: TrainState,
    train_step: Callable[[TrainState, dict[str, jax.Array]], tuple[TrainState, Metrics]],
    batches: Iterator[dict[str, np.ndarray]],
    mesh: Mesh,
    total_steps: int,
    batch_size: int,
    learning_rate: Callable[[int], Any],
    write_scalars: Callable[[int, Mapping[str, float]], None],
    log_every_steps: int,
    checkpoints: Checkpoints,
    checkpoint_every_steps: int,
    pipeline_state: Callable[[int], Mapping[str, Any]],
    evaluate: Callable[[TrainState], Mapping[str, float]],
    evaluate_every_steps: int,
) -> TrainState:
    """Trains from `state.step` to `total_steps` and returns the last state, saved.

    `batches` yields this host's part of each batch, `batch_size` counts the clips of all hosts. Every `log_every_steps` the
    means since the last log are written: loss, top1, grad_norm, learning rate, clips per second and the share of the time
    that the devices waited for data. `pipeline_state(step)`, saved with each checkpoint, is what `batches` would need to go on
    behind that step. `evaluate` returns scalars, which are written too.

    Raises `InputError` where the loss or the gradient is no longer finite.
    """
    first_step = int(state.step)
    clock = DeviceClock()
    incoming = clock.batches(batches)
    window: list[Metrics] = []
    window_began, timed_steps = time.perf_counter(), 0

    def report(step: int) -> None:
        """Writes the means of the window that ended with `step`."""
        nonlocal window, window_began, timed_steps
        values = jax.device_get(window)
        means = {f"train/{name}": float(np.mean([value[name] for value in values])) for name in values[0]}
        for what in ("loss", "grad_norm"):
            if not math.isfinite(means[f"train/{what}"]):
                raise InputError(
                    f"The {what} is {means[f'train/{what}']} at step {step}: lower optimizer.learning_rate, lengthen its "
                    f"warm-up or clip gradients (optimizer.clip_norm). The newest checkpoint is of step "
                    f"{checkpoints.latest_step}."
                )
        seconds = time.perf_counter() - window_began
        means["train/learning_rate"] = float(learning_rate(step - 1))
        means["train/clips_per_second"] = timed_steps * batch_size / seconds
        means["train/waiting_for_data"] = min(clock.take_waited() / seconds, 1.0)
        write_scalars(step, means)
        bar.set_postfix_str(
            f"loss {means['train/loss']:.3f}, top-1 {means['train/top1']:.1%}, "
            f"{means['train/clips_per_second']:.0f} clips/s, {means['train/waiting_for_data']:.0%} waiting for data"
        )
        window, window_began, timed_steps = [], time.perf_counter(), 0

    # The bar is for a person at a terminal; the log has the same figures.
    bar = tqdm(
        total=total_steps, initial=first_step, desc="train", unit="step", dynamic_ncols=True, disable=not sys.stderr.isatty()
    )
    try:
        for step in range(first_step + 1, total_steps + 1):
            state, metrics = train_step(state, to_devices(next(incoming), mesh))
            clock.dispatched(metrics)
            timed_steps += 1
            # The window that ended with the step before is reported now: fetching its metrics waits for the device, which
            # has this step to work on meanwhile.
            if len(window) == log_every_steps:
                report(step - 1)
            window.append(metrics)
            if step == first_step + 1 < total_steps:  # the first step compiles; leave that out of the rates
                jax.block_until_ready(metrics)
                clock.take_waited()
                window_began, timed_steps = time.perf_counter(), 0
            bar.update()
            last = step == total_steps
            if last or step % evaluate_every_steps == 0 or step % checkpoint_every_steps == 0:
                report(step)
                if last or step % checkpoint_every_steps == 0:
                    checkpoints.save(state, step, pipeline_state(step))
                if step % evaluate_every_steps == 0 and not last:
                    write_scalars(step, evaluate(state))
                window_began = time.perf_counter()
                clock.take_waited()
    finally:
        bar.close()
        clock.close()
    return state
