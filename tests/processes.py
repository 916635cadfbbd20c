"""Groups of main.py processes for the tests."""

import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.runs import ROOT, on_devices, run_of_steps

NUM_STEPS = 40


def fields(clips: Path, data_dir: str) -> dict[str, Any]:
    """Fields of a run that compiles in seconds; SGD, since Adam turns rounding noise into steps of full size."""
    return {
        **run_of_steps(NUM_STEPS, clips, data_dir),
        "train.log_every_steps": 5,
        "train.checkpoint_every_epochs": 8.0,
        "train.evaluate_every_epochs": 20.0,
        "optimizer.name": "sgd",
        "optimizer.schedule": "constant",
        "optimizer.learning_rate": 0.01,
    }


def flags(clips: Path, data_dir: str, workdir: Path) -> list[str]:
    given = [f"--config.{name}={value}" for name, value in fields(clips, data_dir).items()]
    return ["main.py", "--config=configs/folder.py", f"--workdir={workdir}", *given]


def start(arguments: list[str], *, processes: int, devices: int) -> list[subprocess.Popen[str]]:
    """Start this many connected processes with this many simulated devices each."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    together = {"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}", "NUM_PROCESSES": str(processes)}
    started = []
    for number in range(processes):
        environment = on_devices(devices)
        if processes > 1:
            environment |= {**together, "PROCESS_ID": str(number)}
        started.append(
            subprocess.Popen([sys.executable, *arguments], cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)
        )
    return started


def finish(started: list[subprocess.Popen[str]]) -> list[str]:
    """Return the output of each process; all must have succeeded."""
    errors = []
    try:
        for process in started:
            errors.append(process.communicate(timeout=240)[1])
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [0] * len(started), "\n".join(errors)
    return errors
