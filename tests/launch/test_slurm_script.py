"""launch/slurm.sh with a fake `srun`: assignment of GPUs, rejected settings, and requeueing."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.runs import ROOT

TOOLS = {
    "srun": """
for id in $(seq 0 $((TASKS - 1))); do
  ( export SLURM_LOCALID=$id; while [ "$1" != bash ]; do shift; done; "$@" )
done
exit ${CODE:-0}
""",
    "scontrol": """
[ "$1" = show ] && echo "JobId=7 JobState=${STATE:-RUNNING}" || echo "$@"
""",
    "sleep": "",
    "python": """
echo "process $SLURM_LOCALID: devices ${JAX_LOCAL_DEVICE_IDS-unset}, $SRUN_CPUS_PER_TASK cores, $4"
""",
}


def slurm(tmp_path: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    for name, text in TOOLS.items():
        (tmp_path / name).write_text(f"#!/usr/bin/env bash\n{text}")
        (tmp_path / name).chmod(0o755)
    environment = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "PYTHON": str(tmp_path / "python"),
        "SLURM_SUBMIT_DIR": str(ROOT),
        "SLURM_JOB_ID": "7",
        "SLURM_CPUS_ON_NODE": "96",
        "SLURM_NTASKS_PER_NODE": "1",
        "TASKS": variables.get("SLURM_NTASKS_PER_NODE", "1"),
        **variables,
    }
    command = ["bash", "launch/slurm.sh", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    ("variables", "processes"),
    [
        ({"SLURM_GPUS_ON_NODE": "8"}, ["devices 0,1,2,3,4,5,6,7, 96 cores"]),
        ({"SLURM_GPUS_ON_NODE": "1", "SLURM_CPUS_ON_NODE": "8"}, ["devices 0, 8 cores"]),
        ({}, ["devices unset, 96 cores"]),
        (
            {"SLURM_GPUS_ON_NODE": "8", "SLURM_NTASKS_PER_NODE": "2"},
            ["devices 0,1,2,3, 48 cores", "devices 4,5,6,7, 48 cores"],
        ),
        ({"SLURM_GPUS_ON_NODE": "2", "SLURM_CPUS_PER_TASK": "6"}, ["devices 0,1, 6 cores"]),
    ],
)
def test_slurm_divides_a_node(variables: dict[str, str], processes: list[str], tmp_path: Path):
    done = slurm(tmp_path, "--workdir=/runs/%a", SLURM_ARRAY_TASK_ID="3", **variables)
    expected = [f"process {number}: {text}, --workdir=/runs/3" for number, text in enumerate(processes)]
    assert done.stdout.splitlines() == expected, done.stderr


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"SLURM_GPUS_ON_NODE": "8", "SLURM_NTASKS_PER_NODE": "3"}, "8 GPUs can't be divided among 3 processes a node"),
        ({"SLURM_GPUS_PER_TASK": "2"}, "--gpus-per-task hides"),
        ({"SLURM_NTASKS_PER_NODE": "", "SLURM_TASKS_PER_NODE": "2,1"}, "give --ntasks-per-node"),
        ({"PYTHON": "nowhere/python"}, "there is no Python at nowhere/python: run make install"),
    ],
)
def test_slurm_rejects_impossible_requests(variables: dict[str, str], words: str, tmp_path: Path):
    done = slurm(tmp_path, **variables)
    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr


@pytest.mark.parametrize(
    ("variables", "queued"),
    [
        ({"CODE": "0"}, False),
        ({"CODE": "1"}, False),
        ({"CODE": "75"}, True),
        ({"CODE": "137"}, True),
        ({"CODE": "137", "SLURM_RESTART_COUNT": "20"}, False),
        ({"CODE": "75", "SLURM_RESTART_COUNT": "2", "MAX_RESTARTS": "3"}, True),
        ({"CODE": "75", "STATE": "COMPLETING"}, False),
        ({"CODE": "75", "STATE": "CANCELLED"}, False),
    ],
)
def test_slurm_requeues_unfinished_jobs(variables: dict[str, str], queued: bool, tmp_path: Path):
    done = slurm(tmp_path, **variables)
    assert ("requeue 7" in done.stdout) == queued, done
    assert done.returncode == int(variables["CODE"])
