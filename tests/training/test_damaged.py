"""Damaged checkpoints: detected by every reader, set aside on resuming; and the files that a save leaves open."""

import errno
import json
import logging
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
from pathlib import Path

import jax
import numpy as np
import pytest

import timesformer_jax as tsf
from tests.runs import ROOT, on_devices
from tests.training.saved_states import MODEL, OPTIMIZER, describe, fresh_state, kept, saved
from timesformer_jax import digests, training


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Intact checkpoints of the steps 1, 2 and 5."""
    folder = tmp_path_factory.mktemp("whole") / "c"
    saved(folder, 1, 2, 5, metrics={1: 0.5, 2: 0.2})
    return folder


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    shutil.copytree(whole, tmp_path / "c")
    return tmp_path / "c"


def flip(path: Path, seed: int) -> None:
    """Flip a random bit of a file."""
    content = bytearray(path.read_bytes())
    place = int(np.random.default_rng(seed).integers(8 * len(content)))
    content[place // 8] ^= 1 << place % 8
    path.write_bytes(content)


def files(step: Path) -> list[str]:
    return sorted(path.relative_to(step).as_posix() for path in step.rglob("*") if path.is_file())


def loaded(folder: Path) -> dict:
    return jax.device_get(tsf.load(folder, labels=["a", "b", "c"]).params)


def evaluated(folder: Path) -> tuple:
    checkpoints = training.Checkpoints(str(folder), describe(MODEL), read_only=True)
    return checkpoints.restore_params(MODEL, training.make_mesh(jax.devices()[:4]))


def test_flipped_bit_in_any_file_is_detected_or_harmless(whole: Path, tmp_path: Path):
    """Three bits of every file; only Orbax's commit time and its empty note may change unnoticed."""
    names = files(whole / "5")
    kinds = {"_CHECKPOINT_METADATA", "digests.json", "params/_METADATA", "params/_sharding", "params/manifest.ocdbt"}
    assert kinds < set(names)
    assert any("opt_state/ocdbt.process_0/d/" in name for name in names)
    metadata = json.loads((whole / "5" / digests.MARK).read_text())
    assert digests.find_damage(whole / "5", None) is None
    for number, name in enumerate(names):
        for seed in range(3):
            step = tmp_path / f"{number}-{seed}"
            shutil.copytree(whole / "5", step)
            flip(step / name, seed)
            damage = digests.find_damage(step, None)
            if name == digests.WRITTEN_LAST:
                assert damage is None
            elif damage is None:
                assert name in (digests.MARK, digests.FILE), name
                ours, theirs = (json.loads((path / name).read_text()) for path in (step, whole / "5"))
                assert {**ours, digests.COMMIT_TIME: 0} == {**theirs, digests.COMMIT_TIME: 0}
            else:
                assert damage.startswith(name), (name, damage)
    assert metadata["custom_metadata"]["digests"] == digests.ALGORITHM


@pytest.mark.parametrize("name", ["params/ocdbt.process_0/d/*", "params/_METADATA", digests.MARK, digests.FILE])
def test_every_reader_names_the_damage_and_the_previous_step(folder: Path, name: str):
    (path,) = (folder / "5").glob(name)
    flip(path, 1)
    before = files(folder / "5")
    words = rf"{folder}/5 is damaged: {name.rstrip('*')}\S* .*step 2 before it is intact.* move the folder {folder}/5 away"
    with pytest.raises(tsf.InputError, match=words):
        loaded(folder)
    with pytest.raises(tsf.InputError, match=words):
        evaluated(folder)
    assert files(folder / "5") == before  # a job that only reads moves nothing


def test_damaged_optimizer_leaves_the_parameters_readable(folder: Path):
    (path,) = (folder / "5").glob("opt_state/ocdbt.process_0/d/*")
    flip(path, 1)
    assert loaded(folder).keys() == fresh_state().params.keys()
    checkpoints = training.Checkpoints(str(folder), describe(MODEL), clears_up=False)
    with pytest.raises(tsf.InputError, match="5 is damaged: opt_state/"):
        checkpoints.restore(fresh_state())
    checkpoints.close()


@pytest.mark.parametrize(
    "harm", ["flip", *(pytest.param(harm, marks=pytest.mark.slow) for harm in ("no digests", "no metadata", "cut"))]
)
def test_resuming_uses_the_previous_step_and_keeps_the_damaged_one(folder: Path, harm: str, caplog: pytest.LogCaptureFixture):
    """On other devices, with its position; later checkpoints equal those of a run from that step."""
    (path,) = (folder / "5").glob("opt_state/ocdbt.process_0/d/*")
    if harm == "flip":
        flip(path, 2)
    elif harm == "cut":
        path.write_bytes(path.read_bytes()[:-1])
    else:
        (folder / "5" / (digests.FILE if harm == "no digests" else digests.MARK)).unlink()
    with caplog.at_level(logging.WARNING, "timesformer_jax"):
        checkpoints = training.Checkpoints(str(folder), describe(MODEL))
    assert "The checkpoint of step 5 is damaged: " in caplog.text
    assert "The run resumes from step 2 instead of step 5." in caplog.text
    assert (checkpoints.latest_step, checkpoints.best_step) == (2, 1)
    assert (folder / "damaged-5" / "params").is_dir()
    restored = checkpoints.restore(training.state_shapes(MODEL, OPTIMIZER, training.make_mesh(jax.devices()[:4])))
    assert int(restored.step) == int(restored.skipped) == 2
    checkpoints.save(restored, 5, metric=0.9)
    checkpoints.close()
    assert kept(folder) == [2, 5]
    assert digests.find_damage(folder / "5", None) is None
    jax.tree.map(np.testing.assert_array_equal, loaded(folder), jax.device_get(restored.params))


