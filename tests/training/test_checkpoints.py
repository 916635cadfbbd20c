"""Checkpoints: saving, resuming, and refusing those of another model."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import timesformer_jax as tsf
from experiment.files import describe_fold
from tests.runs import config_of
from tests.training.saved_states import MODEL, OPTIMIZER, describe, kept, saved
from timesformer_jax import training


def test_newest_checkpoint_is_restored_on_other_devices(tmp_path: Path):
    state = saved(tmp_path / "c", 1, 2, 5)
    checkpoints = training.Checkpoints(str(tmp_path / "c"), describe(MODEL))
    assert checkpoints.latest_step == 5
    mesh = training.make_mesh(jax.devices()[:4])
    fresh = training.init_state(MODEL, OPTIMIZER, 1, mesh)
    restored = checkpoints.restore(fresh)
    assert int(restored.step) == int(restored.skipped) == 5
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


def test_restoring_into_shapes_allocates_one_state(tmp_path: Path):
    """Shapes, dtypes and placement match a fresh state, which is never created; the average included."""
    mesh = training.make_mesh(jax.devices()[:4], data=2, fsdp=2)
    fresh = training.init_state(MODEL, OPTIMIZER, 0, mesh, ema=True)
    checkpoints = training.Checkpoints(str(tmp_path / "c"), describe(MODEL))
    checkpoints.save(fresh, 3)
    checkpoints.wait()
    before = sum(x.nbytes for x in jax.live_arrays())
    shapes = training.state_shapes(MODEL, OPTIMIZER, mesh, ema=True)
    assert sum(x.nbytes for x in jax.live_arrays()) == before
    like = {(x.shape, x.dtype, x.sharding) for x in jax.tree.leaves(fresh)}
    assert jax.tree.structure(shapes) == jax.tree.structure(fresh)
    assert {(x.shape, x.dtype, x.sharding) for x in jax.tree.leaves(shapes)} == like
    restored = checkpoints.restore(shapes)
    checkpoints.close()
    assert int(restored.step) == 3
    assert {(x.shape, x.dtype, x.sharding) for x in jax.tree.leaves(restored)} == like
    jax.tree.map(np.testing.assert_array_equal, restored.ema, fresh.params)


def test_checkpoints_keep_the_newest_two_and_the_best(tmp_path: Path):
    """Also after a restart, when metrics come from disk, and if the newest have no metric."""
    saved(tmp_path / "c", 1, 2, 5, 9, metrics={1: 0.3, 2: 0.7, 5: 0.1})
    assert kept(tmp_path / "c") == [2, 5, 9]
    saved(tmp_path / "c", 11, 12, metrics={11: 0.6})
    assert kept(tmp_path / "c") == [2, 11, 12]
    checkpoints = training.Checkpoints(str(tmp_path / "c"), describe(MODEL))
    assert (checkpoints.best_step, checkpoints.latest_step) == (2, 12)
    mesh = training.make_mesh(jax.devices()[:1])
    assert checkpoints.restore_params(MODEL, mesh, checkpoints.best_step)[1] == 2
    checkpoints.close()


def test_newest_checkpoint_is_the_best_if_none_has_a_metric(tmp_path: Path):
    saved(tmp_path / "c", 1, 4)
    checkpoints = training.Checkpoints(str(tmp_path / "c"), describe(MODEL))
    assert checkpoints.best_step == 4
    checkpoints.close()


def test_evaluation_uses_the_moving_average(tmp_path: Path):
    mesh = training.make_mesh(jax.devices()[:1])
    state = training.init_state(MODEL, OPTIMIZER, 0, mesh, ema=True)
    state = state.replace(ema=jax.tree.map(lambda x: x + 1, state.ema))
    notes = {**describe(MODEL), "optimizer": {"ema": True}}
    checkpoints = training.Checkpoints(str(tmp_path / "c"), notes)
    checkpoints.save(state, 3)
    checkpoints.wait()
    tested, _ = checkpoints.restore_params(MODEL, mesh)
    jax.tree.map(np.testing.assert_array_equal, tested, state.ema)
    restored = checkpoints.restore(training.init_state(MODEL, OPTIMIZER, 1, mesh, ema=True))
    jax.tree.map(np.testing.assert_array_equal, restored.params, state.params)
    jax.tree.map(np.testing.assert_array_equal, restored.ema, state.ema)
    checkpoints.close()
    loaded = tsf.load(tmp_path / "c", labels=["a", "b", "c"])
    jax.tree.map(np.testing.assert_array_equal, loaded.params, jax.device_get(state.ema))


def interrupted(directory: Path, code: str) -> subprocess.CompletedProcess[str]:
    """Run another process that saves step 1 completely and then executes `code`."""
    program = f"""
