"""Worker processes that take turns, so that noise affects all of them alike."""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

Runs = dict[str, Callable[[], Any]]
"""Runs of a contender by name; each returns when its result is ready."""


class Seconds(NamedTuple):
    """Time of a run."""

    wall: float
    """Seconds."""
    cpu: float
    """Seconds of all threads, without waiting for a core."""


def serve(runs: Runs, facts: Mapping[str, Any], *, warm: bool) -> None:
    """Serve a contender: for each name on stdin, run it and print its time.

    Args:
        runs: The contender's runs.
        facts: JSON values, printed once the contender is ready.
        warm: Run each once beforehand, since some compile lazily, and again before each timed run, to reclaim memory that the
            system took while other contenders ran, which can take as long as a short run.
    """
    for run in runs.values() if warm else ():
        run()
    print(json.dumps({"runs": list(runs), **facts}), flush=True)
    for line in sys.stdin:
        run = runs[line.rstrip("\n")]
        if warm:
            run()
        wall, cpu = time.perf_counter(), time.process_time()
        run()
        print(json.dumps(Seconds(time.perf_counter() - wall, time.process_time() - cpu)), flush=True)


class Turns(NamedTuple):
    """Result of `take_turns`."""

    times: dict[str, dict[str, list[Seconds]]]
    """Times of each contender's runs, one per round."""
    facts: dict[str, dict[str, Any]]
    """What each contender printed of itself."""

    def wall(self, contender: str, run: str = "") -> float:
        """Return the median time in seconds."""
        return statistics.median(each.wall for each in self.times[contender][run])

    def fastest(self, contender: str, run: str = "") -> float:
        """Return the shortest time in seconds."""
        return min(each.wall for each in self.times[contender][run])

    def cpu(self, contender: str, run: str = "") -> float:
        """Return the median CPU time in seconds."""
        return statistics.median(each.cpu for each in self.times[contender][run])


def take_turns(commands: Mapping[str, Sequence[str]], environment: Mapping[str, str], rounds: int) -> Turns:
    """Start a worker per contender, then let every run of every contender run once per round.

    Args:
        commands: Command of each contender's worker, which calls `serve`.
        environment: Environment variables of the workers.
        rounds: Number of rounds.
    """
    with ExitStack() as stack:
        workers, facts = {}, {}
        for name, command in commands.items():
            worker = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
            stack.callback(worker.kill)
            workers[name] = worker
            answer = _answer(worker)  # wait for each, so that none compiles while another is timed
            if not answer:
                sys.exit(f"Error: the process of {name!r} ended; its message is above.")
            facts[name] = json.loads(answer)
        times: dict[str, dict[str, list[Seconds]]] = {name: {run: [] for run in facts[name]["runs"]} for name in workers}
        for _ in range(rounds):
            for name, worker in workers.items():
                for run, found in times[name].items():
                    print(run, file=worker.stdin, flush=True)
                    found.append(Seconds(*json.loads(_answer(worker))))
    return Turns(times, facts)


def _answer(worker: subprocess.Popen) -> str:
    assert worker.stdout is not None
    return worker.stdout.readline()
