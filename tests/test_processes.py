"""`main.py` on several processes: training equal to that of one process, and shutdown when one is preempted."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

import main
import timesformer_jax as tsf
from experiment.curves import read_curves
from tests.processes import NUM_STEPS, fields, finish, flags, start
from tests.runs import ROOT, config_of, figures, predictions, results
from timesformer_jax import training
from timesformer_jax.pretrained.orbax import read_checkpoint


def first_loss(workdir: Path) -> tuple[int, float]:
    """The first logged loss, and its step."""
    steps, losses = read_curves(str(workdir))["loss"]["training"]
    return steps[0], losses[0]


def test_two_processes_equal_one_and_sigterm_to_one_stops_both(
    tmp_path: Path, made_clips: Path, data_dir: str, monkeypatch: pytest.MonkeyPatch
):
    """Both save the same step and exit with 0; the same command resumes and ends like an undisturbed run on one process."""
    make_mesh = training.make_mesh
    config = config_of("folder", **fields(made_clips, data_dir))
    with monkeypatch.context() as patch, jax.numpy_dtype_promotion("standard"):  # optax mixes the dtypes of steps and rates
        patch.setattr(training, "make_mesh", lambda **sizes: make_mesh(jax.devices()[:4], **sizes))
        main.run(config, str(tmp_path / "one"), "train")
    arguments = flags(made_clips, data_dir, tmp_path / "two")
    both = start(arguments, processes=2, devices=2)
    deadline = time.monotonic() + 180
    # Not before the first checkpoint, by which both have connected.
    while not list((tmp_path / "two").glob("checkpoints/[0-9]")) and time.monotonic() < deadline:
        time.sleep(0.05)
    both[1].send_signal(signal.SIGTERM)
    reports = [re.findall(r"Stopped early: saved step (\d+) of 40", error) for error in finish(both)]
    assert reports[0] == reports[1], reports
    assert len(reports[0]) == 1, "the run was over before SIGTERM"
    step = int(reports[0][0])
    assert (tmp_path / "two" / "checkpoints" / str(step)).is_dir()
    first, _ = finish(start(arguments, processes=2, devices=2))
    assert f"Resuming from the checkpoint of step {step} in" in first
    one, two = (read_checkpoint(tmp_path / name / "checkpoints" / str(NUM_STEPS))[0] for name in ("one", "two"))
    # 1e-5 is promised for five steps; this is eight times as many. Processors differ in rounding. A wrong batch moves by 1e-2.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-3 * np.abs(a).max()), one, two)
    (step, loss), (step_of_two, loss_of_two) = (first_loss(tmp_path / name) for name in ("one", "two"))
    assert (step, loss_of_two) == (step_of_two, pytest.approx(loss, rel=1e-5))
    assert results(tmp_path / "one")["top1"] == results(tmp_path / "two")["top1"]
    of_two, rows = figures(tmp_path / "two"), predictions(tmp_path / "two")
    assert not (tmp_path / "two" / "test.part").exists()
    main.run(config, str(tmp_path / "two"), "eval")
    assert figures(tmp_path / "two") == of_two  # one process with other devices confirms the results of two
    for name, row in rows.items():
        # Scores of the same checkpoint, and of checkpoints forty steps apart.
        for other, apart in (("two", 1e-5), ("one", 1e-3)):
            assert dict(row["best"]) == pytest.approx(dict(predictions(tmp_path / other)[name]["best"]), abs=apart)


@pytest.mark.parametrize(
    ("environment", "mode", "words"),
    [
        ({}, "on", r"--distributed=on: this process can't find the others .* use --distributed=off"),
        ({"JAX_COORDINATOR_ADDRESS": "127.0.0.1:1", "NUM_PROCESSES": "two"}, "auto", "NUM_PROCESSES must be a whole number"),
        ({"JAX_COORDINATOR_ADDRESS": "127.0.0.1:1"}, "auto", r"--distributed=auto: this process can't find the others"),
        ({}, "maybe", r"--distributed must be one of auto, on, off"),
    ],
)
def test_unreachable_coordinator_is_an_error(environment: dict, mode: str, words: str):
    done = joined(environment, mode)
    assert re.search(words, done.stderr), done


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("NUM_PROCESSES=2", r"NUM_PROCESSES=2 without JAX_COORDINATOR_ADDRESS: this process would train alone\. Set JAX_"),
        ("PROCESS_ID=0", "PROCESS_ID=0 without JAX_COORDINATOR_ADDRESS"),
        ("NUM_PROCESSES=2 PROCESS_ID=1", "NUM_PROCESSES=2 and PROCESS_ID=1 without JAX_COORDINATOR_ADDRESS"),
        ("NUM_PROCESSES=2 JAX_COORDINATOR_ADDRESS=", "without JAX_COORDINATOR_ADDRESS"),
        ("JAX_COORDINATOR_ADDRESS=a:1 NUM_PROCESSES=2", "NUM_PROCESSES=2 without PROCESS_ID: set both"),
        ("JAX_COORDINATOR_ADDRESS=a:1 PROCESS_ID=1", "PROCESS_ID=1 without NUM_PROCESSES: set both"),
        ("JAX_COORDINATOR_ADDRESS=a:1 PROCESS_ID=2 NUM_PROCESSES=2", r"processes are numbered from 0 to 1\."),
        ("JAX_COORDINATOR_ADDRESS=a:1 PROCESS_ID=0 NUM_PROCESSES=0", "NUM_PROCESSES must be at least 1, got 0"),
        (
            "JAX_COORDINATOR_ADDRESS=a:99999 PROCESS_ID=0 NUM_PROCESSES=2",
            "Expected a port from 1 to 65535 .*, got a:99999: set JAX_COORDINATOR_ADDRESS=a:PORT",
        ),
        ("JAX_COORDINATOR_ADDRESS=a:1 PROCESS_ID=-1 NUM_PROCESSES=2", "PROCESS_ID must be a whole number, got '-1'"),
    ],
)
def test_incomplete_process_variables_are_an_error(given: str, words: str, monkeypatch: pytest.MonkeyPatch):
    """Before JAX is initialized; with --distributed=off the variables are ignored."""
    for name in ("JAX_COORDINATOR_ADDRESS", "NUM_PROCESSES", "PROCESS_ID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in (entry.split("=") for entry in given.split()):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(jax.distributed, "initialize", None)
    with pytest.raises(tsf.InputError, match=words):
        training.start_distributed("auto")
    training.start_distributed("off")


def test_occupied_port_is_reported_with_its_remedy(monkeypatch: pytest.MonkeyPatch):
    """Before JAX is initialized, which would crash; the other processes don't check."""
    monkeypatch.setattr(jax.distributed, "initialize", lambda **given: None)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        given = {"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}", "NUM_PROCESSES": "2", "PROCESS_ID": "0"}
        for name, value in given.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(
            tsf.InputError, match=rf"^Port {port} of 127\.0\.0\.1.* set JAX_COORDINATOR_ADDRESS=127\.0\.0\.1:PORT"
        ):
            training.start_distributed("auto")
        monkeypatch.setenv("PROCESS_ID", "1")
        training.start_distributed("auto")


