"""Fingerprints that identify a video's file without reading it: its path, size and modification time."""

import contextlib
import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from stat import S_ISDIR
from typing import Any

from timesformer_jax.datasets.entries import Entry
from timesformer_jax.video import PICTURE_SUFFIXES

THREADS, PATHS_AT_ONCE = 16, 512
"""Number of threads, and of paths per task. On a network file system, stat calls wait for the network."""


def measure_all(paths: Sequence[Path]) -> list[tuple[int | str, int | str]]:
    """Return the size and the modification time (in nanoseconds) of each file, without reading it.

    A folder of pictures has digests of the sizes and of the times of all pictures instead. A deleted file has ("", "").
    """
    return _in_threads(_measure, paths)


def _in_threads(look: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
    runs = [items[first : first + PATHS_AT_ONCE] for first in range(0, len(items), PATHS_AT_ONCE)]
    with ThreadPoolExecutor(THREADS) as pool:
        return [found for run in pool.map(lambda run: [look(item) for item in run], runs) for found in run]


def _measure(path: Path) -> tuple[int | str, int | str]:
    with contextlib.suppress(OSError):  # deleted since it was listed: reading it will raise the error
        stat = path.stat()
        if not S_ISDIR(stat.st_mode):
            return stat.st_size, stat.st_mtime_ns
        pictures = _pictures(path)
        return _digest([picture[:2] for picture in pictures]), _digest(pictures)
    return "", ""


def _pictures(path: Path) -> list[tuple[str, int, int]]:
    """Return the name, size and time of every picture in a folder, sorted by name."""
    pictures = []
    with os.scandir(path) as inside:
        for file in inside:
            if os.path.splitext(file.name)[1].lower() in PICTURE_SUFFIXES and not file.name.startswith("."):
                stat = file.stat()
                pictures.append((file.name, stat.st_size, stat.st_mtime_ns))
    return sorted(pictures)


def _digest(facts: object) -> str:
    return hashlib.sha256(ascii(facts).encode()).hexdigest()


def facts_of_all(entries: Sequence[Entry]) -> list[str]:
    """Return `facts_of` every entry, in order."""
    return _in_threads(facts_of, entries)


def facts_of(entry: Entry) -> str:
    """Return everything that determines a prepared video, except for `Storage`, as one line of ASCII.

    This takes one stat call per file, and one per picture in a folder of pictures, because a folder's own modification time
    doesn't change if a picture is overwritten.
    """
    piece = entry.labels, entry.start, entry.end, entry.fps, entry.perhaps_cut
    return ascii((entry.name, os.path.abspath(entry.path), *piece, _state(entry.path)))


def _state(path: Path) -> tuple[object, ...]:
    """Return the size and time of a file, or the number of pictures in a folder and a digest of their sizes and times."""
    with contextlib.suppress(OSError):  # deleted since it was listed: reading it will raise the error
        if not path.is_dir():
            stat = path.stat()
            return stat.st_size, stat.st_mtime_ns
        pictures = _pictures(path)
        return len(pictures), _digest(pictures)
    return ()
