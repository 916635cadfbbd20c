"""Measurements in worker processes, which may crash, hang or run out of memory without ending the run."""

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.accelerator.record import Record, first_line

SCRIPT = Path(__file__).parent.parent / "gpu.py"
SIGN = "@result "
"""Begins each line that a worker writes for the run."""
START_LIMIT = 90.0
"""Seconds for a worker to import JAX and open the device."""


class Task(NamedTuple):
    """A measurement by its names, and the seconds after which it is given up."""

    section: str
    name: str
    limit: float


class Worker:
    """A process that measures one thing after the other and reports each as one line of JSON on stdout."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]):
        self._errors = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115 (closed by `stop`)
        self._process = subprocess.Popen(
            command,
            env=merged(os.environ, environment),
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            start_new_session=True,  # so that its own children end with it
        )
        self.gives_no_more = False
        """Whether a report has failed to come: the process hangs or has ended."""
        self._lines: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(SIGN):
                self._lines.put(json.loads(line.removeprefix(SIGN)))
        self._lines.put(None)

    def report(self, limit: float) -> dict[str, Any]:
        """The next report, or the failure that stands for it after `limit` seconds or when the process has ended."""
        try:
            report = self._lines.get(timeout=max(limit, 0.0))
        except queue.Empty:
            self.gives_no_more = True
            return failure("time limit", f"not finished after {limit:.0f} s")
        if report is None:
            self.gives_no_more = True
            return failure("failed", f"the process ended with code {self._process.wait()}: {self._last_words()}")
        return report

    def stop(self) -> None:
        """End the process and all that it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._reader.join()
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._errors.close()

    def _last_words(self) -> str:
        self._errors.seek(0)
        return self._errors.read()[-1500:].strip()


class Run:
    """One run: where it records, until when it goes on, and how its workers are started."""

    def __init__(self, record: Record, *, minutes: float, options: Sequence[str]):
        self._record = record
        self._deadline = time.monotonic() + 60 * minutes
        self._options = options

    def measure(self, tasks: Sequence[Task], environment: Mapping[str, str]) -> None:
        """Measure and record each task.

        A worker that hangs or crashes loses the measurement it was at; another one takes the rest. One that cannot start with
        `environment` (an XLA option that this version doesn't know ends a process at once) is started without.
        """
        rest = list(tasks)
        while rest:
            if self._left <= 0:
                for task in rest:
                    self._add(task, 0.0, failure("not reached", "the time was up"))
                return
            names = json.dumps([[task.section, task.name] for task in rest])
            worker = Worker([sys.executable, str(SCRIPT), *self._options, f"--worker={names}"], environment)
            try:
                started = worker.report(min(START_LIMIT, self._left))
                if "failure" in started and environment:
                    print(f"  not with {dict(environment)}: {started['message'][-200:]}", flush=True)
                    environment = {}
                    continue
                if "failure" in started:
                    for task in rest:
                        self._add(task, 0.0, started)
                    return
                rest = self._listen(worker, rest)
            finally:
                worker.stop()

    def _listen(self, worker: Worker, tasks: list[Task]) -> list[Task]:
        """Record what the worker reports; return the tasks that are left when it can't go on."""
        for position, task in enumerate(tasks):
            began = time.monotonic()
            outcome = worker.report(min(task.limit, self._left))
            self._add(task, time.monotonic() - began, outcome)
            if worker.gives_no_more:
                return tasks[position + 1 :]
        return []

    def _add(self, task: Task, seconds: float, outcome: dict[str, Any]) -> None:
        self._record.add(task.section, task.name, seconds, outcome)
        print(f"  {task.section}: {task.name}: {summary(outcome)} [{seconds:.1f} s]", flush=True)

    @property
    def _left(self) -> float:
        return self._deadline - time.monotonic()


def failure(kind: str, message: str) -> dict[str, Any]:
    """The outcome of a measurement that gave no figures; `kind` is one of `record.FAILURES`."""
    return {"failure": kind, "message": message}


def merged(environment: Mapping[str, str], more: Mapping[str, str]) -> dict[str, str]:
    """An environment with more variables; flags of XLA are added to those that are set."""
    result = {**environment, **more}
    if "XLA_FLAGS" in environment and "XLA_FLAGS" in more:
        result["XLA_FLAGS"] = f"{environment['XLA_FLAGS']} {more['XLA_FLAGS']}"
    return result


def summary(outcome: Mapping[str, Any]) -> str:
    """An outcome in a few words, for the terminal."""
    if "failure" in outcome:
        return f"{outcome['failure'].upper()}: {first_line(outcome['message'])}"
    shown = {name: value for name, value in outcome["result"].items() if isinstance(value, int | float | bool)}
    return ", ".join(f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in shown.items())
