"""Concurrent runs on one workdir, and runs on two processes of which one is killed."""

import functools
import re
import shutil
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.faults import world as worlds
from benchmarks.faults.kills import JOBS, Job, arguments_of, end_of, undisturbed
from benchmarks.faults.limits import newest, one_sentence
from benchmarks.faults.running import HANGING, TRACEBACK, Process, in_child, start
from benchmarks.faults.table import Trial
from benchmarks.faults.world import World

SECTION = "Together"
PEER_SECONDS = 150
"""Seconds within which a process must notice that its peer has died."""
LAST_WORDS_SECONDS = 30
"""Seconds within which the log of an aborted process must end with the reason."""


def run_twice(world: World, *, stop: Callable[[], bool]) -> Iterator[Trial]:
    """Start a second run of the same job, which must be refused without affecting the first; other pairs may coexist."""
    for job in JOBS:
        if stop():
            return
        yield _second_run(world, job)
    for second in ("eval", "show"):
        if not stop():
            yield _beside_training(world, second)


def _begin(world: World, job: Job) -> tuple[Path, Process]:
    workdir = world.folder / "workdir"
    if workdir.exists():
        shutil.rmtree(workdir)
    job.begin(world, workdir)
    process = start(arguments_of(world, job, workdir), world.log("first"), before=worlds.small_parts)
    process.wait_for(job.begins)
    return workdir, process


def _second_run(world: World, job: Job) -> Trial:
    what = f"two runs at once: {job.name}"
    expected = undisturbed(world, job).left
    workdir, first = _begin(world, job)
    # Paused while the second one starts, so that the two are sure to overlap.
    first.signal(signal.SIGSTOP)
    second = start(arguments_of(world, job, workdir), world.log("second"), before=worlds.small_parts)
    second.wait()
    first.signal(signal.SIGCONT)
    code = first.wait()
    for process in (first, second):
        process.workers_end()
    if code != 0 or TRACEBACK in first.text:
        return Trial(SECTION, what, "failed", f"the first: exit code {code}: {end_of(first)}")
    differing = worlds.differences(in_child(functools.partial(job.describe, workdir)), expected)
    if differing:
        return Trial(SECTION, what, "differs", "; ".join(differing[:3]))
    problem = "" if second.code == 0 and TRACEBACK not in second.text else one_sentence(second)
    return Trial(SECTION, what, "failed" if problem else "refused", f"the second: {problem or end_of(second)}")


def _beside_training(world: World, mode: str) -> Trial:
    """Run `--mode=eval` or `--mode=show` during training; both must succeed."""
    what = f"--mode={mode} beside training"
    job = JOBS[0]
    expected = undisturbed(world, job).left["checkpoint"]
    workdir, first = _begin(world, job)
    while first.poll() is None and not newest(workdir / "checkpoints"):
        time.sleep(0.002)
    first.signal(signal.SIGSTOP)
    second = start(world.arguments(mode, workdir), world.log("second"))
    second.wait()
    first.signal(signal.SIGCONT)
    first.wait()
    if second.code != 0 or TRACEBACK in second.text:
        return Trial(SECTION, what, "failed", f"exit code {second.code}: {end_of(second)}")
    if first.code != 0 or TRACEBACK in first.text:
        return Trial(SECTION, what, "failed", f"training: exit code {first.code}: {end_of(first)}")
    differing = worlds.differences(in_child(functools.partial(worlds.digest_checkpoint, workdir)), expected)
    return Trial(SECTION, what, "differs" if differing else "resumed", "; ".join(differing[:3]))


def start_peers(world: World, mode: str, workdir: Path, **changed: Any) -> list[Process]:
    """Start the two processes of one run."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    arguments = [each for each in world.arguments(mode, workdir, **changed) if not each.startswith("--distributed")]
    common = {"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}", "NUM_PROCESSES": "2"}
    return [
        start(arguments, world.log(f"peer{number}"), environment={**common, "PROCESS_ID": str(number)}) for number in range(2)
    ]


def kill_peers(world: World, *, count: int, seed: int, stop: Callable[[], bool]) -> Iterator[Trial]:
    """Kill one of two processes: the other must end with a clear error, and both must resume."""
    what = "a peer dies in training"
    reference = world.folder / "peers-reference"
    if not reference.exists():
        peers = start_peers(world, "train", reference)
        if [peer.wait() for peer in peers] != [0, 0]:
            yield Trial(SECTION, what, "failed", f"undisturbed: {end_of(peers[0])}")
            return
    expected = in_child(functools.partial(worlds.describe_run, reference))
    for number in range(count):
        if stop():
            return
        draw = np.random.default_rng([seed, number])
        workdir = world.folder / "peers"
        if workdir.exists():
            shutil.rmtree(workdir)
        yield _kill_peer(world, what, workdir, expected, draw, victim=(seed + number) % 2)


def _kill_peer(world: World, what: str, workdir: Path, expected: Any, draw: Any, victim: int) -> Trial:
    peers = start_peers(world, "train", workdir)
    after = int(draw.integers(1, worlds.STEPS // 2))
    while peers[victim].poll() is None and newest(workdir / "checkpoints") < after:
        time.sleep(0.002)
    peers[victim].signal(signal.SIGKILL)
    began = time.monotonic()
    peers[victim].wait()
    survivor = peers[1 - victim]
    code = survivor.wait(PEER_SECONDS)
    detail = f"process {victim} at step {after}; {time.monotonic() - began:.0f} s later the other"
    if code is None:
        return Trial(SECTION, what, "hung", detail)
    if victim == 0:  # JAX aborts the other process at once, and its log receives the reason a moment later
        _await_error(survivor)
    if problem := one_sentence(survivor, -signal.SIGABRT if victim == 0 else 1):
        return Trial(SECTION, what, "traceback" if TRACEBACK in survivor.text else "failed", f"{detail}: {problem}")
    again = start_peers(world, "train", workdir)
    codes = [peer.wait(HANGING) for peer in again]
    if codes != [0, 0]:
        return Trial(SECTION, what, "failed", f"{detail}; resumed, exit codes {codes}: {end_of(again[0])}")
    differing = worlds.differences(in_child(functools.partial(worlds.describe_run, workdir)), expected)
    return Trial(SECTION, what, "differs" if differing else "resumed", f"{detail} {'; '.join(differing[:3])}")


def _await_error(process: Process) -> None:
    """Wait until the log of an ended process closes with an error."""
    until = time.monotonic() + LAST_WORDS_SECONDS
    while not re.search(r"^Error: .*\n\Z", process.text, re.MULTILINE) and time.monotonic() < until:
        time.sleep(0.02)
