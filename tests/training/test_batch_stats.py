"""Running statistics of BatchNorm as a part of the training state."""

import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from timesformer_jax import InputError, evaluation, training
from timesformer_jax.cnn3d.layers import ConvNorm
from timesformer_jax.modeling import describe_model, variables_of

SGD = optax.sgd(0.1, momentum=0.9)


class Tiny(nn.Module):
    """The smallest model with BatchNorm."""

    num_classes: int = 3
    num_frames: int = 2
    image_size: int = 4

    @nn.compact
    def __call__(self, video: Any, *, train: bool = False) -> Any:
        x = ConvNorm(4, (1, 3, 3), name="pathway0_stem")(video, train=train)
        return nn.Dense(self.num_classes, name="head")(nn.relu(x).mean((1, 2, 3)))


MODEL = Tiny()


def batch(seed: int = 0) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(seed)
    video = draw.normal(1.0, 2.0, (16, 2, 4, 4, 3)).astype(np.float32)
    return {"video": video, "label": draw.integers(0, 3, 16, dtype=np.int32)}


@functools.cache
def after_steps(num_steps: int, *, devices: int = 1, accumulation: int = 1, poisoned: int = -1) -> tuple[Any, Any]:
    """The losses of some steps and the last state; the step with the index `poisoned` gets an infinite batch."""
    mesh = training.make_mesh(jax.devices()[:devices])
    state = training.init_state(MODEL, SGD, 0, mesh, ema=True)
    step = training.make_train_step(
        model=MODEL,
        optimizer=SGD,
        prepare=lambda key, batch: batch["video"],
        seed=0,
        mesh=mesh,
        accumulation=accumulation,
        ema_decay=0.9,
    )
    losses = []
    for number in range(num_steps):
        given = batch(number)
        if number == poisoned:
            given["video"] = given["video"] * np.inf
        state, metrics = step(state, training.to_devices(given, mesh))
        losses.append(float(metrics["loss"]))
    return losses, jax.device_get(state)


def convolved(params: Any, video: np.ndarray) -> np.ndarray:
    """Input of BatchNorm, with its axes but the last merged."""
    conv = nn.Conv(4, (1, 3, 3), use_bias=False)
    return np.asarray(conv.apply({"params": params["pathway0_stem"]["conv"]}, jnp.asarray(video))).reshape(-1, 4)


def test_running_statistics_move_towards_those_of_the_batch():
    params = after_steps(0)[1].params
    given = convolved(params, batch()["video"])
    running = after_steps(1)[1].batch_stats["pathway0_stem"]["bn"]
    np.testing.assert_allclose(running["mean"], 0.1 * given.mean(0), rtol=1e-4)
    np.testing.assert_allclose(running["var"], 0.9 + 0.1 * given.var(0), rtol=1e-4)


def test_micro_batches_update_running_statistics_in_turn():
    """Each is normalised with its own statistics, so the gradient is not that of the whole batch."""
    params = after_steps(0)[1].params
    expected = np.zeros(4)
    for first in range(2):
        expected = 0.9 * expected + 0.1 * convolved(params, batch()["video"][first::2]).mean(0)
    (whole, _), (parts, state) = after_steps(1), after_steps(1, accumulation=2)
    np.testing.assert_allclose(state.batch_stats["pathway0_stem"]["bn"]["mean"], expected, rtol=1e-4)
    assert abs(whole[0] - parts[0]) > 1e-4


def test_statistics_cover_the_batch_over_all_devices():
    (one, alone), (eight, state) = after_steps(3), after_steps(3, devices=8)
    np.testing.assert_allclose(one, eight, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), alone, state)


def test_skipped_step_keeps_running_statistics():
    before, after = after_steps(1)[1], after_steps(2, poisoned=1)[1]
    assert int(after.skipped) == 1
    jax.tree.map(np.testing.assert_array_equal, before.batch_stats, after.batch_stats)


def test_evaluation_uses_averaged_parameters_with_copied_statistics():
    state = after_steps(3)[1]
    weights = variables_of(state.best_weights)
    assert weights["params"] is state.ema
    assert weights["batch_stats"] is state.batch_stats
    mesh = training.make_mesh(jax.devices()[:1])
    score = evaluation.make_score_fn(model=MODEL, prepare=lambda batch: batch["video"], mesh=mesh)
    given = training.to_devices({"video": batch()["video"]}, mesh)
    video = given["video"]
    expected = jax.nn.softmax(MODEL.apply(weights, video))
    found = score(state.best_weights, given)[:, 0]
    np.testing.assert_allclose(found, expected, atol=1e-6)
    fresh = variables_of(after_steps(0)[1].best_weights)["batch_stats"]
    assert np.abs(expected - jax.nn.softmax(MODEL.apply({**weights, "batch_stats": fresh}, video))).max() > 1e-3


def test_checkpoint_restores_running_statistics(tmp_path: Path):
    mesh = training.make_mesh(jax.devices()[:1])
    state = jax.device_put(after_steps(3)[1], training.replicated(mesh))
    description = {"model": describe_model(MODEL), "optimizer": {"ema": True}}
    checkpoints = training.Checkpoints(str(tmp_path), description)
    checkpoints.save(state, 3)
    checkpoints.wait()
    restored = checkpoints.restore(training.state_shapes(MODEL, SGD, mesh, ema=True))
    jax.tree.map(np.testing.assert_array_equal, restored, state)
    weights, step = checkpoints.restore_params(MODEL, mesh)
    checkpoints.close()
    assert step == 3
    jax.tree.map(np.testing.assert_array_equal, weights, state.best_weights)


@pytest.mark.parametrize("axis", ["tensor", "context"])
def test_mesh_without_meaning_for_convolutions_is_refused(axis: str):
    with pytest.raises(InputError, match=rf"mesh.{axis}=2 .*Tiny.*: use mesh.data or mesh.fsdp"):
        training.check_mesh(MODEL, training.make_mesh(**{axis: 2}))
