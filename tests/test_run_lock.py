"""Locks: one process at a time writes a set of files."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from timesformer_jax import run_lock
from timesformer_jax.errors import InputError
from timesformer_jax.state_files import write_json

ROOT = Path(__file__).parent.parent


@pytest.fixture
def other() -> Iterator[subprocess.Popen[bytes]]:
    """Another process of this machine."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process
        process.kill()


def held_by(number: int, path: Path, **changes: Any) -> Path:
    me = {**run_lock._me(), "pid": number, "started": run_lock._started(number), "since": "noon", "token": "other"}
    write_json(path, {**me, **changes})
    return path


def test_run_lock_refuses_a_lock_held_by_a_live_process(tmp_path: Path, other: subprocess.Popen[bytes]):
    """However old the lock is, the process may merely have been paused."""
    path = held_by(other.pid, tmp_path / "lock")
    os.utime(path, (0, 0))
    with pytest.raises(
        InputError, match=f"Another process trains: process {other.pid} on .*, since noon. Wait until .* stop it"
    ):
        run_lock.take_lock(path, "trains")
    with pytest.raises(InputError, match="Another process trains"):
        run_lock.check_unlocked(path, "trains")
    assert [file.name for file in tmp_path.iterdir()] == ["lock"]


def test_run_lock_takes_over_from_a_dead_process(tmp_path: Path, other: subprocess.Popen[bytes]):
    """Even if another process has its number by now."""
    path = tmp_path / "lock"
    for changes in ({"pid": 2**22 + 1}, {"started": "1"}):
        held_by(other.pid, path, **changes)
        with run_lock.locked(path, "trains"):
            assert run_lock._read(path)["pid"] == os.getpid()
        assert not list(tmp_path.iterdir())


def test_run_lock_deletes_leftovers_of_killed_processes(tmp_path: Path, other: subprocess.Popen[bytes]):
    for number, name in (
        (2**22 + 1, "lock.a.part"),
        (2**22 + 1, "lock.b.stale"),
        (2**22 + 1, "lock.txt"),
        (other.pid, "lock.c.part"),
    ):
        held_by(number, tmp_path / name)
    for name, date in (("lock.old.now", 0), ("lock.new.now", time.time())):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (date, date))
    with run_lock.locked(tmp_path / "lock", "trains"):
        pass
    assert sorted(file.name for file in tmp_path.iterdir()) == ["lock.c.part", "lock.new.now", "lock.txt"]


def test_run_lock_judges_locks_of_other_hosts_by_age(tmp_path: Path):
    path = held_by(1, tmp_path / "lock", host="elsewhere", machine="elsewhere")
    with pytest.raises(InputError, match="process 1 on elsewhere"):
        run_lock.take_lock(path, "trains")
    old = time.time() - run_lock.STALE - 60
    os.utime(path, (old, old))
    with run_lock.locked(path, "trains"):
        pass
    assert not list(tmp_path.iterdir())


def test_run_lock_judges_damaged_locks_by_age(tmp_path: Path, other: subprocess.Popen[bytes]):
    path = held_by(other.pid, tmp_path / "lock")
    path.write_bytes(path.read_bytes().replace(str(other.pid).encode(), b"1"))
    with pytest.raises(InputError, match="Another process trains"):
        run_lock.take_lock(path, "trains")


def test_run_lock_is_refreshed_and_never_stolen_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog):
    monkeypatch.setattr(run_lock, "BEAT", 0.01)
    path = tmp_path / "lock"
    with run_lock.locked(path, "trains"):
        os.utime(path, (0, 0))
        until = time.monotonic() + 30
        while not path.stat().st_mtime and time.monotonic() < until:
            time.sleep(0.01)
        assert path.stat().st_mtime
        run_lock.take_lock(path, "trains")  # already held by this process
        held_by(1, path)
        while "no longer belongs to this process" not in caplog.text and time.monotonic() < until:
            time.sleep(0.01)
    assert "no longer belongs to this process: process 1 on" in caplog.text
    assert path.exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_run_lock_excludes_a_second_process_and_survives_kills(tmp_path: Path, number: int):
    """The second one is refused; SIGTERM releases the lock, and after SIGKILL the next process takes it over."""
    path = tmp_path / "lock"
    code = (
        f"import time; from timesformer_jax import run_lock; from pathlib import Path; run_lock.take_lock(Path({str(path)!r})"
    )
    code += ", 'trains'); print('taken', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "taken\n"
        with pytest.raises(InputError, match=f"process {process.pid} "):
            run_lock.take_lock(path, "trains")
        process.send_signal(number)
        assert process.wait(30) == -number
    assert path.exists() == (number == signal.SIGKILL)
    with run_lock.locked(path, "trains"):
        pass


def test_second_training_leaves_checkpoints_untouched(
    tmp_path: Path, other: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
):
    """A step that the first one is just deleting would look damaged."""
    import main
    from tests.runs import config_of

    held_by(other.pid, tmp_path / ".train.lock")
    monkeypatch.setattr("experiment.train.set_damaged_aside", lambda *_, **__: pytest.fail("touched"))
    with pytest.raises(InputError, match="Another process trains in"):
        main.run(config_of("moving_digits"), str(tmp_path), "train")
