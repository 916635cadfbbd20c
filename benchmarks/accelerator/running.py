"""Run measurements in worker processes, which may crash, hang or run out of memory without ending the run."""

import contextlib
import json
import os
import queue
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from benchmarks.accelerator.record import Record, first_line

SIGN = "@result "
"""Prefix of each line that a worker writes for the run."""
START_LIMIT = 90.0
"""Seconds within which a worker must import JAX and open the device."""


class Task(NamedTuple):
    """A measurement by section and name, with its time limit in seconds."""

    section: str
    name: str
    limit: float


class Worker:
    """A process that runs the measurements asked for on its stdin, and reports each as one line of JSON on stdout."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]):
        self._errors = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115 (closed by `stop`)
        self._process = subprocess.Popen(
            command,
            env=merged(os.environ, environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            start_new_session=True,  # so that its children end with it
        )
        self.gives_no_more = False
        """True if a report is missing because the process hangs or has ended."""
        self._lines: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(SIGN):
                self._lines.put(json.loads(line.removeprefix(SIGN)))
        self._lines.put(None)

    @property
    def process_group(self) -> int:
        """Process group of the worker and its children."""
        return self._process.pid

    def ask(self, task: Task) -> None:
        """Send a task to the process; if it has ended, the next report says so."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            print(json.dumps([task.section, task.name]), file=self._process.stdin, flush=True)

    def report(self, limit: float) -> dict[str, Any]:
        """Return the next report, or a failure if `limit` seconds pass or the process ends first."""
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
        """Kill the process and its children."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._reader.join()
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            with contextlib.suppress(BrokenPipeError):
                stream.close()
        self._errors.close()

    def _last_words(self) -> str:
        if self._errors.closed:
            return "it was stopped"
        self._errors.seek(0)
        return self._errors.read()[-1500:].strip()


class Run:
    """One run of the benchmark.

    Args:
        record: Record that receives the results.
        minutes: Time limit of the run.
        start: Starts a worker process with additional environment variables.
    """

    def __init__(self, record: Record, *, minutes: float, start: Callable[[Mapping[str, str]], Worker]):
        self._record = record
        self._deadline = time.monotonic() + 60 * minutes
        self._start = start

    def measure(self, tasks: Sequence[Task], environment: Mapping[str, str], compilers: Any) -> None:
        """Measure and record each task as soon as `compilers` has compiled it.

        If a worker hangs or crashes, its current measurement is lost and a new worker continues with the rest. If a worker
        can't start with `environment`, because XLA exits on an unknown option, the rest is measured without it.
        """
        rest = list(tasks)
        while rest:
            if self._left <= 0:
                for task in rest:
                    self._add(task, 0.0, failure("not reached", "the time was up"))
                return
            worker = self._start(environment)
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
                rest = self._listen(worker, rest, compilers)
            finally:
                worker.stop()
                compilers.resume()

    def _listen(self, worker: Worker, tasks: list[Task], compilers: Any) -> list[Task]:
        """Record the worker's reports; return the tasks that remain if it can't continue."""
        for position, task in enumerate(tasks):
            ahead = compilers.wait(task, self._left)
            if self._left <= 0:
                return tasks[position:]
            began = time.monotonic()
            worker.ask(task)
            outcome = worker.report(min(task.limit, self._left))
            if "compile_seconds" in ahead.get("result", {}) and "result" in outcome:
                outcome["result"]["compile_seconds"] = ahead["result"]["compile_seconds"]  # the worker's came from the cache
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
    """Return the outcome of a measurement without a result; `kind` is one of `record.FAILURES`."""
    return {"failure": kind, "message": message}


def merged(environment: Mapping[str, str], more: Mapping[str, str]) -> dict[str, str]:
    """Add variables to an environment; XLA flags are appended to the existing ones."""
    result = {**environment, **more}
    if "XLA_FLAGS" in environment and "XLA_FLAGS" in more:
        result["XLA_FLAGS"] = f"{environment['XLA_FLAGS']} {more['XLA_FLAGS']}"
    return result


def summary(outcome: Mapping[str, Any]) -> str:
    """Summarise an outcome for the terminal."""
    if "failure" in outcome:
        return f"{outcome['failure'].upper()}: {first_line(outcome['message'])}"
    shown = {name: value for name, value in outcome["result"].items() if isinstance(value, int | float | bool)}
    return ", ".join(f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in shown.items())
