"""Full disks, disks that can only be read, too few descriptors; and what a long run uses up."""

import contextlib
import functools
import os
import re
import resource
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.faults import world as worlds
from benchmarks.faults.kills import JOBS, Job, Reference, arguments_of, end_of, undisturbed
from benchmarks.faults.running import TRACEBACK, Process, in_child, start
from benchmarks.faults.table import Trial
from benchmarks.faults.world import World

SECTION = "Limits"
LARGE = 256 << 20
FEW = (40, 64, 96)
"""Descriptors, of which a run needs more or about as many."""
ENOUGH = 256
"""Descriptors, a usual limit; a checkpoint must leave none open."""
GROWTH = 4
"""Descriptors or threads by which a run's last quarter may exceed its second: threads that start late."""


class Disk:
    """A small file system of its own, in memory; only for root.

    `resize` gives it more room, `protect` makes it read-only.
    """

    def __init__(self, folder: Path, size: int):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._mount("-t", "tmpfs", "-o", f"size={size}", "endurance", str(folder))

    def resize(self, size: int) -> None:
        self._mount("-o", f"remount,size={size}", str(self.folder))

    def protect(self) -> None:
        self._mount("-o", "remount,ro", str(self.folder))

    def close(self) -> None:
        subprocess.run(["umount", "-l", str(self.folder)], check=True, capture_output=True)

    def _mount(self, *arguments: str) -> None:
        subprocess.run(["mount", *arguments], check=True, capture_output=True)


def can_mount(folder: Path) -> bool:
    """Whether this user and system allow small file systems."""
    if not worlds.is_root():
        return False
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        Disk(folder, 1 << 20).close()
        return True
    return False


def one_sentence(process: Process, code: int = 1) -> str:
    """What is wrong with how a run has ended that had to fail: nothing if it said why in its last line."""
    lines = [line for line in process.text.splitlines() if line.strip()]
    if TRACEBACK in process.text:
        return f"a traceback: {lines[-1][-200:]}"
    if process.code != code:
        return f"exit code {process.code}: {end_of(process)}"
    if not lines or not lines[-1].startswith("Error: "):
        return f"no error in the last line: {end_of(process)}"
    return ""


def _verdict(process: Process, what: str, detail: str) -> Trial:
    if process.code is None:
        return Trial(SECTION, what, "hung", detail)
    problem = one_sentence(process)
    outcome = "refused" if not problem else "traceback" if TRACEBACK in process.text else "failed"
    return Trial(SECTION, what, outcome, f"{detail}: {problem or end_of(process)}")


def fill_disks(world: World, *, count: int, seed: int, stop: Callable[[], bool]) -> Iterator[Trial]:
    """Each job on disks that are too small, then again with enough room."""
    mounts = can_mount(world.folder / "disk")
    for job in JOBS:
        if stop():
            return
        reference = undisturbed(world, job, world.folder / "disk" / "workdir")
        size = worlds.size_of(world.folder / "disk" / "workdir")
        shutil.rmtree(world.folder / "disk" / "workdir")
        for number in range(count):
            draw = np.random.default_rng([seed, number, *job.name.encode()])
            share = float(draw.uniform(0.1, 0.9))
            if not stop():
                yield _fill(world, job, reference, max(int(share * size), 8192), mounts)


def _fill(world: World, job: Job, reference: Reference, size: int, mounts: bool) -> Trial:
    what = f"full disk in {job.name}"
    folder = world.folder / "disk"
    workdir = folder / "workdir"
    disk = Disk(folder, LARGE) if mounts else None
    try:
        job.begin(world, workdir)
        begun = worlds.size_of(workdir)
        limits = {}
        if disk is not None:
            disk.resize(_used(folder) + size * (1 if not begun else 0) + (int(size * 0.05) if begun else 0))
        else:
            limits = {resource.RLIMIT_FSIZE: size}
        log = world.log("full")
        process = start(arguments_of(world, job, workdir), log, before=worlds.small_parts, limits=limits)
        process.wait()
        process.workers_end()
        detail = f"{size} bytes"
        trial = Trial(SECTION, what, "resumed", detail)
        if process.code != 0 or TRACEBACK in process.text:
            trial = _verdict(process, what, detail)
        if disk is not None:
            disk.resize(LARGE)
        again = start(arguments_of(world, job, workdir), world.log("room"), before=worlds.small_parts)
        if again.wait() != 0 or TRACEBACK in again.text:
            return Trial(SECTION, what, "failed", f"{detail}, again with enough room: {end_of(again)}")
        differing = worlds.differences(in_child(functools.partial(job.describe, workdir)), reference.left)
        return Trial(SECTION, what, "differs", f"{detail}: {'; '.join(differing[:3])}") if differing else trial
    finally:
        if disk is not None:
            disk.close()
        elif workdir.exists():
            shutil.rmtree(workdir)


