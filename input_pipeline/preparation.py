"""Resumable preparation of a large data set, encoded by many processes and written by one.

Each split is written as record files of about `PART_BYTES` bytes. A record file is complete once its note file exists. An
interrupted preparation keeps its complete record files, and the next one resumes after them. Several machines can each prepare
a share of every split.
"""

import contextlib
import dataclasses
import functools
import hashlib
import math
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath

from input_pipeline._tensorflow import tf
from input_pipeline.shares import Share
from timesformer_jax.datasets import Entry, Storage, map_in_processes
from timesformer_jax.datasets.fingerprints import facts_of_all
from timesformer_jax.datasets.parallel import CrashError
from timesformer_jax.datasets.storing import Facts, Labelled, Written, write_records
from timesformer_jax.datasets.tfrecords import FOOTER_BYTES, HEADER_BYTES
from timesformer_jax.errors import InputError
from timesformer_jax.os_errors import ReadError, sentence
from timesformer_jax.progress import Progress
from timesformer_jax.state_files import DamagedFileError, read_json, write_json
from timesformer_jax.video import UnreadableVideoError

PART_BYTES = 128 << 20
ENTRIES_BEFORE_A_FORECAST = 16  # and between forecasts of the disk space


COPY_BYTES = 1 << 18


class Part:
    """A record file and its note file, which lists the entries it covers, the places of its records and skipped videos.

    Args:
        folder: Folder of the record files.
        number: Number of the record file in it.

    Attributes:
        records: Path of the record file.
        end: Number of entries processed up to the end of this file, earlier files included.
        places: (begin, length) of each record in bytes.
        left_out: Maps the name of each skipped video to the reason.
        damaged: Maps the name of each damaged video to its number of damaged places.
        facts: Facts of the records while the file is written; afterwards `read_facts` reads them, which saves memory.
        has_facts: Whether the note holds the facts, which older versions did not write.
        num_bytes: Bytes of the records themselves.
    """

    def __init__(self, folder: epath.Path, number: int):
        self.records = folder / f"{number:05d}.tfrecord"
        self._note = folder / f"{number:05d}.json"
        self.end = 0
        self.places: list[tuple[int, int]] = []
        self.left_out: dict[str, str] = {}
        self.damaged: dict[str, int] = {}
        self.facts: list[Facts] = []
        self.has_facts = True
        self.num_bytes = 0

    def read(self) -> bool:
        """Load the note; returns True if the record file is complete."""
        if not (self._note.exists() and self.records.exists()):  # finished data sets move the record files out first
            return False
        try:
            note = read_json(self._note, remedy="it is made again")
        except DamagedFileError:  # truncated or empty after a disk failure
            return False
        if note.keys() not in ({*_NOTED}, {*_NOTED} - {"facts"}):
            return False
        self.has_facts = note.pop("facts", None) is not None
        vars(self).update(note)
        self.num_bytes = sum(length for _, length in self.places)
        return self.records.stat().length == self.file_bytes

    def finish(self) -> None:
        write_json(self._note, {name: getattr(self, name) for name in _NOTED}, indent=None)
        self.facts = []

    def read_facts(self) -> list[Facts]:
        """Read the facts of the records from the note."""
        return read_json(self._note, remedy="start the same command again", fields={"facts": list})["facts"]

    def add(self, written: Written) -> None:
        """Register the records of a video that have been appended to the file."""
        for length in written.lengths:
            self.places.append((self.file_bytes + HEADER_BYTES, length))
            self.num_bytes += length
        self.facts += written.facts

    @property
    def file_bytes(self) -> int:
        """Size of the record file, and so the offset of the next record."""
        return self.num_bytes + len(self.places) * (HEADER_BYTES + FOOTER_BYTES)


_NOTED = ("end", "places", "left_out", "damaged", "facts")


