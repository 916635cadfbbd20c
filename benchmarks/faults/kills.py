"""SIGKILL and SIGTERM at random moments, after which the same command must end as if nothing had happened."""

import dataclasses
import functools
import re
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.faults import world as worlds
from benchmarks.faults.running import TRACEBACK, Process, in_child, start
from benchmarks.faults.table import Trial
from benchmarks.faults.world import World

SECTION = "Kills"
KILLS_PER_RUN = 3
"""Number of times that a run is killed before it may end."""
FRESH = 0.1
"""Share of killed runs that are started as new processes; the others are forks."""
ALLOWED_CODES = (0, -signal.SIGTERM)
"""Exit codes after SIGTERM: everything was saved, or there was nothing to save yet."""


@dataclasses.dataclass(frozen=True)
class Job:
    """A job to kill.

    Attributes:
        name: Name in the table.
        mode: Mode of `main.py`.
        begins: Pattern of the log after which the job may be killed.
        ends: Pattern of the log up to which it may be killed; empty for the end of the process.
        begin: Puts a workdir into the state that the job starts from.
        describe: Returns a comparable description of what the job writes; called in a separate process.
        check: Called after each kill; returns what is wrong with the readable state, or an empty string.
        changed: Changed fields of the config.
        prepares: Whether the job prepares its own data, in the workdir.
    """

    name: str
    mode: str
    begins: str
    ends: str
    begin: Callable[[World, Path], None]
    describe: Callable[[Path], Any]
    check: Callable[[World, Path], str] | None = None
    changed: dict[str, Any] = dataclasses.field(default_factory=dict)
    prepares: bool = False


def _nothing(world: World, workdir: Path) -> None:
    workdir.mkdir()


def _trained(world: World, workdir: Path) -> None:
    worlds.copy(
        world.reference, workdir, ignore=shutil.ignore_patterns("features", "probe*", *worlds.RESULT_FILES, "*results*")
    )


def _evaluated_otherwise(world: World, workdir: Path) -> None:
    """Copy a workdir with the results of another evaluation, which the new ones must replace."""
    worlds.copy(_other_evaluation(world), workdir)


@functools.cache
def _other_evaluation(world: World) -> Path:
    workdir = world.folder / "evaluated"
    _trained(world, workdir)
    fewer: dict[str, Any] = {"eval.num_clips": 1}
    worlds.run(world, "evaluated", world.arguments("eval", workdir, **fewer))
    return workdir


def _describe_features(workdir: Path) -> Any:
    return worlds.digest_files(workdir / "features")


def _describe_results(workdir: Path) -> Any:
    found = worlds.describe_run(workdir)
    return {name: found[name] for name in ("files", *worlds.RESULT_FILES)}


def _describe_data(workdir: Path) -> Any:
    return worlds.digest_files(workdir / "data")


def read_results(workdir: Path) -> str:
    """Return the results and predictions that the report reads, as text, or the error that refuses them."""
    from etils import epath

    from experiment import report
    from timesformer_jax.errors import InputError

    try:
        return repr(report._read_results(epath.Path(workdir)))
    except InputError as error:
        return f"InputError: {error}"


def _results_belong_together(world: World, workdir: Path) -> str:
    found = in_child(lambda: read_results(workdir))
    known = [_results_of(world.reference), _results_of(_other_evaluation(world))]
    return "" if found in known or found.startswith("InputError") else "the predictions are not those of the results"


@functools.cache
def _results_of(workdir: Path) -> str:
    return in_child(lambda: read_results(workdir))


def _newest_step(workdir: Path) -> int:
    """Return the step of the newest complete checkpoint; 0 if there is none."""
    steps = [path.name for path in (workdir / "checkpoints").glob("[0-9]*") if (path / "_CHECKPOINT_METADATA").exists()]
    return max((int(name) for name in steps if name.isdecimal()), default=0)


ONE_STEP = {"train.num_epochs": 1 / worlds.STEPS_PER_EPOCH}

JOBS = (
    Job("training", "train", r"Compiled the step|step \d+/", "", _nothing, worlds.describe_run),
    Job(
        *("preparation", "train", "Preparing the data set in", "training and .* validation videos"),
        *(_nothing, _describe_data),
        changed=ONE_STEP,
        prepares=True,
    ),
    Job("evaluation", "eval", "Data: ", "", _evaluated_otherwise, _describe_results, check=_results_belong_together),
    Job("feature extraction", "features", r"Features \(cls\) of", "", _trained, _describe_features),
)


@dataclasses.dataclass(frozen=True)
class Reference:
    """An undisturbed run of a job.

    Attributes:
        left: Description of what it wrote.
        seconds: Duration of the phase in which the job may be killed.
        changes: Number of changes to files.
    """

    left: Any
    seconds: float
    changes: int


def arguments_of(world: World, job: Job, workdir: Path) -> list[str]:
    return world.arguments(job.mode, workdir, workdir / "data" if job.prepares else None, **job.changed)


def undisturbed(world: World, job: Job, workdir: Path | None = None) -> Reference:
    """Run a job without a disturbance, once per workdir."""
    return _undisturbed(world, job.name, workdir or world.folder / "workdir")


