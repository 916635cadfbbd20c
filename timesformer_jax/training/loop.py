"""The training loop: one function, from the first batch to the last checkpoint."""

import logging
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from tqdm import tqdm

from timesformer_jax.preemption import Preempted, watch_preemption
from timesformer_jax.progress import duration, number
from timesformer_jax.training.checkpoints import Checkpoints
from timesformer_jax.training.clock import DeviceClock
from timesformer_jax.training.log_lines import accuracy_text, step_line
from timesformer_jax.training.memory import REMEDIES, out_of_memory_told
from timesformer_jax.training.mesh import to_devices
from timesformer_jax.training.step import Metrics, TrainState
from timesformer_jax.training.window import Window

log = logging.getLogger("timesformer_jax")

TrainStep = Callable[[TrainState, dict[str, jax.Array]], tuple[TrainState, Metrics]]


class Plan(NamedTuple):
    """Length of the training and intervals of its logs, validations and checkpoints, in steps."""

    total_steps: int
    """Number of steps of the whole training, including earlier runs that it resumes."""
    batch_size: int
    """Clips per step, over all processes."""
    log_every: int
    """Steps between two logs."""
    evaluate_every: int
    """Steps between two validations."""
    checkpoint_every: int
    """Steps between two checkpoints."""
    most_skipped: int = 10
    """Stop after this many consecutive non-finite steps; isolated ones are skipped."""
    stop_below: float = -math.inf
    """Stop early once the mean loss between two logs is below this."""
    compiled_ahead: bool = True
    """Compile the step ahead of time. False lets `jax.debug_nans` run it operation by operation, which needs a step without
    donation."""
    steps_per_epoch: float | None = None
    """Steps per epoch, to show the epoch in the log."""


def train(
    *,
    state: TrainState,
    train_step: TrainStep,
    batches: Iterator[dict[str, np.ndarray]],
    mesh: Mesh,
    plan: Plan,
    learning_rate: Callable[[int], Any],
    flops_per_clip: float,
    write_scalars: Callable[[int, Mapping[str, float]], None],
    checkpoints: Checkpoints,
    pipeline_state: Callable[[int], Mapping[str, Any]],
    evaluate: Callable[[TrainState, Callable[[], None]], tuple[Mapping[str, float], float]],
    profile: str | None = None,
) -> TrainState:
    """Train from `state.step` to the end of `plan`.

    The step is compiled once, for the first batch; a batch with a different shape is an error. A checkpoint is saved after
    every validation, at the intervals of `plan`, and at the end.

    Args:
        state: Initial or restored state.
        train_step: Result of `make_train_step`.
        batches: Yields this process's share of each batch.
        mesh: Mesh of the devices.
        plan: Number of steps and intervals.
        learning_rate: Maps a step to its learning rate, for the logs.
        flops_per_clip: FLOPs of one clip's forward and backward pass (a multiply-add counts as two), to compute utilisation.
        write_scalars: Called with a step and its scalars: every `plan.log_every` steps with the result of `Window.take` and the
            learning rate, which have the prefix `train/` and are also logged as one line; after each validation with its
            scalars.
        checkpoints: Where to save.
        pipeline_state: Maps a step to the JSON that `batches` needs to resume after it, which is saved with each checkpoint.
        evaluate: Called with the state and `check`, every `plan.evaluate_every` steps and at the end; returns scalars and the
            metric that selects the best checkpoint. Since it may take longer than the grace period of a preempted machine, it
            must call `check()` regularly, the same number of times in every process, and let its exceptions propagate.
        profile: Folder for a trace of a few steps.

    Returns:
        The last state, which has been saved.

    Raises:
        Preempted: After SIGTERM or Ctrl-C, with everything saved (see `watch_preemption`).
        InputError: If too many consecutive steps were not finite, a checkpoint can't be written, or the device has too little
            memory.
    """
    first_step = int(state.step)
    clock = DeviceClock()
    incoming = clock.batches(batches)
    window = Window(clock, batch_size=plan.batch_size, flops_per_clip=flops_per_clip, most_skipped=plan.most_skipped)
    remaining = _Remaining(window, plan.total_steps, first_step)
    loss = math.inf

    def report(step: int) -> None:
        """Write and log the window that ended with `step`."""
        nonlocal loss
        figures = {**window.take(step), "learning_rate": float(learning_rate(step - 1))}
        loss = figures["loss"]
        write_scalars(step, {f"train/{name}": value for name, value in figures.items()})
        left = remaining.seconds(step)
        line = step_line(step, plan.total_steps, figures, steps_per_epoch=plan.steps_per_epoch, seconds_left=left)
        log.info("%s", line)
        remaining.tell_once(step)
        if figures.get("skipped"):
            log.warning("Skipped %d step(s) up to step %d: the loss or the gradient was not finite.", figures["skipped"], step)
        bar.set_postfix_str("loss " + line.partition(" loss ")[2])

    def evaluated(step: int, state: TrainState) -> float | None:
        """Evaluate and return the metric that selects the best checkpoint; None if preempted meanwhile."""
        try:
            scalars, metric = evaluate(state, check)
        except Preempted:
            return None
        write_scalars(step, scalars)
        figures = {name.rpartition("/")[2]: value for name, value in scalars.items()}
        log.info("step %d/%d validation: %s", step, plan.total_steps, accuracy_text(figures))
        return metric

    # For terminals; the log shows the same figures.
    bar = tqdm(
        total=plan.total_steps,
        initial=first_step,
        desc="train",
        unit="step",
        dynamic_ncols=True,
        disable=not sys.stderr.isatty() or jax.process_index() > 0,
    )
    profiler = _Profiler(profile, first_step, plan.total_steps)
    compiled: Any = None
    try:
        remedies = REMEDIES["cnn" if state.batch_stats else "model"]
        with watch_preemption() as stops, out_of_memory_told(lambda: compiled, remedies):

            def check() -> None:
                if stops():
                    raise stops.preempted("validation was cut short")

            for step in range(first_step + 1, plan.total_steps + 1):
                batch = to_devices(next(incoming), mesh)
                if compiled is None:
                    compiled = compile_step(train_step, state, batch) if plan.compiled_ahead else train_step
                profiler.before(step)
                state, metrics = compiled(state, batch)
                clock.dispatched(metrics)
                profiler.after(step, metrics)
                # The window that ended with the previous step is reported now: fetching its metrics blocks until the device has
                # them, and this step keeps the device busy meanwhile.
                if len(window) == plan.log_every:
                    report(step - 1)
                window.add(metrics)
                if step == first_step + 1:  # exclude compilation and filling the pipeline from the rates
                    clock.restart()
                bar.update()
                last = step == plan.total_steps or loss < plan.stop_below
                ends = stops()
                evaluates = not ends and (step % plan.evaluate_every == 0 or (last and plan.evaluate_every <= step))
                # Every evaluated state is saved: otherwise the best one might not be.
                saves = evaluates or last or ends or step % plan.checkpoint_every == 0
                if saves:
                    report(step)
                    began = time.perf_counter()
                    metric = evaluated(step, state) if evaluates else None
                    checkpoints.save(state, step, pipeline_state(step), metric)
                    clock.restart()
                    remaining.between += time.perf_counter() - began
                    ends = ends or (evaluates and metric is None)
                if ends:
                    checkpoints.wait()
                    unjudged = "; its validation was cut short, so it can't be the best" if evaluates else ""
                    raise stops.preempted(f"saved step {step} of {plan.total_steps}{unjudged}")
                if last:
                    break
    finally:
        bar.close()
        clock.close()
        profiler.close()
    return state


