"""Damage one file at a time, and judge how its reader responds."""

import contextlib
import dataclasses
import logging
import os
import pickle
import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.faults.running import _end, _fork, end_with_parent
from benchmarks.faults.table import Trial
from timesformer_jax.errors import InputError

SECONDS = 60
"""Time limit for reading a damaged file."""


@dataclasses.dataclass(frozen=True)
class Damage:
    """Damage to one file.

    Attributes:
        path: Path below the copied folder.
        how: "flipped", "cut", "zeroed" or "missing".
        offset: Position, in bits for a flip and otherwise in bytes.
    """

    path: str
    how: str
    offset: int = 0

    def apply(self, folder: Path) -> None:
        file = folder / self.path
        if self.how == "missing":
            file.unlink()
            return
        content = bytearray(file.read_bytes())
        if self.how == "flipped":
            content[self.offset // 8] ^= 1 << self.offset % 8
        elif self.how == "cut":
            del content[self.offset :]
        elif self.how == "zeroed":  # as after a power cut
            content[self.offset : self.offset + 4096] = bytes(len(content[self.offset : self.offset + 4096]))
        file.write_bytes(content)

    def __str__(self) -> str:
        where = f"byte {self.offset // 8}, bit {self.offset % 8}" if self.how == "flipped" else f"byte {self.offset}"
        return f"{self.path} {self.how}" + ("" if self.how == "missing" else f" at {where}")


FLIPS, OTHERS = "Bit flips", "Other damage"
ROWS = {"flipped": "", "cut": "truncated file", "zeroed": "zeroed block", "missing": "missing file"}
"""Maps each type of damage to its row in the table; flips have a row per kind of file."""


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of file that the project writes, with its readers.

    Attributes:
        name: Name in the table.
        folder: Folder that is copied for each trial, relative to the world's folder.
        files: Glob patterns below `folder`.
        readers: Functions from the copied folder to a comparable value, used in turn.
        without: Changes the copied folder to a state that a reader may fall back to with a warning; None if there is none.
        partial: Given a value and the true one, returns whether the former is a valid part, which may be read with a warning.
        silently: Types of damage (keys of `ROWS`) after which a part may be read silently, since the rest is recomputed.
        optional: Whether a missing file is a valid state, so that deletion is not tried.
        editable: Whether users edit such files, so that a changed one may be read with a warning.
    """

    name: str
    folder: str
    files: Sequence[str]
    readers: Sequence[Callable[[Path], Any]]
    without: Callable[[Path], None] | None = None
    partial: Callable[[Any, Any], bool] | None = None
    silently: Sequence[str] = ()
    optional: bool = False
    editable: bool = False

    def find(self, folder: Path) -> list[str]:
        """Return the non-empty files of this kind, relative to the copied folder."""
        found = {path for pattern in self.files for path in folder.glob(pattern) if path.is_file() and path.stat().st_size}
        return sorted(str(path.relative_to(folder)) for path in found)


def draw_damages(kind: Kind, folder: Path, draw: np.random.Generator, *, flips: int, others: int) -> list[Damage]:
    """Draw damage to files of one kind.

    Args:
        kind: Kind of the files.
        folder: Folder with the files.
        draw: Random generator.
        flips: Number of flipped bits. Half of the files are drawn in proportion to their size, the others uniformly.
        others: Number of trials of each other type of damage.

    Returns:
        The damage to try, one file each.
    """
    names = kind.find(folder)
    sizes = np.array([(folder / name).stat().st_size for name in names])

    def pick(by_size: bool) -> int:
        return int(draw.choice(len(names), p=sizes / sizes.sum() if by_size else None))

    damages = []
    for number in range(flips):
        i = pick(number % 2 == 0)
        damages.append(Damage(names[i], "flipped", int(draw.integers(8 * sizes[i]))))
    for how in ("cut", "zeroed"):
        for number in range(others):
            i = pick(number % 2 == 0)
            damages.append(Damage(names[i], how, 0 if how == "cut" and number == 0 else int(draw.integers(sizes[i]))))
    if not kind.optional:
        damages += [Damage(names[pick(False)], "missing") for _ in range(others)]
    return damages


class _Warnings(logging.Handler):
    """Handler that collects the text of warnings."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def judge(
    read: Callable[[], Any],
    *,
    truth: Any,
    names: Sequence[str],
    older: Sequence[Any] = (),
    partial: Callable[[Any, Any], bool] | None = None,
    silently: bool = False,
    editable: bool = False,
) -> tuple[str, str]:
    """Read a damaged file; return the outcome and its message.

    Args:
        read: Reads the file.
        truth: Value of the undamaged file.
        names: Names of the file, of which an error or a warning must contain one.
        older: Values that may be read with a warning.
        partial: See `Kind`.
        silently: Whether a part may be read without a warning.
        editable: See `Kind`.

    Returns:
        A key of `table.VERDICTS`, and the text of the error, the warning or the difference.
    """
    heard = _Warnings()
    logger = logging.getLogger()
    logger.addHandler(heard)
    signal.signal(signal.SIGALRM, _ring)
    signal.alarm(SECONDS)
    try:
        value = read()
    except InputError as error:
        text = str(error)
        said = "\n".join([text, *heard.lines])
        return ("refused" if any(name in said for name in names) else "unnamed"), text
    except TimeoutError:
        return "hung", f"{SECONDS} s"
    except Exception as error:
        return "traceback", f"{type(error).__name__}: {str(error)[:300]}"
    finally:
        signal.alarm(0)
        logger.removeHandler(heard)
    if value == truth:
        return "unharmed", ""
    warned = next((line for line in heard.lines if any(name in line for name in names)), None)
    is_part = partial is not None and partial(value, truth)
    if warned is not None and (editable or is_part or any(value == each for each in older)):
        return "fallback", warned
    if is_part and silently:
        return "redone", ""
    from benchmarks.faults.world import differences

    return "differs", "; ".join(differences(value, truth)[:2]) + (f" (warned: {warned})" if warned else "")