@functools.cache
def _undisturbed(world: World, name: str, workdir: Path) -> Reference:
    job = next(each for each in JOBS if each.name == name)
    if workdir.exists():
        shutil.rmtree(workdir)
    job.begin(world, workdir)
    log = world.log(f"undisturbed-{job.mode}")
    process = start(arguments_of(world, job, workdir), log, watched=workdir, before=worlds.small_parts)
    process.wait_for(job.begins)
    began = time.monotonic()
    if job.ends:
        process.wait_for(job.ends)
    else:
        process.wait()
    seconds = time.monotonic() - began
    if process.wait() != 0:
        raise RuntimeError(f"An undisturbed run failed:\n{process.text[-3000:]}")
    process.workers_end()
    return Reference(in_child(functools.partial(job.describe, workdir)), seconds, process.changes)


def kill(world: World, *, count: int, seed: int, stop: Callable[[], bool], jobs: tuple[Job, ...] = JOBS) -> Iterator[Trial]:
    """Kill runs of the jobs.

    Args:
        world: Folders of the campaign.
        count: Approximate number of kills, divided equally among the jobs.
        seed: Seed of the moments.
        stop: Returns whether time is up.
        jobs: Jobs to kill.

    Yields:
        A trial per kill.
    """
    done = dict.fromkeys((job.name for job in jobs), 0)
    number = 0
    while min(done.values()) < -(-count // len(jobs)) and not stop():
        job = min(jobs, key=lambda each: done[each.name])
        tried = 0
        for trial in _series(world, job, undisturbed(world, job), [seed, number]):
            tried += 1
            yield trial
        done[job.name] += max(tried, 1)
        number += 1


def _series(world: World, job: Job, reference: Reference, seed: list[int]) -> Iterator[Trial]:
    """Kill one run repeatedly, then let it end; yield a trial per kill."""
    draw = np.random.default_rng(seed)
    workdir = world.folder / "workdir"
    if workdir.exists():
        shutil.rmtree(workdir)
    job.begin(world, workdir)
    killed: list[tuple[str, str]] = []
    faults: dict[int, tuple[str, str]] = {}

    def note(outcome: str, detail: str) -> None:
        faults.setdefault(max(len(killed) - 1, 0), (outcome, f"seed {seed}, {killed[-1] if killed else ''}: {detail}"))

    step = 0
    for _ in range(KILLS_PER_RUN):
        how = str(draw.choice(["SIGKILL", "change", "SIGTERM"]))
        process, moment = _disturb(world, job, reference, workdir, how, draw)
        if process.code == 0 and (how != "SIGTERM" or "Stopped early" not in process.text):
            break  # the run ended before the kill
        killed.append(("SIGTERM" if how == "SIGTERM" else "SIGKILL", moment))
        expected = ALLOWED_CODES if how == "SIGTERM" else (-signal.SIGKILL,)
        if process.code not in expected or TRACEBACK in process.text:
            note("traceback" if TRACEBACK in process.text else "failed", f"exit code {process.code}: {end_of(process)}")
        if not process.workers_end():
            note("left behind", "processes that it had started didn't end")
        if job.mode == "train" and (resumed := _resumed(process)) is not None and resumed < step:
            note("differs", f"resumed from step {resumed}, and step {step} was complete")
        step = _newest_step(workdir)
        if job.check is not None and (problem := job.check(world, workdir)):
            note("differs", problem)
    process = start(arguments_of(world, job, workdir), world.log("resumed"), before=worlds.small_parts)
    code = process.wait()
    if code != 0 or TRACEBACK in process.text:
        note("traceback" if TRACEBACK in process.text else "failed", f"resumed, exit code {code}: {end_of(process)}")
    else:
        try:
            differing = worlds.differences(in_child(functools.partial(job.describe, workdir)), reference.left)
        except RuntimeError as error:
            differing = [str(error).strip().rpartition("\n")[2]]
        if differing:
            note("differs", "; ".join(differing[:5]))
    if not process.workers_end():
        note("left behind", "processes of the resumed run didn't end")
    if left := worlds.files_below(world.temporary):
        note("left behind", f"temporary files: {', '.join(left[:5])}")
        for path in world.temporary.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    for i, (name, moment) in enumerate(killed):
        outcome, detail = faults.get(i, ("resumed", moment))
        yield Trial(SECTION, f"{name} in {job.name}", outcome, detail)
    if not killed and faults:
        yield Trial(SECTION, f"SIGKILL in {job.name}", *faults[0])


def _disturb(world: World, job: Job, reference: Reference, workdir: Path, how: str, draw: Any) -> tuple[Process, str]:
    """Start the job and kill it after a random time or before a random change to a file."""
    arguments, log = arguments_of(world, job, workdir), world.log("killed")
    if how == "change":
        at = int(draw.integers(1, reference.changes + 1))
        process = start(arguments, log, watched=workdir, kill_at_change=at, before=worlds.small_parts)
        process.wait()
        return process, f"before change {at}"
    after = float(draw.uniform(0, reference.seconds))
    if not job.prepares and draw.random() < FRESH:
        process = start(arguments, log, fresh=True)
    else:
        process = start(arguments, log, before=worlds.small_parts)
    if process.wait_for(job.begins):
        time.sleep(after)
    process.signal(signal.SIGKILL if how == "SIGKILL" else signal.SIGTERM)
    process.wait()
    return process, f"{after:.2f} s into it"


def _resumed(process: Process) -> int | None:
    found = re.search(r"from the checkpoint of step (\d+)", process.text)
    return int(found[1]) if found else None


def end_of(process: Process) -> str:
    lines = [line for line in process.text.splitlines() if line.strip()]
    return " / ".join(lines[-2:])[-300:]