def test_damaged_metrics_do_not_select_the_best(folder: Path):
    path = folder / "1" / "metrics" / "metrics"
    path.write_text(path.read_text().replace("0.5", "0.1"))
    with pytest.raises(tsf.InputError, match="1 is damaged: metrics/metrics differs from its digest"):
        training.Checkpoints(str(folder), describe(MODEL), read_only=True)
    checkpoints = training.Checkpoints(str(folder), describe(MODEL))
    assert (checkpoints.latest_step, checkpoints.best_step) == (5, 2)
    checkpoints.close()
    assert (folder / "damaged-1").is_dir()


def test_failed_read_is_no_damage(folder: Path, monkeypatch: pytest.MonkeyPatch):
    """A network file system that stumbles must not cost a checkpoint."""

    def fail(path: Path) -> str:
        if "5/opt_state" in str(path):
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return original(path)

    original = digests.digest_file
    with monkeypatch.context() as patch:
        patch.setattr(digests, "digest_file", fail)
        with pytest.raises(tsf.InputError, match=r"Can't read the checkpoint .*/5: the network file system lost .* again"):
            training.Checkpoints(str(folder), describe(MODEL))
    assert kept(folder) == [1, 2, 5]
    assert not list(folder.glob("damaged-*"))


def test_checkpoint_that_vanishes_while_it_is_read_is_ignored(folder: Path, monkeypatch: pytest.MonkeyPatch):
    """A run in progress deletes the oldest one."""

    def vanish(path: Path) -> str:
        if "/1/" in str(path):
            shutil.rmtree(folder / "1", ignore_errors=True)
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return original(path)

    original = digests.digest_file
    monkeypatch.setattr(digests, "digest_file", vanish)
    checkpoints = training.Checkpoints(str(folder), describe(MODEL), read_only=True)
    assert checkpoints.latest_step == 5
    checkpoints.close()


def test_no_complete_checkpoint_is_an_error(folder: Path):
    for step in (1, 2, 5):
        (folder / str(step) / digests.FILE).unlink()
    with pytest.raises(tsf.InputError, match=r"Every checkpoint in .* is damaged \(step 5: digests.json is missing; step 2"):
        training.Checkpoints(str(folder), describe(MODEL))
    assert kept(folder) == [1, 2, 5]
    with pytest.raises(tsf.InputError, match="There is no intact one before it"):
        loaded(folder)


def test_checkpoints_without_digests_load_with_one_warning(folder: Path, caplog: pytest.LogCaptureFixture):
    for step in (1, 2, 5):
        (folder / str(step) / digests.FILE).unlink()
        path = folder / str(step) / digests.MARK
        content = json.loads(path.read_text())
        del content["custom_metadata"]["digests"]
        path.write_text(json.dumps(content))
    with caplog.at_level(logging.WARNING, "timesformer_jax"):
        checkpoints = training.Checkpoints(str(folder), describe(MODEL))
        assert int(checkpoints.restore(fresh_state()).step) == 5
        checkpoints.close()
        loaded(folder)
    assert caplog.text.count("has no digests") == 1


def test_standalone_checkpoint_is_verified(whole: Path, tmp_path: Path):
    shutil.copytree(whole / "5", tmp_path / "model")
    flip(next((tmp_path / "model").glob("params/ocdbt.process_0/d/*")), 0)
    with pytest.raises(tsf.InputError, match=r"model is damaged: params/.* Use a copy of it"):
        loaded(tmp_path / "model")


@pytest.mark.slow
def test_saved_model_is_verified(whole: Path, tmp_path: Path):
    tsf.save(tsf.load(whole, labels=["a", "b", "c"]), tmp_path / "model")
    jax.tree.map(np.testing.assert_array_equal, loaded(tmp_path / "model"), loaded(whole))
    flip(next((tmp_path / "model").glob("params/ocdbt.process_0/d/*")), 0)
    with pytest.raises(tsf.InputError, match=r"model is damaged: params/.* Use a copy of it"):
        loaded(tmp_path / "model")


