"""The record of what a data set was prepared from, next to the prepared data, and comparing a folder with it.

`source.json` has the root, the date, the number of videos and two digests: one of all paths, sizes and labels, one of all
times. `source_files.gz` has a line per video, read only if the digests differ.
"""

import dataclasses
import datetime
import gzip
import hashlib
import json
import logging
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from etils import epath

from timesformer_jax.atomic_write import write_whole
from timesformer_jax.datasets import Entry, Listing
from timesformer_jax.datasets.fingerprints import measure_all
from timesformer_jax.errors import InputError, first_line
from timesformer_jax.printable import printable
from timesformer_jax.state_files import describe_os_error, parse_json, reading, refuse

log = logging.getLogger("timesformer_jax")

FILE, VIDEOS = "source.json", "source_files.gz"
EXAMPLES = 3


@dataclasses.dataclass(frozen=True)
class Contents:
    """The videos of a folder as they are now.

    Attributes:
        root: the folder that their paths are relative to.
        label_names: in the order of the classes.
        videos: a line per video, sorted: JSON of split, name, path, size, labels and piece.
        times: when each was last modified, in the same order.
    """

    root: str
    label_names: tuple[str, ...]
    videos: list[str]
    times: list[str]

    @property
    def digest(self) -> str:
        """Of paths, sizes and labels: the same for the same videos below any root, whenever they were written."""
        return _digest([json.dumps(self.label_names), *self.videos])

    @property
    def digest_of_times(self) -> str:
        return _digest(self.times)


@dataclasses.dataclass(frozen=True)
class Source:
    """What a prepared data set records of where it came from."""

    root: str
    made: str
    num_videos: int
    label_names: list[str]
    digest: str
    digest_of_times: str

    def __str__(self) -> str:
        return f"{self.num_videos} videos of {printable(self.root)}, prepared on {self.made}"


def read_contents(listing: Listing, root: Path) -> Contents:
    """A look at the size and time of every file of a listing; their contents aren't read."""
    entries = [(split, entry) for split, entries in listing.splits.items() for entry in entries]
    measured = measure_all([entry.path for _, entry in entries])
    prefix = os.path.join(os.fspath(root), "")
    lines = [
        (json.dumps([split, entry.name, _below(entry, prefix), size, entry.labels, *_piece(entry)]), str(time))
        for (split, entry), (size, time) in zip(entries, measured, strict=True)
    ]
    lines.sort()
    return Contents(os.fspath(root), tuple(listing.label_names), [line for line, _ in lines], [time for _, time in lines])


def _below(entry: Entry, prefix: str) -> str:
    path = os.fspath(entry.path)
    return path.removeprefix(prefix).replace(os.sep, "/") if path.startswith(prefix) else path


def _piece(entry: Entry) -> tuple[Any, ...]:
    return entry.start, entry.end, entry.fps, entry.perhaps_cut


def _digest(lines: Sequence[str]) -> str:
    found = hashlib.sha256()
    for line in lines:
        found.update(line.encode() + b"\n")
    return found.hexdigest()


def write_source(folder: epath.Path, contents: Contents) -> None:
    """Writes the record of what is being prepared into the folder of the prepared data."""
    lines = "".join(f"{line}\t{time}\n" for line, time in zip(contents.videos, contents.times, strict=True))
    (folder / VIDEOS).write_bytes(gzip.compress(lines.encode(), compresslevel=5, mtime=0))
    source = Source(
        root=contents.root,
        made=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        num_videos=len(contents.videos),
        label_names=list(contents.label_names),
        digest=contents.digest,
        digest_of_times=contents.digest_of_times,
    )
    write_whole(folder / FILE, json.dumps(dataclasses.asdict(source), indent=2) + "\n")


def read_source(folder: epath.Path) -> Source | None:
    """The record of a prepared data set; None if an older version prepared it, which kept none.

    Its digest is in `digests.json`, and compared when the data are opened; its own field `digest` is that of the videos.

    Raises `InputError` for a damaged record.
    """
    path = folder / FILE
    if not path.exists():
        return None
    fields = {field.name: _TYPES[str(field.type)] for field in dataclasses.fields(Source)}
    with reading(path):
        content = path.read_bytes()
    found = parse_json(content, path, remedy=f"delete {folder} to prepare the data anew", fields=fields, digest=False)
    return Source(**{name: found[name] for name in fields})


_TYPES = {"str": str, "int": int, "list[str]": list, str(str): str, str(int): int, str(list[str]): list}


