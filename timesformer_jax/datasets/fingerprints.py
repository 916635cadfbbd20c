"""By what a video's file is known again, without reading it: where it is, how large, since when."""

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
"""Looks at files of a network's disk wait for the network, so many go on at once."""


def measure_all(paths: Sequence[Path]) -> list[tuple[int | str, int | str]]:
    """The size and the time of last change (in nanoseconds) of each file, without reading it.

    Of a folder of pictures, digests of those of every picture. A file that is gone has neither, ("", "").
    """
    return _in_threads(_measure, paths)


def _in_threads(look: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
    runs = [items[first : first + PATHS_AT_ONCE] for first in range(0, len(items), PATHS_AT_ONCE)]
    with ThreadPoolExecutor(THREADS) as pool:
        return [found for run in pool.map(lambda run: [look(item) for item in run], runs) for found in run]


def _measure(path: Path) -> tuple[int | str, int | str]:
    with contextlib.suppress(OSError):  # gone since it was listed: reading it will say so
        stat = path.stat()
        if not S_ISDIR(stat.st_mode):
            return stat.st_size, stat.st_mtime_ns
        pictures = _pictures(path)
        return _digest([picture[:2] for picture in pictures]), _digest(pictures)
    return "", ""


def _pictures(path: Path) -> list[tuple[str, int, int]]:
    """Name, size and time of every picture in a folder, by name."""
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
    """`facts_of` each."""
    return _in_threads(facts_of, entries)


def facts_of(entry: Entry) -> str:
    """All that a prepared video follows from but the storage, as one line of ASCII.

    It costs one look at the file's size and time, and of a folder of pictures one at each of them: a folder's own time says
    nothing of a picture that was written over.
    """
    piece = entry.labels, entry.start, entry.end, entry.fps, entry.perhaps_cut
    return ascii((entry.name, os.path.abspath(entry.path), *piece, _state(entry.path)))


def _state(path: Path) -> tuple[object, ...]:
    """Size and time; of a folder how many pictures there are, and a digest of theirs."""
    with contextlib.suppress(OSError):  # gone since it was listed: reading it will say so
        if not path.is_dir():
            stat = path.stat()
            return stat.st_size, stat.st_mtime_ns
        pictures = _pictures(path)
        return len(pictures), _digest(pictures)
    return ()
