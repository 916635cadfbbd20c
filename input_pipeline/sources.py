"""Record of the source that a data set was prepared from, kept with the prepared data, and comparison of a folder with it.

`source.json` holds the root, the date, the label names, the number of videos and two digests: one of all paths, sizes and
labels, one of all modification times. `source_files.gz` has a line per video, read only if the digests differ.
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
    """Current videos of a folder.

    Attributes:
        root: Folder that the paths are relative to.
        label_names: Names of the labels in the order of the classes.
        videos: A line per video, sorted: JSON of split, name, path, size, labels, start, end, rate and whether it may be cut.
        times: Modification time of each video, in the same order.
    """

    root: str
    label_names: tuple[str, ...]
    videos: list[str]
    times: list[str]

    @property
    def digest(self) -> str:
        """Digest of paths, sizes and labels, independent of the root and of modification times."""
        return _digest([json.dumps(self.label_names), *self.videos])

    @property
    def digest_of_times(self) -> str:
        return _digest(self.times)


@dataclasses.dataclass(frozen=True)
class Source:
    """Record of the source that a data set was prepared from.

    Attributes:
        root: Folder of the videos.
        made: Date and time of the preparation, UTC.
        num_videos: Number of videos.
        label_names: Names of the labels in the order of the classes.
        digest: `Contents.digest` of the videos.
        digest_of_times: `Contents.digest_of_times` of the videos.
    """

    root: str
    made: str
    num_videos: int
    label_names: list[str]
    digest: str
    digest_of_times: str

    def __str__(self) -> str:
        return f"{self.num_videos} videos of {printable(self.root)}, prepared on {self.made}"


def read_contents(listing: Listing, root: Path) -> Contents:
    """Read the size and modification time of every file in a listing, without reading the files themselves."""
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
    """Write the record of the source into the folder of the prepared data."""
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
    """Read the record of a data set's source; returns None if an older version prepared the data and kept none.

    The file's own digest is in `digests.json` and verified when the data are opened; the field `digest` is that of the videos.

    Raises:
        InputError: If the record is damaged.
    """
    path = folder / FILE
    if not path.exists():
        return None
    fields = {field.name: _TYPES[str(field.type)] for field in dataclasses.fields(Source)}
    with reading(path):
        content = path.read_bytes()
    found = parse_json(content, path, remedy=f"delete {folder} to prepare the data again", fields=fields, digest=False)
    return Source(**{name: found[name] for name in fields})


_TYPES = {"str": str, "int": int, "list[str]": list, str(str): str, str(int): int, str(list[str]): list}


def check_source(folder: epath.Path, root: Path | None, read: Callable[[], Contents]) -> None:
    """Check that prepared data match the current contents of their source, and log the source.

    Files that were modified without a change of size are only a warning.

    Args:
        folder: Folder of the prepared data.
        root: Folder of the videos; None skips the comparison.
        read: Returns the current contents of `root`.

    Raises:
        InputError: If `root` doesn't exist, or if its paths, sizes or labels differ from those recorded.
    """
    source = read_source(folder)
    leave = f"omit data.root to use what is prepared in {folder}" + (f" ({source})" if source else "")
    if root is not None and not root.is_dir():
        raise InputError(f"There is no folder {root}: give the folder of your videos as --config.data.root=FOLDER, or {leave}.")
    if source is None:
        log.warning(
            "%s was prepared by an older version, which kept no record of its source%s. Delete it to prepare the data again.",
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
            f"data.root={root} doesn't match what was prepared in {folder} ({source}). Videos that differ: "
            f"{'; '.join(_differences(folder, source, contents))}. To use the videos as they are now, delete {folder} or "
            "choose another --config.data.data_dir. To use what is prepared, give its own root, or omit data.root."
        )
    log.info("Data: %s, with %s; data.root has the same paths, sizes and labels.", folder, source)
    if root == Path(source.root) and contents.digest_of_times != source.digest_of_times:
        _warn_of_times(folder, source, contents)


def _warn_of_times(folder: epath.Path, source: Source, contents: Contents) -> None:
    prepared = dict(_recorded(folder))
    changed = [line for line, time in zip(contents.videos, contents.times, strict=True) if prepared.get(line) != time]
    log.warning(
        "%d of %d files of %s were modified since they were prepared on %s, but kept their size (%s): they are assumed to be "
        "unchanged. If their content has changed, delete %s.",
        len(changed),
        len(contents.videos),
        source.root,
        source.made,
        _examples([json.loads(line)[2] for line in changed]),
        folder,
    )


def _recorded(folder: epath.Path) -> Iterator[tuple[str, str]]:
    """Yield the recorded line of each prepared video, and its modification time."""
    path = folder / VIDEOS
    try:
        lines = gzip.decompress(path.read_bytes()).decode().splitlines()
    except (EOFError, ValueError, gzip.BadGzipFile, zlib.error) as error:
        refuse(path, first_line(error), f"delete {folder} to prepare the data again", error)
    except OSError as error:
        raise InputError(f"Can't read {path}: {describe_os_error(error)}.") from error
    source = read_source(folder)
    if source is not None and len(lines) != source.num_videos:  # an empty file is a valid archive
        refuse(path, f"{len(lines)} of {source.num_videos} videos are in it", f"delete {folder} to prepare the data again")
    for line in lines:
        video, _, time = line.rpartition("\t")
        yield video, time


PLACES = {"another path": 2, "another size": 3, "other labels": 4, "another start, end or rate": slice(5, None)}
"""Maps each way in which two lines of a video can differ to its place in the line."""


def _differences(folder: epath.Path, source: Source, contents: Contents) -> list[str]:
    """Describe each kind of difference with its count and a few examples."""
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
