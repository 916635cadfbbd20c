"""Saving, going on, and refusing what belongs to another model."""

import os
import signal
from pathlib import Path

import jax
import numpy as np
import optax
import pytest

import timesformer_jax as tsf
from timesformer_jax import training
from timesformer_jax.modeling import describe_model

MODEL = tsf.TimeSformer(num_classes=3, image_size=8, patch_size=8, num_frames=2, embed_dim=8, depth=1, num_heads=2)
OPTIMIZER = optax.adamw(1e-3)


def describe(model: tsf.TimeSformer) -> dict:
    return {"model": describe_model(model), "data": {"label_names": ["a", "b", "c"]}}


def saved(directory: Path, *steps: int) -> training.TrainState:
    mesh = training.make_mesh(jax.devices()[:1])
    state = training.init_state(MODEL, OPTIMIZER, 0, mesh)
    checkpoints = training.Checkpoints(str(directory), describe(MODEL))
    for step in steps:
        checkpoints.save(jax.tree.map(lambda x, step=step: x + np.asarray(step, x.dtype), state), step)
    checkpoints.close()
    return state


def test_the_newest_is_restored_on_other_devices(tmp_path: Path):
    state = saved(tmp_path / "c", 1, 2, 5)
    checkpoints = training.Checkpoints(str(tmp_path / "c"), describe(MODEL))
    assert checkpoints.latest_step == 5
    mesh = training.make_mesh(jax.devices()[:4])
    fresh = training.init_state(MODEL, OPTIMIZER, 1, mesh)
    restored = checkpoints.restore(fresh)
    assert int(restored.step) == 5
    for part in ("params", "opt_state"):
        jax.tree.map(
            lambda got, first: np.testing.assert_array_equal(got, np.asarray(first) + np.asarray(5, first.dtype)),
            getattr(restored, part),
            getattr(state, part),
        )
    assert all(len(leaf.sharding.device_set) == 4 for leaf in jax.tree.leaves(restored))
    params, step = checkpoints.restore_params(MODEL, mesh)
    assert step == 5
    jax.tree.map(np.testing.assert_array_equal, params, restored.params)
    checkpoints.close()


def test_the_newest_two_are_kept(tmp_path: Path):
    saved(tmp_path / "c", 1, 2, 5, 9)
    assert sorted(path.name for path in (tmp_path / "c").iterdir() if path.name.isdigit()) == ["5", "9"]


def test_nothing_there(tmp_path: Path):
    checkpoints = training.Checkpoints(str(tmp_path / "c"), describe(MODEL))
    mesh = training.make_mesh(jax.devices()[:1])
    state = training.init_state(MODEL, OPTIMIZER, 0, mesh)
    assert checkpoints.latest_step is None
    assert checkpoints.restore(state) is state
    checkpoints.close()
    for path in (tmp_path / "c", tmp_path / "elsewhere"):
        with pytest.raises(tsf.InputError, match=r"no checkpoint in .*: train first with --mode=train"):
            training.Checkpoints(str(path), describe(MODEL), read_only=True).restore_params(MODEL, mesh)
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"attention_type": "space_only"}, "model.attention_type is 'divided_space_time' there and 'space_only' here"),
        ({"embed_dim": 16}, "model.embed_dim is 8 there and 16 here"),
        ({"num_classes": 4}, "model.num_classes is 3 there and 4 here"),
    ],
)
def test_another_models_checkpoint_is_refused(tmp_path: Path, changes: dict, words: str):
    saved(tmp_path / "c", 1)
    other = MODEL.clone(**changes)
    checkpoints = training.Checkpoints(str(tmp_path / "c"), describe(other))
    mesh = training.make_mesh(jax.devices()[:1])
    with pytest.raises(tsf.InputError, match=words + ".*choose another --workdir"):
        checkpoints.restore(training.init_state(other, OPTIMIZER, 0, mesh))
    with pytest.raises(tsf.InputError, match=words):
        checkpoints.restore_params(other, mesh)
    checkpoints.close()


def test_of_two_lists_the_first_difference_is_told(tmp_path: Path):
    saved(tmp_path / "c", 1)
    for labels, words in ((["a", "b", "d"], "'c' there and 'd' here at number 2"), (["a"], "3 long there and 1 here")):
        checkpoints = training.Checkpoints(str(tmp_path / "c"), {**describe(MODEL), "data": {"label_names": labels}})
        with pytest.raises(tsf.InputError, match=words):
            checkpoints.restore_params(MODEL, training.make_mesh(jax.devices()[:1]))
        checkpoints.close()


def test_what_does_not_change_the_weights_may_differ(tmp_path: Path):
    saved(tmp_path / "c", 1)
    other = MODEL.clone(drop_path_rate=0.1, initialization="from_scratch", dtype="bfloat16")
    checkpoints = training.Checkpoints(str(tmp_path / "c"), describe(other))
    mesh = training.make_mesh(jax.devices()[:1])
    assert int(checkpoints.restore(training.init_state(other, OPTIMIZER, 0, mesh)).step) == 1
    checkpoints.close()


def test_an_interrupt_waits_for_the_save_to_begin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Ctrl-C in the middle of Orbax's own work left threads behind that failed, and the next start found half a folder."""
    state = saved(tmp_path / "c")
    checkpoints = training.Checkpoints(str(tmp_path / "c"), describe(MODEL))
    begin = checkpoints._checkpointer.save_checkpointables_async

    def interrupted(*args, **kwargs):
        os.kill(os.getpid(), signal.SIGINT)
        return begin(*args, **kwargs)

    monkeypatch.setattr(checkpoints._checkpointer, "save_checkpointables_async", interrupted)
    with pytest.raises(KeyboardInterrupt):
        checkpoints.save(state, 3)
    checkpoints.close()
    assert training.Checkpoints(str(tmp_path / "c"), describe(MODEL)).latest_step == 3
