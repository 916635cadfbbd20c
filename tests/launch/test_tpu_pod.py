"""launch/tpu_pod.sh with a fake `gcloud`, whose two workers are local folders."""

import os
import subprocess
import time
from pathlib import Path

import pytest

from tests.runs import ROOT

GCLOUD = """#!/usr/bin/env python3
import os, subprocess, sys
flags = dict(word.split("=", 1) for word in sys.argv if word.startswith("--") and "=" in word)
plain = [word for word in sys.argv[1:] if not word.startswith("--")]
print(plain[3], flags["--worker"], file=open(f"{HOME}/calls", "a"))
workers = ["0", "1"] if flags["--worker"] == "all" else [flags["--worker"]]
code = 0
for worker in workers:
    home = f"{HOME}/{worker}"
    if plain[3] == "scp":
        code |= subprocess.call(["cp", plain[4], f"{home}/{plain[5].partition(':')[2]}"])
    else:
        environment = {**os.environ, "HOME": home, "PATH": f"{HOME}/tools:" + os.environ["PATH"]}
        code |= subprocess.call(["bash", "-c", flags["--command"]], cwd=home, env=environment)
sys.exit(code)
"""
"""Fake of `gcloud compute tpus tpu-vm ssh | scp`."""

MAIN = """#!/usr/bin/env bash
trap 'echo saved; exit 0' TERM
printf '<%s>' "$@"
echo
while true; do sleep 0.1; done
"""
"""Fake of a worker's Python."""


@pytest.fixture
def pod(tmp_path: Path) -> Path:
    """A folder with the fake tools, a home for each worker, and `calls`."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for worker in "01":
        (tmp_path / worker).mkdir()
    install = f"mkdir -p .venv/bin; cp {tools}/main .venv/bin/python; cp {tools}/uv .venv/bin/pip; echo made >> ../made"
    scripts = {
        "gcloud": GCLOUD.replace("{HOME}", str(tmp_path)),
        "main": MAIN,
        "uv": "#!/bin/sh\n",
        "make": f"#!/bin/sh\n{install}\n",
    }
    for name, text in scripts.items():
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    return tmp_path


def tpu_pod(pod: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PATH": f"{pod}/tools:{os.environ['PATH']}"}
    command = ["launch/tpu_pod.sh", "slice", "zone", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False)


def test_tpu_pod_installs_once_and_runs_detached_until_stopped(pod: Path):
    arguments = ["--config=configs/k400.py", "--workdir=gs://a bucket/run"]
    started = tpu_pod(pod, *arguments)
    assert started.returncode == 0, started.stderr
    logs = [pod / worker / "timesformer.log" for worker in "01"]
    deadline = time.monotonic() + 20
    while not all(log.exists() and ">" in log.read_text() for log in logs) and time.monotonic() < deadline:
        time.sleep(0.05)
    for log in logs:
        assert log.read_text() == "<main.py><--distributed=on><--config=configs/k400.py><--workdir=gs://a bucket/run>\n"
    again = tpu_pod(pod, *arguments)
    assert again.returncode != 0
    assert "a run is under way here" in again.stderr
    stopped = tpu_pod(pod, "--stop")
    assert stopped.stdout.count("saved\n") == 2, stopped
    assert tpu_pod(pod, *arguments).returncode == 0
    tpu_pod(pod, "--stop")
    assert [(pod / worker / "made").read_text() for worker in "01"] == ["made\n", "made\n"]
    assert (pod / "calls").read_text().count("scp") == 1


@pytest.mark.parametrize("arguments", [(), ("--log",), ("train",)])
def test_tpu_pod_explains_its_usage(arguments: tuple[str, ...], pod: Path):
    done = tpu_pod(pod, *arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("Usage: launch/tpu_pod.sh NAME ZONE")
    assert not (pod / "calls").exists()