def test_processes_that_never_connect_fail_with_one_error(monkeypatch: pytest.MonkeyPatch):
    """Before JAX aborts, and only by the first process."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    code = (
        "from timesformer_jax.training import distributed; distributed.PATIENCE = 2.0; "
        "from timesformer_jax.training import start_distributed; start_distributed()"
    )
    for number, words in (
        ("0", "[0] Error: the other processes haven't joined"),
        ("1", "[1] Stopped: process 0 hasn't answered"),
    ):
        given = {"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}", "NUM_PROCESSES": "2", "PROCESS_ID": number}
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, cwd=ROOT, env={**os.environ, **given}, capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert words in done.stderr


def joined(environment: dict[str, str], mode: str) -> subprocess.CompletedProcess[str]:
    """Let another process, in which JAX isn't initialized, look for others, and print whether there are any."""
    ours = ("JAX_COORDINATOR_ADDRESS", "NUM_PROCESSES", "PROCESS_ID", "SLURM_JOB_ID", "OMPI_MCA_orte_hnp_uri")
    code = (
        f"from timesformer_jax.training import start_distributed; start_distributed({mode!r}); import jax; "
        "print(jax.distributed.is_initialized())"
    )
    outside = {name: value for name, value in os.environ.items() if name not in (*ours, "KUBERNETES_SERVICE_HOST")}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=ROOT, env={**outside, **environment}, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("mode", ["auto", "off"])