@dataclasses.dataclass
class _State:
    """Progress of the preparation of a share.

    Attributes:
        parts: Complete record files.
        done: Videos processed.
        num_bytes: Bytes of the records.
        unreadable: Videos skipped because they can't be read.
    """

    parts: list[Part] = dataclasses.field(default_factory=list)
    done: int = 0
    num_bytes: int = 0
    unreadable: int = 0

    def add(self, part: Part) -> None:
        self.parts.append(part)
        self.done = part.end
        self.num_bytes += part.num_bytes
        self.unreadable += len(part.left_out)


class Preparation:
    """Preparation of one split.

    Args:
        entries: Videos of the split, with the numbers of their labels.
        storage: Codec and size of the stored videos.
        folder: Folder for the record files.
        several: Whether a video may have any number of labels.
        title: Title of the progress report.
        written_as: Text that changes whenever the records would change for reasons not in `entries` and `storage`, such as
            the order of the classes.
        num_workers: Number of encoding processes; 0 for one per core.
    """

    def __init__(
        self,
        entries: Sequence[Labelled],
        storage: Storage,
        folder: epath.Path,
        *,
        several: bool,
        title: str,
        written_as: str,
        num_workers: int = 0,
    ):
        self._storage, self._several, self._title, self._num_workers = storage, several, title, num_workers
        self._mixed = sorted(entries, key=lambda video: hashlib.sha256(os.fsencode(video.entry.name)).digest())
        # The folder's name is a digest of these files as they are now, the storage and the classes, so that record files of
        # an interrupted preparation are reused only if all of these are unchanged.
        facts = [ascii((storage, written_as)), *facts_of_all([video.entry for video in self._mixed])]
        self._folder = folder / hashlib.sha256("\n".join(facts).encode()).hexdigest()[:16]

    def write_all(self) -> list[Part]:
        """Write the split's record files and return them in order.

        Existing record files are reused. If they come from preparations with different numbers of shares, the preparation that
        has processed the most videos is resumed.
        """
        counts = [1, *(int(path.name.partition("_")[0]) for path in self._folder.glob("*_shares"))]
        ways = [[Share(number, count) for number in range(1, count + 1)] for count in sorted(counts)]
        shares = ways[0]
        if len(ways) > 1:
            shares = max(ways, key=lambda shares: sum(self._found(share).done for share in shares))
        return [part for share in shares for part in self.write(share)]

    def write(self, share: Share) -> list[Part]:
        """Write the record files of a share, with the videos in mixed order, resuming after those that exist.

        Unreadable videos are listed in `left_out` of their record file, damaged ones in `damaged`.

        Raises:
            InputError: If the disk is too small or full, or if reading fails for reasons that have nothing to do with the file.
        """
        mine, folder = self._mixed[share.of(len(self._mixed))], share.folder(self._folder)
        folder.mkdir(parents=True, exist_ok=True)
        state = self._found(share)
        title = self._title if share.is_all else f"{self._title} {share}"
        unreadable = 0

        def remark() -> str:
            return f"{state.unreadable + unreadable} unreadable so far"

        try:
            with Progress(len(mine), title, initial=state.done, remark=remark) as progress, _passing(folder) as passing:
                rest = _prepared(
                    mine[state.done :],
                    storage=self._storage,
                    several=self._several,
                    folder=passing,
                    num_workers=self._num_workers,
                )
                while state.done < len(mine):
                    part = Part(folder, len(state.parts))
                    part.end = state.done
                    with part.records.open("wb") as file:
                        for entry, written in rest:
                            self._take(part, file, entry, written)
                            unreadable = len(part.left_out)
                            progress.update()
                            if part.end % ENTRIES_BEFORE_A_FORECAST == 0:
                                each = (state.num_bytes + part.num_bytes) / part.end
                                self._check_space(folder, each, len(mine) - part.end, share)
                            if part.file_bytes >= PART_BYTES:
                                break
                    part.finish()
                    unreadable = 0
                    state.add(part)
        except ReadError as error:
            raise InputError(
                f"{error} The preparation stopped with {state.done} of {len(mine)} videos done; the same command resumes it."
            ) from error
        except (OSError, tf.errors.OpError) as error:
            doing = f"Writing to {folder} failed with {state.done} of {len(mine)} videos done"
            raise InputError(f"{sentence(error, doing)} Finished parts are kept.") from error
        return state.parts

    def _check_space(self, folder: epath.Path, each: float, left: int, share: Share) -> None:
        """Raise `InputError` if the disk is forecast to be too small for the whole split, other machines' shares included.

        Args:
            folder: Folder on the disk.
            each: Bytes of a video.
            left: Videos that this share still has to process.
            share: This machine's share.
        """
        free = math.inf if "://" in os.fspath(folder) else shutil.disk_usage(Path(os.fspath(folder))).free
        elsewhere = len(self._mixed) - len(self._mixed[share.of(len(self._mixed))])
        if free < each * (left + elsewhere):  # only then is it worth reading how far the others are
            left += self._left_elsewhere(share)
            if free < each * left:
                raise InputError(
                    f"The {left} videos that are left need about {each * left / 1e9:.1f} GB more, and the disk of {folder} "
                    f"has {free / 1e9:.1f} GB left: make room, or choose another folder, h264 storage or a smaller short side."
                )

    def _left_elsewhere(self, share: Share) -> int:
        """Count the videos that the other shares still have to process; all of a share whose notes can't be read."""
        left = 0
        for other in (Share(number, share.count) for number in range(1, share.count + 1) if number != share.number):
            left += len(self._mixed[other.of(len(self._mixed))])
            with contextlib.suppress(OSError, InputError):
                left -= self._found(other).done
        return left

    def _found(self, share: Share) -> _State:
        """Find the complete record files of a share."""
        folder, state = share.folder(self._folder), _State()
        while (part := Part(folder, len(state.parts))).read():
            state.add(part)
        return state

    @staticmethod
    def _take(part: Part, file: Any, entry: Entry, written: Written | InputError) -> None:
        """Append the records that a process has written for a video to a record file."""
        part.end += 1
        if isinstance(written, InputError):
            _check_costs_one_video(entry, written)
            part.left_out[entry.name] = getattr(written, "reason", str(written))
            return
        with open(written.path, "rb", buffering=0) as source:
            shutil.copyfileobj(source, file, COPY_BYTES)
        os.unlink(written.path)
        if written.num_damaged:
            part.damaged[entry.name] = written.num_damaged
        part.add(written)


