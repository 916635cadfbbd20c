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
from timesformer_jax.training.memory import out_of_memory_told
from timesformer_jax.training.mesh import to_devices
from timesformer_jax.training.step import Metrics, TrainState
from timesformer_jax.training.window import Window

log = logging.getLogger("timesformer_jax")

TrainStep = Callable[[TrainState, dict[str, jax.Array]], tuple[TrainState, Metrics]]


class Plan(NamedTuple):
    """What happens at which step. `batch_size` counts the clips of all processes."""

    total_steps: int
    batch_size: int
    log_every: int
    evaluate_every: int
    checkpoint_every: int
    most_skipped: int = 10
    stop_below: float = -math.inf
    """Training ends early where the mean loss between two logs is below this."""
    compiled_ahead: bool = True
    """False lets JAX take the step apart where it has been told to look for NaN (which needs a step that donates nothing)."""
    steps_per_epoch: float | None = None
    """For the epochs in the log."""


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
    """Trains from `state.step` to the end of `plan` and returns the last state, saved.

    `batches` yields this process's part of each batch. Every `log_every` steps the figures of `Window.take` and the learning
    rate are written, under `train/`, and logged as one line. `pipeline_state(step)`, saved with each checkpoint, is what
    `batches` would need to go on behind that step. `evaluate(state, check)` returns scalars, which are written too, and the
    number that tells the best checkpoint; it comes at the end too, and a checkpoint is saved whenever it has come. It may take
    longer than a machine that goes away waits: it calls `check()` every now and then, every process equally often, and lets
    through what that raises. `profile`: a folder for a trace of a few steps.

    The step is compiled once, for the first batch; a batch of another shape is an error.

    Raises `Preempted`, with everything saved, after SIGTERM or Ctrl-C (see `watch_preemption`); `InputError` where too many
    steps in a row were not finite, a checkpoint can't be written, or the device has too little memory.
    """
    first_step = int(state.step)
    clock = DeviceClock()
    incoming = clock.batches(batches)
    window = Window(clock, batch_size=plan.batch_size, flops_per_clip=flops_per_clip, most_skipped=plan.most_skipped)
    remaining = _Remaining(window, plan.total_steps, first_step)
    loss = math.inf

    def report(step: int) -> None:
        """Writes what happened in the window that ended with `step`."""
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
        """The number that tells the best checkpoint, None if training has to stop meanwhile."""
        try:
            scalars, metric = evaluate(state, check)
        except Preempted:
            return None
        write_scalars(step, scalars)
        figures = {name.rpartition("/")[2]: value for name, value in scalars.items()}
        log.info("step %d/%d validation: %s", step, plan.total_steps, accuracy_text(figures))
        return metric

    # For a terminal; the log has the same figures.
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
        with watch_preemption() as stops, out_of_memory_told(lambda: compiled):

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
                # The window that ended with the step before is reported now: fetching its metrics waits for the device, which
                # has this step to work on meanwhile.
                if len(window) == plan.log_every:
                    report(step - 1)
                window.add(metrics)
                if step == first_step + 1:  # compiling, filling the pipeline: no part of the rates
                    clock.restart()
                bar.update()
                last = step == plan.total_steps or loss < plan.stop_below
                ends = stops()
                evaluates = not ends and (step % plan.evaluate_every == 0 or (last and plan.evaluate_every <= step))
                # What has been judged is kept: else the best one could be one that wasn't saved.
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
    """The step compiled for these shapes and no others."""
    jitted: Any = train_step
    began = time.perf_counter()
    compiled = jitted.lower(state, batch).compile()
    seconds = time.perf_counter() - began
    memory = compiled.memory_analysis()
    needed = (
        f"; on each device {memory.argument_size_in_bytes / 2**20:.0f} MiB of state and batch, and "
        f"{memory.temp_size_in_bytes / 2**20:.0f} MiB while it runs"
        if memory is not None
        else ""
    )
    log.info("Compiled the step in %.1f s%s.", seconds, needed)
    return compiled


class _Remaining:
    """Estimates the time to the end from this run's steps, validations and checkpoints so far."""

    def __init__(self, window: Window, total_steps: int, first_step: int):
        self._window, self._total_steps, self._first_step = window, total_steps, first_step
        self._told = False
        self.between = 0.0
        """Seconds of the validations and checkpoints so far."""

    def seconds(self, step: int) -> float | None:
        """To the end from `step`; None if nothing is left, or nothing has been timed yet."""
        left, timed = self._total_steps - step, self._window.timed
        if left <= 0 or not timed.steps:
            return None
        return left * (timed.seconds / timed.steps + self.between / (step - self._first_step))

    def tell_once(self, step: int) -> None:
        """Logs the estimate for all steps, as soon as there is one."""
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
    """Traces the steps from the tenth of this run on (or what there is), where a folder is given."""

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
            log.info("A trace of steps from %d on is in %s: see it with TensorBoard or xprof.", self._from, self._folder)
