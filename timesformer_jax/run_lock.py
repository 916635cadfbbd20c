"""Lock files that let only one process write a set of files, across machines that share a disk.

A lock file records the host, the process and the date. It is created atomically by a hard link (by an exclusive open on disks
without hard links); `flock` isn't used, since it is local on some network disks. A daemon thread touches the file every `BEAT`
seconds. A lock of this host is stale if its process is gone; a lock of another host is stale if it wasn't touched for `STALE`
seconds, by the clock of the disk. Buckets lack exclusive creation: if two processes start within the same second, both may get
the lock.
"""

import atexit
import contextlib
import datetime
import functools
import json
import logging
import os
import signal
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from timesformer_jax.errors import InputError
from timesformer_jax.state_files import DamagedFileError, parse_json, sealed

log = logging.getLogger("timesformer_jax")

BEAT = 30.0
"""Seconds between two heartbeats."""
STALE = 300.0
"""Seconds without a heartbeat after which a lock of another host is stale."""
LEFTOVERS = (".part", ".now", ".stale")
"""Suffixes of temporary files next to a lock."""

_HELD: dict[str, "_Lock"] = {}
"""Maps paths to the locks that this process holds."""
_GUARD = threading.RLock()


class _Lock:
    """Lock file of this process, kept alive by a thread."""

    def __init__(self, path: Any):
        self.path = path
        self.token = uuid.uuid4().hex
        self._released = threading.Event()

    def keep_alive(self) -> None:
        """Start the thread that touches the file."""
        threading.Thread(target=self._beat, daemon=True, name=f"lock {self.path}").start()

    def _beat(self) -> None:
        while not self._released.wait(BEAT):
            try:
                holder = _read(self.path)
                if holder is None or holder.get("token") != self.token:
                    log.error("%s no longer belongs to this process: %s.", self.path, _told(holder))
                    return
                _touch(self.path, holder)
            except Exception as error:  # an unresponsive disk must not end the job
                log.warning("The lock %s can't be touched (%s); trying again.", self.path, error)

    def release(self) -> None:
        """Delete the file if it is still this process's."""
        self._released.set()
        with contextlib.suppress(OSError):
            holder = _read(self.path)
            if holder is not None and holder.get("token") == self.token:
                self.path.unlink(missing_ok=True)


@contextlib.contextmanager
def locks_released() -> Iterator[None]:
    """Release the locks taken within the block, or within the decorated function, at its end."""
    before = set(_HELD)
    try:
        yield
    finally:
        _release(set(_HELD) - before)


@contextlib.contextmanager
def locked(path: Any, writes: str) -> Iterator[None]:
    """Hold the lock of `take_lock` during the block."""
    with locks_released():
        take_lock(path, writes)
        yield


def take_lock(path: Any, writes: str) -> None:
    """Take the lock file `path` until `locks_released` or the end of the process; no effect if it is already held.

    Args:
        path: A `pathlib.Path` or `epath.Path` in an existing folder.
        writes: Activity that the lock protects, to complete "Another process ...": "trains in runs/mine".

    Raises:
        InputError: If another process holds the lock.
    """
    with _GUARD:
        if str(path) in _HELD:
            return
        lock = _Lock(path)
        content = {**_me(), "since": _now(), "token": lock.token}
        for _ in range(3):
            if _create(path, content):
                _delete_leftovers(path)
                break
            holder = _read(path)
            if holder is not None and not _is_stale(path, holder):
                raise InputError(_refusal(path, writes, holder))
            _clear(path, holder)
        else:
            raise InputError(f"The lock {path} can't be taken, since others are taking it at the same time: try again.")
        _HELD[str(path)] = lock
        lock.keep_alive()
        _on_sigterm()


def check_unlocked(path: Any, writes: str) -> None:
    """Raise `InputError` if another process holds the lock file `path`."""
    if str(path) not in _HELD and path.exists():
        holder = _read(path)
        if holder is not None and not _is_stale(path, holder):
            raise InputError(_refusal(path, writes, holder))


def _refusal(path: Any, writes: str, holder: dict[str, Any]) -> str:
    return (
        f"Another process {writes}: {_told(holder)}. Wait until it has finished, or stop it. If it no longer exists, the lock "
        f"{path} is ignored {STALE / 60:.0f} minutes after its last sign of life; delete that file if you can't wait."
    )


def _told(holder: dict[str, Any] | None) -> str:
    if not holder:
        return "its file is gone"
    return f"process {holder.get('pid')} on {holder.get('host')}, since {holder.get('since')}"


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _me() -> dict[str, Any]:
    return {"host": socket.gethostname(), "machine": _machine(), "pid": os.getpid(), "started": _started(os.getpid())}


