"""Two commands on one workdir: a second training is refused, evaluation during training works; and few descriptors."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import pytest

from input_pipeline import preparation
from tests.input_pipeline.miniatures import folder
from tests.processes import NUM_STEPS, flags
from tests.runs import ROOT, on_devices, results
from tests.support import moving_square, write_video
from timesformer_jax import digests
from timesformer_jax.pretrained.orbax import read_checkpoint

FEW_DESCRIPTORS = 256


@pytest.fixture
def running() -> Iterator[list[subprocess.Popen[str]]]:
    """Commands that are ended with the test."""
    started: list[subprocess.Popen[str]] = []
    yield started
    for process in started:
        process.kill()
        process.communicate()


def begin(running: list[subprocess.Popen[str]], arguments: list[str], *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, *arguments, *more]
    running.append(subprocess.Popen(command, cwd=ROOT, env=on_devices(1), stderr=subprocess.PIPE, text=True))
    return running[-1]


def wait_for(process: subprocess.Popen[str], folder: Path, pattern: str) -> None:
    deadline = time.monotonic() + 240
    while not list(folder.glob(pattern)) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert process.poll() is None, process.communicate()[1]


@pytest.mark.slow
def test_second_training_is_refused_and_the_first_unharmed(
    tmp_path: Path, made_clips: Path, data_dir: str, running: list[subprocess.Popen[str]]
):
    """The first one is paused meanwhile, so that all three coexist, and ends like an undisturbed run."""
    arguments = flags(made_clips, data_dir, tmp_path / "run")
    first = begin(running, arguments)
    wait_for(first, tmp_path / "run", "checkpoints/[0-9]*/metrics")
    first.send_signal(signal.SIGSTOP)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*") if path.is_file()}
    second = begin(running, arguments)
    _, error = second.communicate(timeout=240)
    assert second.returncode == 1
    assert "Traceback" not in error
    assert error.splitlines()[-1].startswith(f"Error: Another process trains in {tmp_path}/run: process {first.pid} on ")
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*") if path.is_file()} == before
    test = begin(running, arguments, "--mode=eval")
    _, error = test.communicate(timeout=240)
    assert test.returncode == 0, error
    evaluated = results(tmp_path / "run")
    assert evaluated["step"] < NUM_STEPS
    first.send_signal(signal.SIGCONT)
    _, error = first.communicate(timeout=240)
    assert first.returncode == 0, error
    assert not list((tmp_path / "run").glob(".*.lock"))
    alone = begin(running, flags(made_clips, data_dir, tmp_path / "alone"))
    _, error = alone.communicate(timeout=240)
    assert alone.returncode == 0, error
    steps = [tmp_path / name / "checkpoints" / str(NUM_STEPS) for name in ("run", "alone")]
    assert [digests.find_damage(step, None) for step in steps] == [None, None]
    disturbed, undisturbed = (read_checkpoint(step)[0] for step in steps)
    jax.tree.map(np.testing.assert_array_equal, disturbed, undisturbed)


LIMITED = f"""
import os, resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, ({FEW_DESCRIPTORS}, {FEW_DESCRIPTORS}))
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


@pytest.mark.slow
def test_few_descriptors_suffice_for_many_shards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, running: list[subprocess.Popen[str]]
):
    """With `ulimit -n 256` and more record files than that per split, all are read and none is called damaged."""
    for label in range(2):
        whole = write_video(tmp_path / "clips" / str(label) / "0.mp4", moving_square(label, 0, num_frames=8))
        for number in range(1, 300):
            os.link(whole, whole.with_stem(str(number)))
    monkeypatch.setattr(preparation, "PART_BYTES", 1)  # a file per video
    made = {"data_dir": str(tmp_path / "data"), "val_fraction": 0.5, "short_side": 48, "num_workers": 2}
    data = folder(tmp_path / "clips", **{**made, "data_dir": tmp_path / "data"})
    assert min(split.num_shards for split in data.builder.info.splits.values()) > FEW_DESCRIPTORS
    given = {f"data.{name}": value for name, value in made.items()} | {
        "data.storage": "jpeg",
        "data.max_fps": None,
        "train.num_epochs": 2.0,
        "train.checkpoint_every_epochs": 0.5,
        "train.evaluate_every_epochs": 1.0,
        "train.log_every_steps": 20,
    }
    arguments = [*flags(tmp_path / "clips", str(tmp_path / "data"), tmp_path / "run")]
    arguments += [f"--config.{name}={value}" for name, value in given.items()]
    for more in ([], ["--mode=eval"]):
        command = begin(running, ["-c", LIMITED, *arguments], *more)
        _, error = command.communicate(timeout=400)
        assert command.returncode == 0, error
        assert "damaged" not in error
    assert results(tmp_path / "run")["num_videos"] == data.num_videos("val")