def test_single_process_needs_no_settings(mode: str):
    assert joined({}, mode).stdout.strip() == "False"


@pytest.mark.parametrize(
    "environment",
    [
        {
            "SLURM_JOB_ID": "{job}",
            "SLURM_STEP_NODELIST": "localhost",
            "SLURM_NTASKS": "2",
            "SLURM_PROCID": "{number}",
            "SLURM_LOCALID": "{number}",
        },
        {
            "OMPI_MCA_orte_hnp_uri": "{big}.0;tcp://127.0.0.1:34911",
            "OMPI_COMM_WORLD_SIZE": "2",
            "OMPI_COMM_WORLD_RANK": "{number}",
            "OMPI_COMM_WORLD_LOCAL_RANK": "{number}",
        },
    ],
    ids=["slurm", "openmpi"],
)
def test_schedulers_are_detected(environment: dict):
    """By their environment variables: two processes find each other without further settings."""
    code = (
        "from timesformer_jax.training import start_distributed; start_distributed(); import jax; "
        "print(jax.process_count(), jax.process_index(), flush=True)"
    )
    job = 1000 + os.getpid() % 3000
    started = []
    for number in range(2):
        given = {key: value.format(job=job, big=(job + 3000) * 2**12, number=number) for key, value in environment.items()}
        given |= {"JAX_LOCAL_DEVICE_IDS": "0"}
        started.append(
            subprocess.Popen(
                [sys.executable, "-c", code], cwd=ROOT, env={**os.environ, **given}, stdout=subprocess.PIPE, text=True
            )
        )
    outputs = [process.communicate(timeout=60)[0].strip().splitlines() for process in started]
    assert [output[-1] for output in outputs] == ["2 0", "2 1"]


@pytest.mark.slow
def test_failure_of_one_process_ends_the_others():
    """They wait for it, and JAX would otherwise abort them once it has gone."""
    code = """
from timesformer_jax.training import start_distributed
start_distributed()
import jax
from timesformer_jax.peers import watch_peers
from timesformer_jax.processes import from_first, wait_for_all
with watch_peers() as peers:
    assert from_first(lambda: {"a": [1]}, "a value") == {"a": [1]}
    if jax.process_index() == 0:
        peers.end(None, 1)
    wait_for_all("nothing")
"""
    started = start(["-c", code], processes=2, devices=1)
    errors = [process.communicate(timeout=120)[1] for process in started]
    assert [process.returncode for process in started] == [1, 1], errors
    assert "Stopped: process 0 on " in errors[1]


@pytest.mark.slow
def test_data_error_of_the_first_process_ends_all(tmp_path: Path):
    """The others neither check nor wait, and only one process prints the error."""
    started = start(flags(tmp_path / "nowhere", str(tmp_path), tmp_path / "run"), processes=2, devices=1)
    try:
        errors = [process.communicate(timeout=120)[1] for process in started]
    finally:
        for process in started:
            process.kill()
    for process, error in zip(started, errors, strict=True):
        assert process.returncode == 1
        assert re.search(f"(Error|Stopped): There is no folder {tmp_path}/nowhere", error), error
    assert "".join(errors).count("Error: There is no folder") == 1
