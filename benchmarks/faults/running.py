"""Start `main.py` many times for the cost of one start: each run is a fork of a process that has imported everything.

A run differs from `python main.py ...` only in its start; it parses flags, opens data and compiles by itself. In the forking
process JAX has no backend and TensorFlow no threads, so no state is shared. `fresh` runs are new processes.
"""

import atexit
import contextlib
import ctypes
import itertools
import mmap
import os
import pickle
import re
import resource
import signal
import struct
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
ENDING = 10.0
"""Seconds within which the workers of a killed run must end."""
HANGING = 180.0
TRACEBACK = "Traceback (most recent call last)"


class Process:
    """A started run in its own session, with its log in a file.

    Attributes:
        changes: Number of files and folders created, renamed or deleted so far; counted for forked runs only.
    """

    def __init__(self, pid: int, log: Path, counter: mmap.mmap | None = None):
        self.pid, self.log = pid, log
        self.code: int | None = None
        self._counter = counter

    @property
    def changes(self) -> int:
        return struct.unpack("q", self._counter[:8])[0] if self._counter is not None else 0

    @property
    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def poll(self) -> int | None:
        """Return the exit code, negative for a signal; None if the process is running."""
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.code = os.waitstatus_to_exitcode(status)
        return self.code

    def wait(self, seconds: float = HANGING) -> int | None:
        """Wait for the end and return the exit code; None if the process hung and was killed."""
        end = time.monotonic() + seconds
        while self.poll() is None:
            if time.monotonic() > end:
                self.end_session()
                self.poll() if self.code is not None else os.waitpid(self.pid, 0)
                self.code = self.code if self.code is not None else -signal.SIGKILL
                return None
            time.sleep(0.005)
        return self.code

    def wait_for(self, pattern: str, seconds: float = HANGING) -> bool:
        """Wait until the log matches the pattern; return False if the process ends or time is up before."""
        end = time.monotonic() + seconds
        while not re.search(pattern, self.text):
            if self.poll() is not None or time.monotonic() > end:
                return re.search(pattern, self.text) is not None
            time.sleep(0.005)
        return True

    def signal(self, number: int) -> bool:
        """Send a signal; return whether the process was still running."""
        if self.poll() is not None:
            return False
        os.kill(self.pid, number)
        return True

    def remaining(self) -> list[int]:
        """Return the running processes of this session, including the run itself."""
        return [pid for pid in _pids() if _session(pid) == self.pid]

    def workers_end(self, seconds: float = ENDING) -> bool:
        """Return whether all processes of the session end in time, and kill those that don't."""
        end = time.monotonic() + seconds
        while self.remaining():
            if time.monotonic() > end:
                self.end_session()
                return False
            time.sleep(0.02)
        return True

    def end_session(self) -> None:
        for pid in self.remaining():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdecimal()]