def _used(folder: Path) -> int:
    """Bytes of the blocks that a file system has in use."""
    usage = os.statvfs(folder)
    return (usage.f_blocks - usage.f_bfree) * usage.f_frsize


READ_ONLY_MODES = ("train", "eval", "features", "probe", "report", "show")


def protect_workdirs(world: World) -> Iterator[Trial]:
    """Every mode on a workdir that can't be written to: one sentence each."""
    folder = world.folder / "protected"
    if not can_mount(folder):
        return
    disk = Disk(folder, LARGE)
    try:
        workdir = folder / "workdir"
        worlds.copy(world.reference, workdir)
        disk.protect()
        for mode in READ_ONLY_MODES:
            process = start(world.arguments(mode, workdir), world.log("protected"))
            process.wait()
            yield _verdict(process, "read-only workdir", f"--mode={mode}")
    finally:
        disk.close()


def limit_descriptors(world: World) -> Iterator[Trial]:
    """Too few descriptors: success, or one sentence that says so."""
    for number in FEW:
        workdir = world.folder / "descriptors"
        if workdir.exists():
            shutil.rmtree(workdir)
        limits = {resource.RLIMIT_NOFILE: number}
        process = start(world.arguments("train", workdir), world.log("descriptors"), limits=limits)
        code = process.wait()
        process.workers_end()
        detail = f"{number} descriptors"
        if code == 0 and TRACEBACK not in process.text:
            yield Trial(SECTION, "too few descriptors", "unharmed", detail)
            continue
        trial = _verdict(process, "too few descriptors", detail)
        if trial.outcome == "refused" and not re.search("descriptor|open files", process.text.splitlines()[-1]):
            trial = Trial(SECTION, "too few descriptors", "unnamed", trial.detail)
        yield trial


def watch_growth(world: World, checkpoints: int, notes: list[str]) -> Iterator[Trial]:
    """Descriptors and threads of a run with many checkpoints, under a usual limit; adds a line to `notes`.

    A save in flight holds up to six descriptors, seen or not as chance has it, so the fewest of a quarter are compared:
    what is never given back raises them too.
    """
    workdir = world.folder / "many"
    per_epoch = worlds.STEPS_PER_EPOCH
    changed: dict[str, Any] = {
        "train.num_epochs": checkpoints / per_epoch,
        "train.checkpoint_every_epochs": 1 / per_epoch,
        "train.evaluate_every_epochs": 1000.0,
        "train.log_every_steps": 50,
    }
    process = start(world.arguments("train", workdir, **changed), world.log("many"), limits={resource.RLIMIT_NOFILE: ENOUGH})
    counts: dict[int, tuple[int, int]] = {}
    while process.poll() is None:
        step = newest(workdir / "checkpoints")
        with contextlib.suppress(OSError):
            if step and step not in counts:
                counts[step] = _usage(process.pid)
        time.sleep(0.01)
    if process.code != 0 or TRACEBACK in process.text:
        yield Trial(SECTION, "many checkpoints", "failed", f"{checkpoints}, {ENOUGH} descriptors: {end_of(process)}")
        return
    steps = sorted(counts)[:-1]  # not the last: the process ends there, and lets go of everything
    quarter = max(len(steps) // 4, 1)
    early, late = steps[quarter : 2 * quarter], steps[-quarter:]
    for which, name in enumerate(("descriptors", "threads")):
        first, last = (min(counts[step][which] for step in part) for part in (early, late))
        most = max(count[which] for count in counts.values())
        notes.append(
            f"{name.capitalize()} over {checkpoints} checkpoints: at least {first} in the second quarter "
            f"and {last} in the last, {most} at most."
        )
        grown = last - first > GROWTH
        yield Trial(SECTION, f"{name} over {checkpoints} checkpoints", "left behind" if grown else "unharmed", notes[-1])


def newest(checkpoints: Path) -> int:
    """Newest step of a run that is under way; 0 if there is none."""
    try:
        return max((int(name) for name in os.listdir(checkpoints) if name.isdecimal()), default=0)
    except OSError:
        return 0


def _usage(pid: int) -> tuple[int, int]:
    return len(os.listdir(f"/proc/{pid}/fd")), len(os.listdir(f"/proc/{pid}/task"))