def _prepared(
    videos: Sequence[Labelled], *, storage: Storage, several: bool, folder: str, num_workers: int
) -> Iterator[tuple[Entry, Any]]:
    write = functools.partial(write_records, storage=storage, several=several, folder=folder)
    for video, written in map_in_processes(write, videos, num_workers=num_workers):
        yield video.entry, written


@contextlib.contextmanager
def _passing(folder: epath.Path) -> Iterator[str]:
    """Create a folder for the files in which worker processes hand over their records.

    It is on the disk of the data, which needs room for them anyway, or a temporary folder if the data are in a bucket.
    """
    if "://" in os.fspath(folder):
        with tempfile.TemporaryDirectory() as temporary:
            yield temporary
        return
    path = Path(os.fspath(folder)) / "passing"
    shutil.rmtree(path, ignore_errors=True)  # left by a killed preparation
    path.mkdir()
    try:
        yield os.fspath(path)
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _check_costs_one_video(entry: Entry, error: InputError) -> None:
    """Raise `error` unless it affects only this video, which can then be skipped."""
    if not isinstance(error, UnreadableVideoError | CrashError):
        raise error
    if not Path(entry.path).parent.exists():
        raise InputError(f"The folder {Path(entry.path).parent} is gone: is its disk, or the network's, still mounted?")


def places_of(parts: Iterable[Part]) -> list[np.ndarray]:
    """Return the places of the records in each record file, in the form that `save_index` takes."""
    return [np.array(part.places, np.int64).reshape(-1, 2) for part in parts]
