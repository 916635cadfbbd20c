"""Writing a large data set: read by many processes, written by one, and going on where it was interrupted.

Each split is written in parts of about `PART_BYTES`; a part counts once its own note stands beside it. An interrupted
preparation leaves its whole parts, and the next one begins behind them.
"""

import contextlib
import functools
import hashlib
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath
from tqdm import tqdm

from input_pipeline._tensorflow import tf
from input_pipeline.fingerprints import facts_of
from input_pipeline.records import FOOTER_BYTES, HEADER_BYTES
from timesformer_jax.datasets import Entry, Storage, StoredVideo, map_in_processes, store_video
from timesformer_jax.datasets.parallel import CrashError
from timesformer_jax.errors import InputError
from timesformer_jax.os_errors import ReadError, sentence
from timesformer_jax.run_lock import locked
from timesformer_jax.state_files import DamagedFileError, read_json, write_json
from timesformer_jax.video import UnreadableVideoError

PART_BYTES = 128 << 20
ENTRIES_BEFORE_A_FORECAST = 16  # and between one and the next


def alone(data_path: Any) -> contextlib.AbstractContextManager[None]:
    """Raises `InputError` if another process prepares the data of this folder, since their parts would get mixed up."""
    folder = epath.Path(data_path)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder} can't be made: {error.strerror}.") from error
    return locked(folder.parent / f".{folder.name}.lock", f"is preparing {folder}")


class Part:
    """A file of records and, beside it, its note: which entries it holds, where its records are, who was left out."""

    def __init__(self, folder: epath.Path, number: int):
        self.records = folder / f"{number:05d}.tfrecord"
        self._note = folder / f"{number:05d}.json"
        self.end = 0
        self.places: list[tuple[int, int]] = []
        self.left_out: dict[str, str] = {}
        self.damaged: dict[str, int] = {}

    def read(self) -> bool:
        """Whether the part is whole; takes over what its note says."""
        if not (self._note.exists() and self.records.exists()):  # the records leave first, when everything is whole
            return False
        try:
            note = read_json(self._note, remedy="it is made again")
        except DamagedFileError:  # cut, or empty: the disk lost something
            return False
        if note.keys() != set(_NOTED):
            return False
        vars(self).update(note)
        return self.records.stat().length == self.file_bytes

    def finish(self) -> None:
        write_json(self._note, {name: getattr(self, name) for name in _NOTED}, indent=None)

    @property
    def num_bytes(self) -> int:
        """Bytes of the records themselves."""
        return sum(length for _, length in self.places)

    @property
    def file_bytes(self) -> int:
        """Where the next record would begin."""
        return self.num_bytes + len(self.places) * (HEADER_BYTES + FOOTER_BYTES)


_NOTED = ("end", "places", "left_out", "damaged")


def write_parts(
    entries: Sequence[Entry],
    storage: Storage,
    serialize: Callable[[Entry, int, StoredVideo], bytes],
    folder: epath.Path,
    *,
    title: str,
    written_as: str,
    num_workers: int = 0,
) -> list[Part]:
    """Prepares all entries of a split into `folder`, in an order that mixes them; goes on behind the parts that are there.

    `serialize` makes a record out of an entry, the number of its piece and the piece; `written_as` is text that changes
    whenever its records would, such as with the order of the classes. Files that can't be read are named in their part's
    `left_out`, files with damaged places in `damaged`.

    Raises `InputError` where the disk is too small, or full, and where reading fails for reasons that aren't the file's.
    """
    # The folder belongs to these files, as they are now, in this storage: what an interrupted preparation has made of others,
    # or of the same ones with other classes, is none of ours.
    mixed = sorted(entries, key=lambda entry: hashlib.sha256(os.fsencode(entry.name)).digest())
    facts = [ascii((storage, written_as)), *map(facts_of, mixed)]
    folder = folder / hashlib.sha256("\n".join(facts).encode()).hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    parts: list[Part] = []
    while (part := Part(folder, len(parts))).read():
        parts.append(part)
    done = parts[-1].end if parts else 0
    rest = _prepared(mixed[done:], storage=storage, num_workers=num_workers)
    with tqdm(
        total=len(mixed), initial=done, desc=title, unit="video", dynamic_ncols=True, disable=not sys.stderr.isatty()
    ) as bar:
        try:
            while done < len(mixed):
                part = Part(folder, len(parts))
                part.end = done
                _write_part(part, rest, serialize, functools.partial(_check_space, folder, parts, len(mixed)), bar)
                done = part.end
                parts.append(part)
        except ReadError as error:
            raise InputError(
                f"{error} The preparation stopped with {done} of {len(mixed)} videos done; the same command resumes it."
            ) from error
        except (OSError, tf.errors.OpError) as error:
            doing = f"Writing to {folder} failed with {done} of {len(mixed)} videos done"
            raise InputError(f"{sentence(error, doing)} Finished parts are kept.") from error
    return parts


def _prepared(entries: Sequence[Entry], *, storage: Storage, num_workers: int) -> Iterator[tuple[Entry, Any]]:
    return map_in_processes(functools.partial(store_video, storage=storage), entries, num_workers=num_workers)


def _write_part(
    part: Part,
    prepared: Iterator[tuple[Entry, Any]],
    serialize: Callable[[Entry, int, StoredVideo], bytes],
    check_space: Callable[[Part], None],
    bar: Any,
) -> None:
    """Writes entries until the part is large enough, or none is left."""
    place = 0
    with tf.io.TFRecordWriter(os.fspath(part.records)) as writer:
        for entry, pieces in prepared:
            part.end += 1
            bar.update()
            if isinstance(pieces, InputError):
                _check_costs_one_video(entry, pieces)
                part.left_out[entry.name] = getattr(pieces, "reason", str(pieces))
                continue
            if pieces[0].num_damaged:
                part.damaged[entry.name] = pieces[0].num_damaged
            for number, piece in enumerate(pieces):
                record = serialize(entry, number, piece)
                writer.write(record)
                part.places.append((place + HEADER_BYTES, len(record)))
                place += HEADER_BYTES + len(record) + FOOTER_BYTES
            if part.end % ENTRIES_BEFORE_A_FORECAST == 0:
                check_space(part)
            if place >= PART_BYTES:
                break
    part.finish()


def _check_costs_one_video(entry: Entry, error: InputError) -> None:
    """Raise an error that isn't about one video alone, which could be left out."""
    if not isinstance(error, UnreadableVideoError | CrashError):
        raise error
    if not Path(entry.path).parent.exists():
        raise InputError(f"The folder {Path(entry.path).parent} is gone: is its disk, or the network's, still mounted?")


def _check_space(folder: epath.Path, finished: Sequence[Part], num_entries: int, part: Part) -> None:
    """Raises `InputError` once it can be foreseen that the disk won't hold all of it."""
    if "://" in os.fspath(folder):
        return
    written = part.num_bytes + sum(other.num_bytes for other in finished)
    needed = written / part.end * (num_entries - part.end)
    free = shutil.disk_usage(Path(os.fspath(folder))).free
    if free < needed:
        raise InputError(
            f"{num_entries - part.end} of {num_entries} videos need about {needed / 1e9:.1f} GB more, and the disk of {folder} "
            f"has {free / 1e9:.1f} GB left: make room, or choose another folder, h264 storage or a smaller short side."
        )


def places_of(parts: Iterable[Part]) -> list[np.ndarray]:
    """Where the records of each part are, as `Records` wants it."""
    return [np.array(part.places, np.int64).reshape(-1, 2) for part in parts]