def _ring(number: int, frame: Any) -> None:
    raise TimeoutError


def names_of(damage: Damage, folder: Path) -> list[str]:
    """Return what may identify the damaged file in a message: its name, its path, or a parent up to the copied folder."""
    path = folder / damage.path
    inside = [path, *path.parents]
    return [path.name, *(str(each) for each in inside[: inside.index(folder) + 1])]


def damage_kinds(
    kinds: Sequence[Kind], world: Path, seed: int, *, flips: int, others: int, stop: Callable[[], bool]
) -> Iterator[Trial]:
    """Damage files of each kind, one at a time, and judge their readers.

    Args:
        kinds: Kinds of files; those without a file are skipped.
        world: Folder of the campaign.
        seed: Seed of the damage.
        flips: Number of flipped bits per kind.
        others: Number of trials of each other type of damage per kind.
        stop: Returns whether time is up.

    Yields:
        A trial per damaged file. Files are read in a separate process per folder, which is replaced if it crashes.
    """
    for folder in dict.fromkeys(kind.folder for kind in kinds):
        tasks = [
            (kind, damage, number)
            for i, kind in enumerate(kinds)
            if kind.folder == folder and kind.find(world / folder)
            for number, damage in enumerate(
                draw_damages(kind, world / folder, np.random.default_rng([seed, i]), flips=flips, others=others)
            )
        ]
        done = 0
        while done < len(tasks) and not stop():
            for outcome, message in _results(world, tasks[done:], stop):
                yield _trial(*tasks[done][:2], outcome, message, seed)
                done += 1
            if done < len(tasks) and not stop():
                yield _trial(*tasks[done][:2], "crashed", "the process died", seed)
                done += 1


Task = tuple[Kind, Damage, int]
"""The kind of file, the damage, and its number within the kind, which selects the reader."""


def _trial(kind: Kind, damage: Damage, outcome: str, message: str, seed: int) -> Trial:
    row = (OTHERS, ROWS[damage.how]) if ROWS[damage.how] else (FLIPS, kind.name)
    return Trial(*row, outcome, f"seed {seed}, {kind.name}, {kind.folder}/{damage}: {message}"[:600])


def _results(world: Path, tasks: Sequence[Task], stop: Callable[[], bool]) -> Iterator[tuple[str, str]]:
    """Yield (outcome, message) of each task, computed in a fork; stop early if it dies."""
    readable, writable = os.pipe()
    pid = _fork()
    if not pid:
        os.close(readable)
        os.setsid()
        end_with_parent()
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)

        def work() -> None:
            with open(writable, "wb") as file:
                for result in judge_all(world, tasks):
                    pickle.dump(result, file)
                    file.flush()

        _end(work)
    os.close(writable)
    with open(readable, "rb") as file, contextlib.suppress(EOFError, pickle.UnpicklingError):
        while not stop():
            result = pickle.load(file)
            if isinstance(result, RuntimeError):
                raise result
            yield result
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def judge_all(world: Path, tasks: Sequence[Task]) -> Iterator[Any]:
    """Yield (outcome, message) of each task, or a `RuntimeError` if undamaged files can't be read."""
    known: dict[Any, tuple[Any, list[Any]]] = {}
    for kind, damage, number in tasks:
        source, scratch = world / kind.folder, world / "damaged" / kind.folder
        reader = kind.readers[number % len(kind.readers)]
        try:
            if (reader, kind.without) not in known:
                known[reader, kind.without] = _undamaged(source, scratch, reader, kind.without)
        except Exception as error:
            yield RuntimeError(f"{kind.name}: undamaged files can't be read: {type(error).__name__}: {error}")
            return
        truth, older = known[reader, kind.without]
        _copy(source, scratch)
        damage.apply(scratch)
        yield judge(
            lambda reader=reader, scratch=scratch: reader(scratch),
            truth=truth,
            names=names_of(damage, scratch),
            older=older,
            partial=kind.partial,
            silently=damage.how in kind.silently,
            editable=kind.editable,
        )


def _undamaged(
    source: Path, scratch: Path, reader: Callable[[Path], Any], without: Callable[[Path], None] | None
) -> tuple[Any, list[Any]]:
    """Return the value that a reader gives, and those that it may fall back to, if any."""
    truth = _fresh(source, scratch, reader)
    if _fresh(source, scratch, reader) != truth:
        raise ValueError("two readings differ")
    if without is None:
        return truth, []
    try:
        return truth, [_fresh(source, scratch, reader, without)]
    except InputError:
        return truth, []


def _fresh(source: Path, scratch: Path, reader: Callable[[Path], Any], change: Callable[[Path], None] | None = None) -> Any:
    _copy(source, scratch)
    if change is not None:
        change(scratch)
    return reader(scratch)


def _copy(source: Path, scratch: Path) -> None:
    if scratch.exists():
        shutil.rmtree(scratch)
    shutil.copytree(source, scratch)


if sys.platform != "linux":
    raise ImportError("The campaign needs Linux.")