def _session(pid: int) -> int | None:
    """Return the session of a process; None if it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[3])


def preload() -> None:
    """Import everything that runs need; afterwards this process must not use JAX or TensorFlow itself."""
    from orbax.checkpoint import v1  # noqa: F401

    import main  # noqa: F401


def start(
    arguments: Sequence[str],
    log: Path,
    *,
    environment: Mapping[str, str] | None = None,
    limits: Mapping[int, int] | None = None,
    watched: Path | None = None,
    kill_at_change: int | str | None = None,
    before: Callable[[], None] | None = None,
    fresh: bool = False,
) -> Process:
    """Start `python main.py ARGUMENTS` in the background.

    Args:
        arguments: Arguments of the command line.
        log: File for the output, replaced if it exists.
        environment: Variables added to those of this process.
        limits: Values of resource limits by `resource.RLIMIT_*`.
        watched: Folder whose changes are counted.
        kill_at_change: Number of the change (from 1), or end of a path, before whose first change the run kills itself.
        before: Function to call first in the new process.
        fresh: Whether to start a new process instead of a fork; `watched` and `before` have no effect then.

    Returns:
        The started run.
    """
    given = {**os.environ, **(environment or {})}
    log.write_bytes(b"")
    if fresh:
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "main.py", *arguments],
                cwd=ROOT,
                env=given,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                preexec_fn=lambda: _limit(limits or {}),
            )
        process.returncode = 0  # reaped here
        return Process(process.pid, log)
    counter = mmap.mmap(-1, 8)
    pid = _fork()
    if pid:
        return Process(pid, log, counter)

    def run() -> None:
        from absl import app

        import main
        from experiment.command_line import parse_flags

        _redirect(log)
        os.environ.update(given)
        _limit(limits or {})
        if before is not None:
            before()
        if watched is not None:
            sys.addaudithook(_Changes(str(watched), counter, kill_at_change))
        sys.argv = ["main.py", *arguments]
        sys.orig_argv = [sys.executable, *sys.argv]
        app.run(main.main, argv=sys.argv, flags_parser=parse_flags)

    os.setsid()
    end_with_parent()
    _end(run)
    raise AssertionError


def in_child(function: Callable[[], Any], seconds: float = HANGING) -> Any:
    """Return `function()` computed in a fork, since this process must not use JAX; the value must be picklable.

    Raises:
        RuntimeError: If the function raises or its process dies.
    """
    source, target = os.pipe()
    pid = _fork()
    if not pid:
        os.close(source)
        os.setsid()
        end_with_parent()

        def send() -> None:
            try:
                content = (True, function())
            except Exception:
                content = (False, traceback.format_exc())
            with open(target, "wb") as file:
                pickle.dump(content, file)

        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        _end(send)
    os.close(target)
    alarm = threading.Timer(seconds, os.kill, (pid, signal.SIGKILL))
    alarm.start()
    with open(source, "rb") as file:
        content = file.read()
    os.waitpid(pid, 0)
    alarm.cancel()
    if not content:
        raise RuntimeError("a process that looked at files has died")
    succeeded, value = pickle.loads(content)
    if not succeeded:
        raise RuntimeError(value)
    return value


def _fork() -> int:
    sys.stdout.flush()
    sys.stderr.flush()
    return os.fork()


def _end(function: Callable[[], None]) -> None:
    """Call `function` and exit like the interpreter, without unwinding the frames inherited from the forking process."""
    code: Any = 1
    try:
        function()
        code = 0
    except SystemExit as error:
        code = error.code
        if isinstance(code, str):
            print(code, file=sys.stderr)
            code = 1
    except BaseException:
        traceback.print_exc()
    with contextlib.suppress(BaseException):
        threading._shutdown()  # pyright: ignore[reportAttributeAccessIssue]
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code or 0)


def _redirect(log: Path) -> None:
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    null = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((null, 0), (output, 1), (output, 2)):
        os.dup2(source, target)
    os.close(output)
    os.close(null)


def _limit(limits: Mapping[int, int]) -> None:
    for what, value in limits.items():
        resource.setrlimit(what, (value, value))


class _Changes:
    """Audit hook that counts changes below a folder and kills the process before a given one."""

    def __init__(self, folder: str, counter: mmap.mmap, kill_at: int | str | None):
        self._folder, self._counter, self._kill_at = folder, counter, kill_at
        self._numbers = itertools.count(1)

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            if not flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                return
            folder = -1
        elif event in ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate"):
            path, folder = arguments[0], arguments[-1]
        else:
            return
        if not isinstance(path, str | bytes):
            return
        path = os.fsdecode(path)
        if not path.startswith("/") and isinstance(folder, int) and folder >= 0:
            path = os.path.join(os.readlink(f"/proc/self/fd/{folder}"), path)
        if not path.startswith(self._folder):
            return
        number = next(self._numbers)
        self._counter[:8] = struct.pack("q", number)
        if number == self._kill_at or (isinstance(self._kill_at, str) and path.endswith(self._kill_at)):
            os.kill(os.getpid(), signal.SIGKILL)


PR_SET_PDEATHSIG = 1


def end_with_parent() -> None:
    """Ask the kernel to kill this process if its parent dies (Linux)."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
