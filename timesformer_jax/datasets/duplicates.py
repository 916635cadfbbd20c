"""Find files that occur more than once in a data set: in several splits, with different labels, or twice in one split."""

import math
import os
import stat
from collections.abc import Hashable, Iterator
from pathlib import Path

from timesformer_jax.datasets.entries import Entry, Listing
from timesformer_jax.video.finding import EXAMPLES, show

IN_SPLITS = "in more than one split, so that evaluation sees what training has seen"
WITH_LABELS = "listed with different labels"
IN_ONE_SPLIT = "listed more than once in a split"


def describe_duplicates(listing: Listing) -> list[str]:
    """Return a line per kind of duplicate, with the number of files and a few examples.

    Entries are duplicates if they have the same path after resolving links, or are hard links to one file, and, for pieces of a
    video, if the pieces overlap. No file is opened.
    """
    found: dict[str, dict[Hashable, str]] = {IN_SPLITS: {}, WITH_LABELS: {}, IN_ONE_SPLIT: {}}
    for file, uses in _uses(listing).items():
        for kind, example in _compare(uses):
            found[kind].setdefault(file, example)
    return [
        f"Videos {kind}: {len(examples)} ({show(list(examples.values())[:EXAMPLES], len(examples))})."
        for kind, examples in found.items()
        if examples
    ]


def _uses(listing: Listing) -> dict[Hashable, list[tuple[str, Entry]]]:
    """Map the identity of every file with several entries to those entries."""
    first: dict[Hashable, tuple[str, Entry]] = {}
    several: dict[Hashable, list[tuple[str, Entry]]] = {}
    folders: dict[str, str] = {}
    for split, entries in listing.splits.items():
        for entry in entries:
            file = _identity(entry.path, folders)
            if file in first:
                several.setdefault(file, [first[file]]).append((split, entry))
            else:
                first[file] = split, entry
    return several


def _identity(path: Path, folders: dict[str, str]) -> Hashable:
    """Return the real path, or device and inode of a file with hard links.

    `folders` caches the real paths of folders, which take most of the time.
    """
    folder, name = os.path.split(os.path.abspath(path))
    if folder not in folders:
        folders[folder] = os.path.realpath(folder)
    real = os.path.join(folders[folder], name)
    try:
        info = os.lstat(real)
        if stat.S_ISLNK(info.st_mode):
            real = os.path.realpath(real)
            info = os.stat(real)
    except (OSError, ValueError):  # reading the video will report what is wrong
        return real
    return (info.st_dev, info.st_ino) if stat.S_ISREG(info.st_mode) and info.st_nlink > 1 else real


def _compare(uses: list[tuple[str, Entry]]) -> Iterator[tuple[str, str]]:
    """Yield (kind of duplicate, example) for the entries of one file.

    Entries are visited in the order of their starts. Each is compared only with earlier entries that haven't ended, of which
    one per split and labels is kept, the last to end. This keeps files with many pieces fast.
    """
    running: dict[tuple[str, frozenset[str]], Entry] = {}
    for split, entry in sorted(uses, key=lambda use: use[1].start or 0.0):
        labels = frozenset(entry.labels)
        running = {key: other for key, other in running.items() if _end(other) > (entry.start or 0.0)}
        for (other_split, other_labels), other in running.items():
            name = entry.name if entry.name == other.name else f"{other.name} = {entry.name}"
            if split != other_split:
                yield IN_SPLITS, f"{name} in {other_split} and {split}"
            if labels != other_labels:
                yield WITH_LABELS, f"{name} as {' + '.join(other.labels)} and as {' + '.join(entry.labels)}"
            elif split == other_split:
                yield IN_ONE_SPLIT, f"{name} in {split}"
        if (key := (split, labels)) not in running or _end(entry) > _end(running[key]):
            running[key] = entry


def _end(entry: Entry) -> float:
    return math.inf if entry.end is None else entry.end
