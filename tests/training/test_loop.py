"""The training loop: logging intervals, window means, checkpoints and evaluations at their steps."""

import os
import re
import signal
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import timesformer_jax as tsf
from timesformer_jax import training
from timesformer_jax.training.chips import peak_teraflops
from timesformer_jax.training.loop import compile_step
from timesformer_jax.training.memory import REMEDIES, out_of_memory_told


class Checkpoints:
    """Records the saved steps and their metrics."""

    latest_step = None

    def __init__(self):
        self.saved: dict[int, float | None] = {}

    def save(self, state: Any, step: int, pipeline: dict[str, int], metric: float | None) -> None:
        assert int(state.step) == step == pipeline["step"]
        self.saved[step] = metric

    def wait(self) -> None:
        pass


def state_of(step: int) -> training.TrainState:
    zero = jnp.zeros((), jnp.int32)
    return training.TrainState(jnp.asarray(step, jnp.int32), {}, {}, None, zero, zero)


def run(
    losses: list[float],
    *,
    first_step: int = 0,
    seconds: float = 0.0,
    on_batch: Any = None,
    on_evaluation: Any = None,
    **changes: Any,
):
    """Train for one step per loss, with a step function that returns the losses; each batch takes some seconds."""
    written: list[tuple[int, dict[str, float]]] = []
    evaluated: list[int] = []
    checkpoints = Checkpoints()
    table = jnp.asarray([*losses, 0.0], jnp.float32)

    @jax.jit
    def step(state: training.TrainState, batch: dict[str, jax.Array]):
        loss = table[state.step - first_step]
        bad = 1 - jnp.isfinite(loss).astype(jnp.int32)
        in_a_row = bad * (state.skipped_in_a_row + 1)
        metrics = {"loss": loss, "top1": jnp.float32(0.5), "skipped": bad, "skipped_in_a_row": in_a_row}
        return state.replace(step=state.step + 1, skipped=state.skipped + bad, skipped_in_a_row=in_a_row), metrics

    def batches():
        number = 0
        while True:
            time.sleep(seconds)
            number += 1
            if on_batch is not None:
                on_batch(number)
            yield {"label": np.zeros(4, np.int32)}

    def evaluate(state: training.TrainState, check: Any) -> tuple[dict[str, float], float]:
        if on_evaluation is not None:
            on_evaluation(checkpoints)
        check()
        evaluated.append(int(state.step))
        return {"val/top1": 0.25}, 0.25

    plan = training.Plan(
        total_steps=first_step + len(losses), batch_size=4, log_every=2, evaluate_every=100, checkpoint_every=100
    )
    final = training.train(
        state=state_of(first_step),
        train_step=step,
        batches=batches(),
        mesh=training.make_mesh(jax.devices()[:1]),
        plan=plan._replace(**changes),
        learning_rate=lambda step: 0.1 * step,
        flops_per_clip=1e9,
        write_scalars=lambda step, scalars: written.append((step, dict(scalars))),
        checkpoints=checkpoints,
        pipeline_state=lambda step: {"step": step},
        evaluate=evaluate,
    )
    return final, written, checkpoints.saved, evaluated


