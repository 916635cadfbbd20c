"""launch/ on a simulated two-node Slurm: disturbed jobs end with the results of an undisturbed one."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import numpy as np
import pytest

from tests.runs import ROOT, results, run_of_steps
from timesformer_jax.pretrained.orbax import read_checkpoint

pytestmark = pytest.mark.cluster

SLURM = Path(__file__).parent / "slurm"
NUM_STEPS = 900
LIMIT = 400.0
"""Seconds that a job may take, disturbances included."""

# Deliberately prepares the data a minute late.
SLOW_PREPARATION = """
import os, runpy, sys, time
import input_pipeline.prepared as prepared
write = prepared._write
prepared._write = lambda *given: time.sleep(65) or write(*given)
sys.argv[0] = "main.py"
runpy.run_path("main.py", run_name="__main__")
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """Slurm, running for the tests of this module."""
    if shutil.which("slurmctld") is None:
        pytest.skip("Slurm isn't installed: apt-get install slurm-wlm munge")
    # Sockets need a short path.
    with tempfile.TemporaryDirectory(prefix="slurm", dir="/tmp") as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_TEST_DIR", folder)
        patch.setenv("SLURM_CONF", f"{folder}/etc/slurm.conf")
        patch.setenv("JAX_PLATFORMS", "cpu")
        patch.delenv("XLA_FLAGS", raising=False)
        subprocess.run([SLURM, "start"], check=True, capture_output=True)
        try:
            yield
        finally:
            subprocess.run([SLURM, "stop"], check=True, capture_output=True)


class SlurmJob:
    """A job of launch/slurm.sh that trains for a minute."""

    def __init__(self, folder: Path, clips: Path, data_dir: str, *options: str, script: str = "launch/slurm.sh"):
        self.folder, self.log = folder, folder / "log"
        folder.mkdir(parents=True, exist_ok=True)
        given = arguments(clips, data_dir, folder / "run")
        command = ["sbatch", "--parsable", f"--output={self.log}", *options, script, *given]
        done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
        self.number = done.stdout.strip().partition(";")[0]

    @property
    def text(self) -> str:
        return self.log.read_text() if self.log.exists() else ""

    def shows(self, words: str) -> bool:
        return re.search(words, self.text) is not None

    @property
    def state(self) -> str:
        return state_of(self.number)

    def finish(self) -> None:
        """Wait until the job has completed, restarting requeued jobs at once."""

        def ended() -> bool:
            if self.state == "PENDING":
                subprocess.run(["scontrol", "update", f"job={self.number}", "starttime=now"], check=False, capture_output=True)
            for _ in range(60):  # so it is called for a while when it is queued again
                if self.state != "FAILED":
                    break
                time.sleep(1)
            return self.state in ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")

        wait_until(ended, self)
        assert self.state == "COMPLETED", self.text

    def process(self, rank: int) -> int:
        """Return the process with this number."""
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if entry.name.isdecimal() and b"\0main.py\0" in (entry / "cmdline").read_bytes():
                    environment = (entry / "environ").read_bytes().split(b"\0")
                    if {f"SLURM_JOB_ID={self.number}".encode(), f"SLURM_PROCID={rank}".encode()} <= set(environment):
                        return int(entry.name)
        raise AssertionError(f"no process {rank} of job {self.number}:\n{self.text}")


def state_of(job: str) -> str:
    """State of a job according to Slurm."""
    shown = subprocess.run(["scontrol", "show", "job", job, "--oneliner"], check=True, capture_output=True, text=True).stdout
    found = re.search(r"JobState=(\w+)", shown)
    assert found is not None, shown
    return found[1]


def arguments(clips: Path, data_dir: str, workdir: Path) -> list[str]:
    """Arguments of a run that takes a few seconds per hundred steps."""
    fields = {
        **run_of_steps(NUM_STEPS, clips, data_dir),
        "train.log_every_steps": 50,
        "train.checkpoint_every_epochs": 50.0,
        "train.evaluate_every_epochs": 2000.0,
    }
    given = [f"--config.{name}={value}" for name, value in fields.items()]
    return ["--config=configs/folder.py", f"--workdir={workdir}", *given]


def wait_until(happened: Callable[[], bool], job: SlurmJob) -> None:
    deadline = time.monotonic() + LIMIT
    while not happened():
        assert time.monotonic() < deadline, f"{job.state}:\n{job.text}"
        time.sleep(0.5)


@pytest.fixture(scope="module")
def undisturbed(cluster: None, tmp_path_factory: pytest.TempPathFactory, made_clips: Path, data_dir: str) -> Path:
    """Workdir of an undisturbed run."""
    job = SlurmJob(tmp_path_factory.mktemp("undisturbed"), made_clips, data_dir)
    job.finish()
    return job.folder / "run"


def same(workdir: Path, other: Path) -> None:
    """Raise `AssertionError` unless two runs have bit-identical parameters and results."""
    ours, theirs = (read_checkpoint(folder / "checkpoints" / str(NUM_STEPS))[0] for folder in (workdir, other))
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    assert results(workdir) == results(other)


def kill(rank: int) -> Callable[[SlurmJob], None]:
    return lambda job: os.kill(job.process(rank), signal.SIGKILL)


