"""Full disks, read-only disks, too few file descriptors, and leaks in long runs."""

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
"""Numbers of file descriptors that are below or about what a run needs."""
ENOUGH = 256
"""Number of file descriptors, a common limit; a checkpoint must leave none open."""
GROWTH = 4
"""Descriptors or threads by which a run's last quarter may exceed its second, since some threads start late."""


class Disk:
    """A small file system in memory, for root only.

    `resize` changes its capacity, and `protect` makes it read-only.
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
    """Return whether this user can mount a small file system."""
    if not worlds.is_root():
        return False
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        Disk(folder, 1 << 20).close()
        return True
    return False


def one_sentence(process: Process, code: int = 1) -> str:
    """Return what is wrong with the end of a run that had to fail; empty if its last line is a clear error."""
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
    """Run each job on disks that are too small, then again with enough space."""
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
    """Size in bytes of the blocks that a file system uses."""
    usage = os.statvfs(folder)
    return (usage.f_blocks - usage.f_bfree) * usage.f_frsize


READ_ONLY_MODES = ("train", "eval", "features", "probe", "report", "show")


def protect_workdirs(world: World) -> Iterator[Trial]:
    """Run every mode on a read-only workdir, where each must fail with a clear error."""
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
    """Train with too few file descriptors, which must succeed or fail with an error that names them."""
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
    """Watch the file descriptors and threads of a run with many checkpoints under a common limit, and add lines to `notes`.

    A save in progress holds up to six descriptors, which a sample may or may not include. So the minima of two quarters are
    compared, which leaks raise as well.
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
    steps = sorted(counts)[:-1]  # not the last one, at which the process ends and releases everything
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
    """Return the newest step of a run in progress; 0 if there is none."""
    try:
        return max((int(name) for name in os.listdir(checkpoints) if name.isdecimal()), default=0)
    except OSError:
        return 0


def _usage(pid: int) -> tuple[int, int]:
    return len(os.listdir(f"/proc/{pid}/fd")), len(os.listdir(f"/proc/{pid}/task"))
