"""Compile measurements ahead of time in parallel processes, since compilation takes far longer than timing.

The processes fill JAX's compilation cache, which the worker that times the programs reads. They are suspended while it times,
so they don't disturb it.
"""

import collections
import contextlib
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from benchmarks.accelerator.running import START_LIMIT, Task, Worker, failure

MEMORY = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.9"}
"""Variables of the compiling processes, which take memory on demand from what the timing worker leaves."""
TIMING_FRACTION = "0.75"
"""Share of the device's memory reserved for the timing worker while others compile."""
SUSPENDED = "TIMESFORMER_BENCHMARK_COMPILERS"
"""Environment variable with the path of the file that lists the process groups to suspend."""
PATIENCE = 180.0
"""Seconds to wait for a measurement's programs before the timing worker compiles them itself."""

Start = Callable[[Mapping[str, str]], Worker]
"""Starts a worker process with additional environment variables."""


class Compilers:
    """Processes that compile tasks in order, as context manager.

    Args:
        start: Starts a process that compiles the tasks sent to it.
        tasks: Pairs of a task and the environment variables of its section.
        processes: Number of processes; with 0, nothing is compiled ahead.
        groups_file: Path of the file that receives the process groups, for `quiet`.
    """

    def __init__(self, start: Start, tasks: Sequence[tuple[Task, Mapping[str, str]]], *, processes: int, groups_file: str):
        self._start, self._file, self._number = start, groups_file, processes
        self._waiting = collections.deque(tasks)
        self._done = {task: threading.Event() for task, _ in tasks} if processes else {}
        self._outcomes: dict[Task, dict[str, Any]] = {}
        self._workers: dict[int, Worker] = {}
        self._lock = threading.Lock()
        self._ended = False

    def __enter__(self) -> "Compilers":
        for number in range(self._number):
            threading.Thread(target=self._serve, args=(number,), daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._ended = True
            workers, self._workers = list(self._workers.values()), {}
        for worker in workers:
            worker.stop()

    def wait(self, task: Task, left: float) -> dict[str, Any]:
        """Wait until a task is compiled, at most `left` seconds; return what its process reported."""
        if task not in self._done:
            return {}
        if not self._done[task].wait(max(min(left, PATIENCE), 0.0)):
            return failure("time limit", "not compiled ahead")
        return self._outcomes[task]

    def resume(self) -> None:
        """Continue the processes, in case the timing worker was killed while they were suspended."""
        _signal_groups(self._file, signal.SIGCONT)

    def _serve(self, number: int) -> None:
        worker, environment = None, None
        while True:
            with self._lock:
                if self._ended or not self._waiting:
                    break
                task, wanted = self._waiting.popleft()
            if worker is None or worker.gives_no_more or wanted != environment:
                worker, environment = self._replace(number, worker, wanted), wanted
                if worker is None:
                    break
                if "failure" in worker.report(START_LIMIT):
                    self._finish(task, failure("failed", "the compiling process did not start"))
                    continue
            worker.ask(task)
            self._finish(task, worker.report(PATIENCE))

    def _replace(self, number: int, worker: Worker | None, environment: Mapping[str, str]) -> Worker | None:
        if worker is not None:
            worker.stop()
        with self._lock:
            if self._ended:
                return None
            self._workers[number] = self._start({**environment, **MEMORY})
            groups = json.dumps([each.process_group for each in self._workers.values()])
            with open(self._file, "w") as file:
                file.write(groups)
            return self._workers[number]

    def _finish(self, task: Task, outcome: dict[str, Any]) -> None:
        self._outcomes[task] = outcome
        self._done[task].set()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Suspend the compiling processes, if there are any, during the context."""
    file = os.environ.get(SUSPENDED, "")
    _signal_groups(file, signal.SIGSTOP)
    try:
        if file:
            time.sleep(0.05)  # kernels already submitted to the device finish
        yield
    finally:
        _signal_groups(file, signal.SIGCONT)


def _signal_groups(file: str, number: int) -> None:
    try:
        with open(file) as opened:
            groups = json.load(opened)
    except (OSError, json.JSONDecodeError):  # none yet
        return
    for group in groups:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, number)
