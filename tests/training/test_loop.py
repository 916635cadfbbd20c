"""The loop: what is logged when, means over the window, checkpoints and evaluations at their steps."""

import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import timesformer_jax as tsf
from timesformer_jax import training


class Checkpoints:
    """Records what was saved."""

    latest_step = None

    def __init__(self):
        self.steps: list[int] = []

    def save(self, state: Any, step: int, pipeline: dict[str, int]) -> None:
        assert int(state.step) == step == pipeline["step"]
        self.steps.append(step)


def run(losses: list[float], *, first_step: int = 0, seconds: float = 0.0, **changes: Any):
    """Trains for as many steps as there are losses, with a step that returns them; each batch takes some seconds."""
    written: list[tuple[int, dict[str, float]]] = []
    evaluated: list[int] = []
    checkpoints = Checkpoints()

    def step(state: training.TrainState, batch: dict[str, jax.Array]):
        loss = jnp.float32(losses[int(state.step) - first_step])
        metrics = {"loss": loss, "top1": jnp.float32(0.5), "grad_norm": jnp.float32(1.0)}
        return training.TrainState(step=state.step + 1, params={}, opt_state={}), metrics

    def batches():
        while True:
            time.sleep(seconds)
            yield {"label": np.zeros(4, np.int32)}

    def evaluate(state: training.TrainState) -> dict[str, float]:
        evaluated.append(int(state.step))
        return {"val/top1": 0.25}

    options = {
        "total_steps": first_step + len(losses),
        "batch_size": 4,
        "learning_rate": lambda step: 0.1 * step,
        "log_every_steps": 2,
        "checkpoint_every_steps": 100,
        "evaluate_every_steps": 100,
        "pipeline_state": lambda step: {"step": step},
        **changes,
    }
    state = training.TrainState(step=jnp.int32(first_step), params={}, opt_state={})
    final = training.train(
        state=state,
        train_step=step,
        batches=batches(),
        mesh=training.make_mesh(jax.devices()[:1]),
        write_scalars=lambda step, scalars: written.append((step, dict(scalars))),
        checkpoints=checkpoints,
        evaluate=evaluate,
        **options,
    )
    return final, written, checkpoints.steps, evaluated


@pytest.fixture(autouse=True)
def untyped(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stand-in for the checkpoints isn't of their class, which the run-time type check would refuse."""
    monkeypatch.setattr(training, "train", getattr(training.train, "__wrapped__", training.train))


def test_means_over_the_window_and_a_last_report():
    final, written, saved, evaluated = run([1.0, 3.0, 5.0, 7.0, 9.0])
    assert int(final.step) == 5
    assert [(step, values["train/loss"]) for step, values in written] == [(2, 2.0), (4, 6.0), (5, 9.0)]
    assert [values["train/learning_rate"] for _, values in written] == pytest.approx([0.1, 0.3, 0.4])
    assert saved == [5]
    assert evaluated == []


def test_checkpoints_and_evaluations_come_at_their_steps():
    _, written, saved, evaluated = run([1.0] * 7, first_step=2, checkpoint_every_steps=3, evaluate_every_steps=4)
    assert saved == [3, 6, 9]
    assert evaluated == [4, 8]
    assert [(step, values["val/top1"]) for step, values in written if "val/top1" in values] == [(4, 0.25), (8, 0.25)]


def test_rates_leave_the_first_step_out():
    """A batch takes 0.1 s and nothing else does: 40 clips a second, all of the time waiting."""
    _, written, _, _ = run([1.0] * 8, seconds=0.1, log_every_steps=4)
    for _, values in written:
        assert 15 < values["train/clips_per_second"] < 42  # fewer where the machine is busy with something else
        assert values["train/waiting_for_data"] > 0.6


def test_nothing_left_to_do():
    final, written, saved, _ = run([], first_step=3)
    assert int(final.step) == 3
    assert (written, saved) == ([], [])


def test_a_loss_that_is_not_finite():
    with pytest.raises(tsf.InputError, match=r"The loss is nan at step 2"):
        run([1.0, float("nan"), 1.0, 1.0])