@functools.cache
def _machine() -> str:
    """Text that is equal for processes with a common process table: the same host, boot and container."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):  # not on Linux
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)


def _started(pid: int) -> str | None:
    """Start time of a process in clock ticks since boot, since its number may be reused; None if unknown."""
    with contextlib.suppress(OSError, IndexError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    return None


def _is_alive(holder: dict[str, Any]) -> bool:
    pid = holder.get("pid")
    if not isinstance(pid, int):
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's process
        pass
    return holder.get("started") in (None, _started(pid))


def _is_stale(path: Any, holder: dict[str, Any]) -> bool:
    if holder.get("machine") == _machine():
        return not _is_alive(holder)
    return _age(path) > STALE


def _age(path: Any) -> float:
    """Seconds since the file was written or touched, by the clock of its disk; infinite if the file is gone."""
    probe = path.with_name(f"{path.name}.{uuid.uuid4().hex}.now")
    try:
        probe.write_text("")
        return probe.stat().mtime - path.stat().mtime if "://" in str(path) else _mtime(probe) - _mtime(path)
    except FileNotFoundError:
        return float("inf")
    finally:
        probe.unlink(missing_ok=True)


def _mtime(path: Any) -> float:
    return os.stat(os.fspath(path)).st_mtime


def _read(path: Any) -> dict[str, Any] | None:
    """Read a lock file: {} if it is damaged, None if it doesn't exist."""
    try:
        return parse_json(path.read_bytes(), path, remedy="delete it")
    except FileNotFoundError:
        return None
    except DamagedFileError:  # being written, or damaged: its age decides whether it is stale
        return {}


def _touch(path: Any, holder: dict[str, Any]) -> None:
    if "://" in str(path):
        path.write_text(json.dumps(sealed({**holder, "beat": time.time()})))
    else:
        os.utime(os.fspath(path))


def _create(path: Any, content: dict[str, Any]) -> bool:
    """Create the file with its content atomically; returns False if it already exists."""
    text = json.dumps(sealed(content)) + "\n"
    if "://" in str(path):
        if path.exists():
            return False
        path.write_text(text)
        return (_read(path) or {}).get("token") == content["token"]  # if several have written, the last one holds it
    part = path.with_name(f"{path.name}.{content['token']}.part")
    try:
        part.write_text(text)
        try:
            os.link(part, path)  # not `replacing`: a rename would replace another process's lock
        except FileExistsError:
            return False
        except OSError:  # a disk without hard links
            return _create_exclusively(path, text)
        return True
    except OSError as error:
        raise InputError(f"The lock {path} can't be written: {error.strerror}.") from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def _create_exclusively(path: Any, text: str) -> bool:
    try:
        with open(path, "x") as file:
            file.write(text)
    except FileExistsError:
        return False
    return True


def _clear(path: Any, stale: dict[str, Any] | None) -> None:
    """Remove a stale lock, unless another process has taken it since it was read."""
    if stale is None:
        return
    log.warning("Taking over the lock %s: %s is gone.", path, _told(stale))
    if "://" in str(path):
        path.unlink(missing_ok=True)
        return
    aside = path.with_name(f"{path.name}.{uuid.uuid4().hex}.stale")
    try:
        os.rename(path, aside)
    except FileNotFoundError:
        return
    if (_read(aside) or {}).get("token") != stale.get("token"):
        with contextlib.suppress(OSError):  # a new lock of another process: put it back
            os.link(aside, path)
    aside.unlink(missing_ok=True)


def _delete_leftovers(path: Any) -> None:
    """Delete temporary files of processes that were killed while taking this lock."""
    if "://" in str(path):
        return
    for left in path.parent.glob(f"{path.name}.*"):
        if left.suffix in LEFTOVERS:
            with contextlib.suppress(OSError):
                if _is_stale(left, _read(left) or {}):
                    left.unlink(missing_ok=True)


def _release(paths: set[str]) -> None:
    with _GUARD:
        for path in paths & _HELD.keys():
            _HELD.pop(path).release()


@atexit.register
def _release_all() -> None:
    _release(set(_HELD))


def _on_sigterm() -> None:
    """Make SIGTERM release the locks before it ends the process (outside `watch_preemption`)."""
    if jax.distributed.is_initialized():  # JAX has its own handler, which Python can't see
        return
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _end)


def _end(number: int, frame: Any) -> None:
    _release_all()
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