import os, resource, signal, sys, threading, time
from pathlib import Path
import jax
sys.path.insert(0, {str(Path.cwd())!r})
from tests.training.saved_states import MODEL, OPTIMIZER, describe, training
folder = Path({str(directory)!r})
state = training.init_state(MODEL, OPTIMIZER, 0, training.make_mesh(jax.devices()[:1]))
checkpoints = training.Checkpoints(str(folder), describe(MODEL))
checkpoints.save(state, 1)
checkpoints.wait()
{code}
"""
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=Path.cwd())


def test_partial_checkpoint_of_a_killed_save_is_ignored(tmp_path: Path):
    """A partial checkpoint isn't taken for a complete one, and the next run deletes it."""
    done = interrupted(
        tmp_path / "c",
        """
def kill():
    while not list(folder.glob("2*tmp*")):
        pass
    os.kill(os.getpid(), signal.SIGKILL)
threading.Thread(target=kill).start()
checkpoints.save(state, 2)
time.sleep(30)
""",
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert [path.name for path in (tmp_path / "c").iterdir() if path.name.startswith("2")] != []
    checkpoints = training.Checkpoints(str(tmp_path / "c"), describe(MODEL))
    assert checkpoints.latest_step == 1
    mesh = training.make_mesh(jax.devices()[:1])
    state = training.init_state(MODEL, OPTIMIZER, 1, mesh)
    assert int(checkpoints.restore(state).step) == 1
    checkpoints.save(state, 2)
    checkpoints.close()
    assert kept(tmp_path / "c") == [1, 2]
    assert not list((tmp_path / "c").glob("*tmp*"))


def test_full_disk_keeps_the_previous_checkpoint(tmp_path: Path):
    """Files are limited to a kilobyte: the error is one sentence, and the previous checkpoint is intact."""
    done = interrupted(
        tmp_path / "c",
        """
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    checkpoints.save(state, 2)
    checkpoints.close()
except Exception as error:
    os.write(1, f"{type(error).__name__}: {error}".encode())
os._exit(0)
""",
    )
    assert re.match(
        r"InputError: .*checkpoint.* could not be written to .*: .*\. The earlier ones are intact; raise the limit", done.stdout
    ), done
    assert "Traceback" not in done.stderr, done.stderr
    checkpoints = training.Checkpoints(str(tmp_path / "c"), describe(MODEL))
    assert checkpoints.latest_step == 1
    mesh = training.make_mesh(jax.devices()[:1])
    assert int(checkpoints.restore(training.init_state(MODEL, OPTIMIZER, 1, mesh)).step) == 1
    checkpoints.close()


def test_missing_checkpoint_is_an_error(tmp_path: Path):
    checkpoints = training.Checkpoints(str(tmp_path / "c"), describe(MODEL))
    mesh = training.make_mesh(jax.devices()[:1])
    state = training.init_state(MODEL, OPTIMIZER, 0, mesh)
    assert checkpoints.latest_step is None
    assert checkpoints.restore(state) is state
    checkpoints.close()
    for path in (tmp_path / "c", tmp_path / "elsewhere"):
        with pytest.raises(tsf.InputError, match=r"no checkpoint in .*: train first"):
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
def test_checkpoint_of_another_model_is_rejected(tmp_path: Path, changes: dict, words: str):
    saved(tmp_path / "c", 1)
    other = MODEL.clone(**changes)
    checkpoints = training.Checkpoints(str(tmp_path / "c"), describe(other))
    mesh = training.make_mesh(jax.devices()[:1])
    with pytest.raises(tsf.InputError, match=words + ".*choose another --workdir"):
        checkpoints.restore(training.init_state(other, OPTIMIZER, 0, mesh))
    with pytest.raises(tsf.InputError, match=words):
        checkpoints.restore_params(other, mesh)
    checkpoints.close()


def test_first_difference_of_two_lists_is_reported(tmp_path: Path):
    saved(tmp_path / "c", 1)
    for labels, words in ((["a", "b", "d"], "'c' there and 'd' here at number 2"), (["a"], "3 long there and 1 here")):
        checkpoints = training.Checkpoints(str(tmp_path / "c"), {**describe(MODEL), "data": {"label_names": labels}})
        with pytest.raises(tsf.InputError, match=words):
            checkpoints.restore_params(MODEL, training.make_mesh(jax.devices()[:1]))
        checkpoints.close()


def test_fields_that_leave_the_weights_unchanged_may_differ(tmp_path: Path):
    saved(tmp_path / "c", 1)
    other = MODEL.clone(drop_path_rate=0.1, initialization="from_scratch", dtype="bfloat16")
    checkpoints = training.Checkpoints(str(tmp_path / "c"), describe(other))
    mesh = training.make_mesh(jax.devices()[:1])
    assert int(checkpoints.restore(training.init_state(other, OPTIMIZER, 0, mesh)).step) == 1
    checkpoints.close()


def test_interrupt_waits_for_the_save_to_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Ctrl-C amid Orbax's own work left failing threads, and a partial folder for the next start."""
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


def test_fold_is_compared_if_the_checkpoint_records_it():
    """A run of another fold would be trained on its validation videos; checkpoints of older versions record none."""
    described = {"run": {"seed": 0, **describe_fold(config_of("folder", "hmdb51", **{"data.fold": 2}))}}
    training.check_description("runs/a", {"run": {"seed": 0}}, described)
    with pytest.raises(tsf.InputError, match=r"another run \(run\.fold is 1 .*2"):
        training.check_description("runs/a", {"run": {"seed": 0, "fold": 1}}, described)
    assert describe_fold(config_of("folder", "video_folder")) == {}