@pytest.fixture(autouse=True)
def untyped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Disable the run-time type check, since the stand-in isn't of the checkpoints' class."""
    monkeypatch.setattr(training, "train", getattr(training.train, "__wrapped__", training.train))


def test_loop_reports_window_means_and_a_final_report():
    final, written, saved, evaluated = run([1.0, 3.0, 5.0, 7.0, 9.0])
    assert int(final.step) == 5
    assert [(step, values["train/loss"]) for step, values in written] == [(2, 2.0), (4, 6.0), (5, 9.0)]
    assert [values["train/learning_rate"] for _, values in written] == pytest.approx([0.1, 0.3, 0.4])
    assert saved == {5: None}
    assert evaluated == []


def test_checkpoints_and_evaluations_happen_at_their_steps():
    """Evaluated steps are saved with their metric, including the last step, whatever the other interval."""
    _, written, saved, evaluated = run([1.0] * 7, first_step=2, checkpoint_every=6, evaluate_every=4)
    assert saved == {4: 0.25, 6: None, 8: 0.25, 9: 0.25}
    assert evaluated == [4, 8, 9]
    assert [step for step, values in written if "val/top1" in values] == [4, 8, 9]


@pytest.mark.parametrize("log_every", [4, 1])
def test_rates_exclude_the_first_step(log_every: int):
    """Batches take 0.1 s and nothing else takes time: 40 clips per second, all of it waiting, in every window."""
    _, written, _, _ = run([1.0] * 8, seconds=0.1, log_every=log_every)
    timed = [values for _, values in written if "train/clips_per_second" in values]
    assert len(timed) == (2 if log_every == 4 else 7)  # the very first step has no rate
    # A busy machine may register the end of a step late, which shortens the next window: only their sum is reliable.
    steps = [3, 4] if log_every == 4 else [1] * 7
    seconds = [4 * n / values["train/clips_per_second"] for n, values in zip(steps, timed, strict=True)]
    waited = sum(each * values["train/waiting_for_data"] for each, values in zip(seconds, timed, strict=True))
    assert sum(seconds) > 0.35
    assert waited > 0.2


def test_rates_are_never_zero():
    """Even if a checkpoint falls one step after a log line, or a window is too short to time."""
    _, written, _, _ = run([1.0] * 7, seconds=0.1, checkpoint_every=3, log_every=2)
    assert [step for step, _ in written] == [2, 3, 5, 6, 7]
    rates = [value for _, values in written for name, value in values.items() if "per_second" in name or "teraflops" in name]
    assert len(rates) >= 6
    assert all(rate > 0 for rate in rates)
    _, written, _, _ = run([1.0] * 4, log_every=1)
    assert len(written) == 4
    assert not any("train/waiting_for_data" in values for _, values in written[:1])


def test_log_has_a_line_per_window(caplog: pytest.LogCaptureFixture):
    with caplog.at_level("INFO", logger="timesformer_jax"):
        run([1.0, 3.0, 5.0, 7.0, 9.0, 9.0], seconds=0.15, evaluate_every=4, steps_per_epoch=3.0)
    lines = [record.getMessage() for record in caplog.records]
    rates = r"[\d.]+ clips/s \d+ % waiting for data"
    expected = [
        rf"step 2/6 \(epoch 0\.67\) loss 2 top1 50\.0 % lr 1\.0e-1 {rates} ETA \d s",
        r"Estimated time for the whole run: \d s \(6 steps of [\d.]+ s; validations and checkpoints not included\)\.",
        rf"step 4/6 \(epoch 1\.3\) loss 6 top1 50\.0 % lr 3\.0e-1 {rates} ETA \d s",
        r"step 4/6 validation: top1 25\.0 %",
        rf"step 6/6 \(epoch 2\.0\) loss 9 top1 50\.0 % lr 5\.0e-1 {rates}",
        r"step 6/6 validation: top1 25\.0 %",
    ]
    reported = [line for line in lines if line.startswith(("step", "Estimated"))]
    assert len(reported) == len(expected)
    for line, pattern in zip(reported, expected, strict=True):
        assert re.fullmatch(pattern, line)


def test_finished_run_has_nothing_to_do():
    final, written, saved, _ = run([], first_step=3)
    assert int(final.step) == 3
    assert (written, saved) == ([], {})


NAN = float("nan")


def test_non_finite_steps_are_counted_and_excluded_from_the_means(caplog: pytest.LogCaptureFixture):
    with caplog.at_level("WARNING", logger="timesformer_jax"):
        final, written, _, _ = run([1.0, NAN, 3.0, 5.0, NAN, 7.0])
    assert [values["train/loss"] for _, values in written] == [1.0, 4.0, 7.0]
    assert [values["train/skipped"] for _, values in written] == [1, 0, 1]
    assert int(final.skipped) == 2
    assert "Skipped 1 step(s) up to step 2" in caplog.text


@pytest.mark.parametrize("losses", [[1.0, NAN, NAN, NAN, 1.0, 1.0, 1.0, 1.0], [NAN] * 8])
def test_too_many_consecutive_non_finite_steps_end_training(losses: list[float]):
    """Even if they are over when the window is reported."""
    with pytest.raises(
        tsf.InputError, match=r"not finite in \d steps in a row, up to step \d or shortly before; they were skipped"
    ):
        run(losses, most_skipped=3, log_every=4)


def test_training_ends_early_once_the_loss_is_low_enough():
    final, _, saved, _ = run([1.0, 0.5, 0.1, 0.0, 0.0, 0.0, 0.0, 0.0], stop_below=0.2)
    assert int(final.step) == 5
    assert saved == {5: None}


def test_first_interrupt_saves_and_second_exits_at_once(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("timesformer_jax.preemption.SAME_INTERRUPT", 0.01)
    times = 0

    def interrupt(number: int) -> None:
        if number >= 4:
            nonlocal times
            times += 1
            os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(training.Preempted, match=r"^Interrupted: saved step 4 of 9\. The same command resumes") as stopped:
        run([1.0] * 9, on_batch=interrupt)
    assert stopped.value.interrupted
    assert times == 1
    assert signal.getsignal(signal.SIGINT) is before

    def interrupt_twice(number: int) -> None:
        interrupt(number)
        time.sleep(0.02)
        interrupt(number)

    with pytest.raises(KeyboardInterrupt):
        run([1.0] * 9, on_batch=interrupt_twice)
    assert times == 3


def test_sigterm_saves_and_stops():
    """On SIGTERM the current step is saved, and no further step runs."""

    def send_sigterm(number: int) -> None:
        if number == 4:
            os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(training.Preempted, match=r"^Stopped early: saved step 4 of 9\. The same command resumes"):
        run([1.0] * 9, on_batch=send_sigterm)
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("steps", [6, 4])
def test_sigterm_during_validation_saves_without_a_metric(steps: int):
    """Validation may take longer than the grace period, so it is abandoned and its step saved without a metric."""
    seen: list[Checkpoints] = []

    def send_sigterm(checkpoints: Checkpoints) -> None:
        seen.append(checkpoints)
        os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(training.Preempted, match=rf"saved step 4 of {steps}; its validation was cut short"):
        run([1.0] * steps, on_evaluation=send_sigterm, evaluate_every=4)
    assert [checkpoints.saved for checkpoints in seen] == [{4: None}]


def test_train_step_is_compiled_once_for_fixed_shapes():
    """A batch of another shape is an error instead of another minute of compilation."""
    step = jax.jit(lambda state, batch: (state, {"loss": batch["video"].sum()}))
    compiled = compile_step(step, state_of(0), {"video": jnp.zeros((4, 2))})
    compiled(state_of(0), {"video": jnp.ones((4, 2))})
    with pytest.raises(TypeError):
        compiled(state_of(0), {"video": jnp.ones((3, 2))})


def test_out_of_memory_error_names_the_settings_to_change():
    compiled = jax.jit(lambda x: x + 1).lower(jnp.zeros(4)).compile()
    text = "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 12884901888 bytes.\nmore"
    words = r"needs 0\.0 GiB on each device: too much\. Lower train\.batch_size, .*accumulation.* model\.remat=full"
    with pytest.raises(tsf.InputError, match=words), out_of_memory_told(lambda: compiled):
        raise jax.errors.JaxRuntimeError(text)
    with pytest.raises(tsf.InputError, match=r"or set cnn\.dtype"), out_of_memory_told(lambda: compiled, REMEDIES["cnn"]):
        raise jax.errors.JaxRuntimeError(text)
    with pytest.raises(tsf.InputError, match="allocate 12884901888 bytes: too much"), out_of_memory_told(lambda: None):
        raise jax.errors.JaxRuntimeError(text)
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"), out_of_memory_told(lambda: None):
        raise jax.errors.JaxRuntimeError("INTERNAL: something else")


@pytest.mark.parametrize(
    ("kind", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989.0),
        ("NVIDIA A100-SXM4-80GB", 312.0),
        ("TPU v5 lite", 197.0),
        ("TPU v4", 275.0),
        ("cpu", None),
    ],
)
def test_peak_flops_of_known_chips(kind: str, peak: float | None):
    assert peak_teraflops(kind) == peak