def compile_step(train_step: TrainStep, state: TrainState, batch: dict[str, jax.Array]) -> Any:
    """Compile the step for these shapes only, and log the time and memory."""
    jitted: Any = train_step
    began = time.perf_counter()
    compiled = jitted.lower(state, batch).compile()
    seconds = time.perf_counter() - began
    memory = compiled.memory_analysis()
    needed = (
        f"; on each device {memory.argument_size_in_bytes / 2**20:.0f} MiB of state and batch, and "
        f"{memory.temp_size_in_bytes / 2**20:.0f} MiB of temporary memory"
        if memory is not None
        else ""
    )
    log.info("Compiled the step in %.1f s%s.", seconds, needed)
    return compiled


class _Remaining:
    """Estimate the remaining time from this run's steps, validations and checkpoints so far."""

    def __init__(self, window: Window, total_steps: int, first_step: int):
        self._window, self._total_steps, self._first_step = window, total_steps, first_step
        self._told = False
        self.between = 0.0
        """Seconds spent on validations and checkpoints so far."""

    def seconds(self, step: int) -> float | None:
        """Estimated seconds from `step` to the end; None if no steps remain or none have been timed."""
        left, timed = self._total_steps - step, self._window.timed
        if left <= 0 or not timed.steps:
            return None
        return left * (timed.seconds / timed.steps + self.between / (step - self._first_step))

    def tell_once(self, step: int) -> None:
        """Log the estimated time for all steps as soon as it is available; later calls do nothing."""
        if self._told or self.seconds(step) is None:
            return
        self._told = True
        timed, steps = self._window.timed, self._total_steps - self._first_step
        log.info(
            "Estimated time for the %s run: %s (%d steps of %s s; validations and checkpoints not included).",
            "rest of the" if self._first_step else "whole",
            duration(steps * timed.seconds / timed.steps),
            steps,
            number(timed.seconds / timed.steps),
        )


class _Profiler:
    """Trace `NUM_STEPS` steps, starting at the tenth of this run (earlier in short runs), if a folder is given."""

    NUM_STEPS = 5

    def __init__(self, folder: str | None, first_step: int, total_steps: int):
        self._folder = folder if jax.process_index() == 0 else None
        self._from = min(first_step + 10, max(total_steps - self.NUM_STEPS, first_step) + 1)
        self._running = False

    def before(self, step: int) -> None:
        if self._folder is not None and step == self._from:
            jax.profiler.start_trace(self._folder)
            self._running = True

    def after(self, step: int, metrics: Metrics) -> None:
        if self._running and step == self._from + self.NUM_STEPS - 1:
            jax.block_until_ready(metrics)
            self.close()

    def close(self) -> None:
        if self._running:
            self._running = False
            jax.profiler.stop_trace()
            log.info("Wrote a trace of the steps from %d on to %s; open it in TensorBoard or xprof.", self._from, self._folder)