def test_each_process_digests_its_own_files(tmp_path: Path):
    """The second process's note is merged unchanged and then removed."""
    for name in ("params/ocdbt.process_0/d/a", "params/ocdbt.process_1/d/b", "params/array_metadatas/process_1", "params/d/c"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / digests.MARK).write_text("{}")
    unfinished = (tmp_path / "params").rename(tmp_path / "params.orbax-checkpoint-tmp")
    digests.note_own_digests(tmp_path, 1)
    noted = json.loads((tmp_path / "digests.json.process_1").read_text())
    noted = {name.replace(digests.UNFINISHED, ""): digest for name, digest in noted.items()}
    assert sorted(noted) == ["params/array_metadatas/process_1", "params/ocdbt.process_1/d/b"]
    unfinished.rename(tmp_path / "params")
    digests.write_digests(tmp_path)
    listed = json.loads((tmp_path / digests.FILE).read_text())["files"]
    assert listed.items() > noted.items()
    assert sorted(listed) == [name for name in files(tmp_path) if name != digests.FILE]
    assert [digests.find_damage(tmp_path, None, (process, 2)) for process in (0, 1)] == [None, None]
    (tmp_path / "params/d/c").write_text("other")
    assert [digests.find_damage(tmp_path, None, (process, 2)) is None for process in (0, 1)].count(False) == 1


PROCESS = """
import logging, sys
import jax
logging.basicConfig(level=logging.WARNING, stream=sys.stdout, format="%(message)s")
port, number, folder = sys.argv[1], int(sys.argv[2]), sys.argv[3]
jax.distributed.initialize(f"127.0.0.1:{port}", 2, number)
import numpy as np
from tests.training.saved_states import MODEL, OPTIMIZER, describe
from timesformer_jax import digests, training
read = []
digest_file = digests.digest_file
digests.digest_file = lambda path: (read.append(str(path)), digest_file(path))[1]
mesh = training.make_mesh(fsdp=2)
if sys.argv[4] == "save":
    state = training.init_state(MODEL, OPTIMIZER, 0, mesh)
    checkpoints = training.Checkpoints(folder, describe(MODEL))
    for step in (1, 2):
        checkpoints.save(state.replace(step=state.step + step), step)
    checkpoints.close()
    others = [path for path in read if f"process_{1 - number}" in path]
    print("read", len(read), "of the other", len(others))
else:
    checkpoints = training.Checkpoints(folder, describe(MODEL))
    restored = checkpoints.restore(training.state_shapes(MODEL, OPTIMIZER, mesh))
    checkpoints.close()
    print("resumed from", int(restored.step), "read", len(read))
"""


def two_processes(folder: Path, what: str) -> list[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    started = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, str(port), str(number), str(folder), what],
            cwd=ROOT,
            env=on_devices(1),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    try:
        outputs = [process.communicate(timeout=120) for process in started]
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [0, 0], outputs
    return [output for output, _ in outputs]


@pytest.mark.slow
def test_two_processes_digest_their_files_and_agree_on_the_step(tmp_path: Path):
    folder = tmp_path / "c"
    for output in two_processes(folder, "save"):
        assert re.search(r"read [1-9]\d* of the other 0\n", output), output
    listed = json.loads((folder / "2" / digests.FILE).read_text())["files"]
    assert sorted(listed) == [name for name in files(folder / "2") if name not in (digests.FILE, digests.WRITTEN_LAST)]
    flip(next((folder / "2").glob("params/ocdbt.process_1/d/*")), 0)
    for output in two_processes(folder, "resume"):
        assert "The checkpoint of step 2 is damaged: " in output
        assert "resumed from 1 read" in output, output
    assert kept(folder) == [1]
    assert (folder / "damaged-2").is_dir()


def check_descriptors(directory: Path, saves: int) -> None:
    checkpoints = training.Checkpoints(str(directory), describe(MODEL))
    state, counts = fresh_state(), []
    for step in range(1, saves + 1):
        checkpoints.save(state, step)
        checkpoints.wait()
        counts.append((len(os.listdir("/proc/self/fd")), threading.active_count()))
    checkpoints.close()
    descriptors, threads = np.array(counts[2:]).T
    assert descriptors.max() - descriptors[0] <= 2, counts
    assert threads.max() - threads[0] <= 1, counts


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts descriptors in /proc")
def test_descriptors_and_threads_stay_flat(tmp_path: Path):
    check_descriptors(tmp_path / "c", 6)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts descriptors in /proc")
def test_descriptors_and_threads_stay_flat_over_200_checkpoints(tmp_path: Path):
    check_descriptors(tmp_path / "c", 200)


def test_digests_wait_for_orbax_metadata(tmp_path: Path):
    """A thread may write the metadata late, and a digest of the earlier content would suggest damage."""
    path = tmp_path / digests.MARK
    path.write_text(json.dumps({"custom_metadata": {}, "item_handlers": None}))
    late = threading.Timer(0.2, lambda: path.write_text(json.dumps({"custom_metadata": digests.NOTE})))
    late.start()
    digests.wait_for_metadata(tmp_path)
    assert json.loads(path.read_text())["custom_metadata"] == digests.NOTE
    late.join()
