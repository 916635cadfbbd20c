"""Work in several processes: results in order, errors as results, and crashes that lose only one item."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from timesformer_jax.datasets import map_in_processes
from timesformer_jax.datasets.parallel import CrashError
from timesformer_jax.errors import InputError


def work(number: int) -> int:
    """Return the square; refuses 3, and kills its own process for 5."""
    if number == 3:
        raise InputError("not three")
    if number == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    return number**2


def test_results_and_errors_keep_their_order():
    results = dict(map_in_processes(work, iter([0, 1, 2, 3, 4]), num_workers=2))
    assert list(results) == [0, 1, 2, 3, 4]
    assert isinstance(error := results.pop(3), InputError)
    assert str(error) == "not three"
    assert results == {0: 0, 1: 1, 2: 4, 4: 16}


@pytest.mark.filterwarnings("ignore:A worker stopped while some jobs were given")
def test_dead_worker_loses_only_its_item():
    results = dict(map_in_processes(work, range(60), num_workers=2))
    assert [number for number, result in results.items() if isinstance(result, CrashError)] == [5]
    assert results[6] == 36
    assert list(results) == [*range(60)]
    assert str(results[5]) == "the process that read it died"


def wait_for_last_item(path: Path) -> bool:
    """Make the first item wait until the last one is done."""
    if path.name == "0":
        until = time.monotonic() + 20
        while not path.with_name("40").exists():
            if time.monotonic() > until:
                return False
            time.sleep(0.01)
    path.touch()
    return True


def test_slow_item_does_not_delay_the_others(tmp_path: Path):
    found = list(map_in_processes(wait_for_last_item, [tmp_path / str(number) for number in range(41)], num_workers=2))
    assert found == [(tmp_path / str(number), True) for number in range(41)]


@pytest.mark.slow  # time for three processes to import the package
@pytest.mark.parametrize("thread", [False, True], ids=["Linux's signal", "polling for the parent"])
def test_workers_end_with_a_killed_parent(thread: bool):
    """Linux's signal follows the thread that started the worker, so work must run in the main thread."""
    code = """
import os, threading, time
from timesformer_jax.datasets import map_in_processes
def sleep(_):
    print(os.getpid(), flush=True)
    time.sleep(60)
def work(): next(map_in_processes(sleep, range(4), num_workers=2))
"""
    code += "threading.Thread(target=work).start(); time.sleep(60)" if thread else "work()"
    root = Path(__file__).parent.parent.parent
    with subprocess.Popen([sys.executable, "-c", code], cwd=root, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        workers = [int(process.stdout.readline()) for _ in range(2)]
        process.kill()
    until = time.monotonic() + 5
    while (alive := [number for number in workers if is_running(number)]) and time.monotonic() < until:
        time.sleep(0.05)
    assert not alive


def is_running(number: int) -> bool:
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