def check_source(folder: epath.Path, root: Path | None, read: Callable[[], Contents]) -> None:
    """Compare what is in `root` now, as `read` gives it, with what the data in `folder` were prepared from.

    Logs the recorded source; without a root nothing is compared. Files that were modified at the same size are a warning.

    Raises `InputError` if there is no such root, or if its paths, sizes or labels differ.
    """
    source = read_source(folder)
    leave = f"leave data.root away to use what is prepared in {folder}" + (f" ({source})" if source else "")
    if root is not None and not root.is_dir():
        raise InputError(f"There is no folder {root}: give the folder of your videos as --config.data.root=FOLDER, or {leave}.")
    if source is None:
        log.warning(
            "%s was prepared by an older version, which kept no record of its source%s. Delete that folder to prepare it anew.",
            folder,
            "" if root is None else f": whether {root} still holds the same videos can't be checked",
        )
        return
    if root is None:
        log.info("Data: %s, with %s.", folder, source)
        return
    try:
        contents = read()
    except InputError as error:
        raise InputError(f"data.root={root} can't be compared with what was prepared: {error} Or {leave}.") from error
    if contents.digest != source.digest:
        raise InputError(
            f"data.root={root} isn't what was prepared in {folder} ({source}). Videos that differ: "
            f"{'; '.join(_differences(folder, source, contents))}. To use the videos as they are now, delete {folder} or "
            "choose another --config.data.data_dir. To use what is prepared, give its own root, or leave data.root away."
        )
    log.info("Data: %s, with %s; data.root has the same paths, sizes and labels.", folder, source)
    if root == Path(source.root) and contents.digest_of_times != source.digest_of_times:
        _warn_of_times(folder, source, contents)


def _warn_of_times(folder: epath.Path, source: Source, contents: Contents) -> None:
    prepared = dict(_recorded(folder))
    changed = [line for line, time in zip(contents.videos, contents.times, strict=True) if prepared.get(line) != time]
    log.warning(
        "%d of %d files of %s were modified since they were prepared on %s, at the same size (%s): they are taken for the "
        "same. If their content has changed, delete %s.",
        len(changed),
        len(contents.videos),
        source.root,
        source.made,
        _examples([json.loads(line)[2] for line in changed]),
        folder,
    )


def _recorded(folder: epath.Path) -> Iterator[tuple[str, str]]:
    """The line of each video that was prepared, and its time."""
    path = folder / VIDEOS
    try:
        lines = gzip.decompress(path.read_bytes()).decode().splitlines()
    except (EOFError, ValueError, gzip.BadGzipFile, zlib.error) as error:
        refuse(path, first_line(error), f"delete {folder} to prepare the data anew", error)
    except OSError as error:
        raise InputError(f"Can't read {path}: {describe_os_error(error)}.") from error
    source = read_source(folder)
    if source is not None and len(lines) != source.num_videos:  # an empty file is a valid archive
        refuse(path, f"{len(lines)} of {source.num_videos} videos are in it", f"delete {folder} to prepare the data anew")
    for line in lines:
        video, _, time = line.rpartition("\t")
        yield video, time


PLACES = {"another path": 2, "another size": 3, "other labels": 4, "another start, end or rate": slice(5, None)}
"""What may differ between two lines of one video -> where it is in the line."""


def _differences(folder: epath.Path, source: Source, contents: Contents) -> list[str]:
    """Each kind of difference with its number and a few examples."""
    now, then = set(contents.videos), {line for line, _ in _recorded(folder)}
    new, gone = (_by_name(lines) for lines in (now - then, then - now))
    examples = {
        "new": [new[key][1] for key in sorted(new.keys() - gone.keys())],
        "missing": [gone[key][1] for key in sorted(gone.keys() - new.keys())],
    }
    for what, place in PLACES.items():
        examples[f"with {what}"] = [
            f"{new[key][1]}: {_shown(new[key][place])}, prepared as {_shown(gone[key][place])}"
            for key in sorted(new.keys() & gone.keys())
            if new[key][place] != gone[key][place]
        ]
    found = [f"{len(names)} {what} ({_examples(names)})" for what, names in examples.items() if names]
    return found or ["the classes, or their order"]


def _by_name(lines: set[str]) -> dict[tuple[str, str], list[Any]]:
    videos = map(json.loads, lines)
    return {(video[0], video[1]): video for video in videos}


def _examples(names: Sequence[str]) -> str:
    return ", ".join(names[:EXAMPLES]) + (", ..." if len(names) > EXAMPLES else "")


def _shown(value: Any) -> str:
    if isinstance(value, int):
        return f"{value:,} bytes"
    return " + ".join(map(str, value)) if isinstance(value, list) else str(value)