def preempt(job: SlurmJob) -> None:
    """Submit a job of higher priority that needs all cores."""
    whole = ["--partition=high", "--nodes=2", "--ntasks-per-node=1", "--cpus-per-task=96", "--output=/dev/null"]
    subprocess.run(["sbatch", *whole, "--wrap", "sleep 5"], check=True, capture_output=True)


def requeue(job: SlurmJob) -> None:
    subprocess.run(["scontrol", "requeue", job.number], check=True)


@pytest.mark.parametrize(
    ("disturb", "words"),
    [
        (kill(0), r"Error: process 0 on \S+ was lost|Killed"),
        (kill(1), r"Error: process 1 on \S+ was lost|Killed"),
        (preempt, r"Stopped early: saved step \d+ of 900"),
        (requeue, r"Resuming from the checkpoint of step"),
    ],
    ids=["kill 0", "kill 1", "preempt", "requeue"],
)
def test_preempted_job_equals_an_undisturbed_one(
    disturb: Callable[[SlurmJob], None],
    words: str,
    undisturbed: Path,
    tmp_path: Path,
    made_clips: Path,
    data_dir: str,
):
    job = SlurmJob(tmp_path, made_clips, data_dir)
    wait_until(lambda: job.shows(r"step \d{3}/900"), job)
    disturb(job)
    time.sleep(2)
    job.finish()
    assert job.shows(words), job.text
    same(job.folder / "run", undisturbed)


def test_job_at_its_time_limit_is_requeued(undisturbed: Path, tmp_path: Path, made_clips: Path, data_dir: str):
    job = SlurmJob(tmp_path, made_clips, data_dir, "--time=0:02:00", "--signal=TERM@60")
    wait_until(lambda: job.shows(r"queueing the job again, restart 1") and job.state == "PENDING", job)
    subprocess.run(["scontrol", "update", f"job={job.number}", "TimeLimit=20"], check=True)  # enough for a busy machine
    job.finish()
    assert job.shows(r"Resuming from the checkpoint of step"), job.text
    same(job.folder / "run", undisturbed)


def test_cancelled_job_stays_cancelled(cluster: None, tmp_path: Path, made_clips: Path, data_dir: str):
    job = SlurmJob(tmp_path, made_clips, data_dir)
    wait_until(lambda: job.shows(r"step \d+/900"), job)
    subprocess.run(["scancel", job.number], check=True)
    wait_until(lambda: job.shows("Stopped early: saved step"), job)
    wait_until(lambda: job.state not in ("RUNNING", "COMPLETING"), job)
    assert job.state == "CANCELLED", job.text
    assert "queueing the job again" not in job.text


def test_first_run_waits_for_a_slow_preparation(undisturbed: Path, tmp_path: Path, made_clips: Path):
    wrapper = tmp_path / "python"
    slow = tmp_path / "slow.py"
    slow.write_text(SLOW_PREPARATION)
    wrapper.write_text(f'#!/bin/sh\nshift\nPYTHONPATH=. exec "{ROOT}/.venv/bin/python" "{slow}" "$@"\n')
    wrapper.chmod(0o755)
    job = SlurmJob(tmp_path, made_clips, str(tmp_path / "data"), f"--export=ALL,PYTHON={wrapper}")
    job.finish()
    assert job.shows(r"\[1\] Waiting for the first process to prepare the data set, 1 min so far\."), job.text
    same(job.folder / "run", undisturbed)


def test_sweep_runs_each_line_in_its_own_workdir(undisturbed: Path, tmp_path: Path, made_clips: Path, data_dir: str):
    (tmp_path / "sweep").write_text("--config.seed=0\n--config.seed=1 --config.note='two words'\n")
    command = ["launch/sweep.sh", str(tmp_path / "sweep"), "--parsable", f"--output={tmp_path}/%a.log", "--"]
    done = subprocess.run(
        [*command, *arguments(made_clips, data_dir, tmp_path / "run")], cwd=ROOT, check=True, capture_output=True, text=True
    )
    number = done.stdout.strip().partition(";")[0]
    deadline = time.monotonic() + LIMIT
    while not all((tmp_path / "run" / name / "results.json").exists() for name in "12"):
        logs = "\n".join(path.read_text() for path in tmp_path.glob("*.log"))
        assert time.monotonic() < deadline, f"{state_of(number)}\n{logs}"
        time.sleep(1)
    same(tmp_path / "run" / "1", undisturbed)
    assert results(tmp_path / "run" / "2")["note"] == "two words"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--ntasks-per-node=3", "--gpus-per-node=8"), "8 GPUs can't be divided among 3 processes a node"),
        (("--gpus-per-task=2",), "--gpus-per-task hides"),
        (("--export=ALL,PYTHON=nowhere/python",), "there is no Python at nowhere/python: run make install"),
    ],
)
def test_impossible_requests_are_rejected(
    options: tuple[str, ...], words: str, cluster: None, tmp_path: Path, made_clips: Path, data_dir: str
):
    job = SlurmJob(tmp_path, made_clips, data_dir, *options)
    wait_until(lambda: job.state == "FAILED", job)
    assert job.shows(words), job.text
