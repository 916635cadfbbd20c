"""Entries of listed videos, read from a folder of labels or from pairs, and the selection of frames to keep."""

import dataclasses
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from timesformer_jax._typing import Int, ndarray
from timesformer_jax.errors import InputError
from timesformer_jax.printable import as_utf8
from timesformer_jax.video.finding import SPLIT_LIKE, FolderContents, labelled_videos


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entry:
    """One video of a split.

    Attributes:
        name: Name, unique in its split.
        path: A video file, or a folder of images that are the frames in the order of their names.
        labels: Names of the labels.
        start: First second of the segment to use; None for the whole video.
        end: Second at which the segment ends; None for the whole video.
        fps: Frames per second of a folder of images.
        perhaps_cut: Whether the data set often comes as files already cut to their segments. If so, a file that is at most a
            second longer than the segment is used whole.

    Raises:
        InputError: If only one of `start` and `end` is given, or the segment is empty.
    """

    name: str
    path: Path
    labels: tuple[str, ...]
    start: float | None = None
    end: float | None = None
    fps: float | None = None
    perhaps_cut: bool = False

    def __post_init__(self) -> None:
        if self.start is None and self.end is None:
            return
        if self.start is None or self.end is None or not 0 <= self.start < self.end:
            raise InputError(f"{self.name}: expected 0 <= start < end in seconds, or neither, got {self.start} and {self.end}.")

    def span(self, seconds: float | None) -> tuple[float, float] | None:
        """Return the (start, end) to read from a file of `seconds` seconds; None to read all of it."""
        if self.start is None or self.end is None:
            return None
        is_piece = self.perhaps_cut and seconds is not None and seconds <= self.end - self.start + 1
        return None if is_piece else (self.start, self.end)


class KeptFrames:
    """Evenly spaced subset of frames, a fraction `share` of all.

    Keeps frame 0 and every frame at which `index * share` reaches a new whole number.
    """

    def __init__(self, share: float):
        self.share = share

    def __contains__(self, index: int) -> bool:
        return index == 0 or math.floor(index * self.share) > math.floor((index - 1) * self.share)

    def among(self, num_frames: int) -> Int[ndarray, "kept"]:
        """Return the kept indices below `num_frames`."""
        indices = np.arange(num_frames)
        if self.share >= 1:
            return indices
        return np.flatnonzero((indices == 0) | (np.floor(indices * self.share) > np.floor((indices - 1) * self.share)))


def entries_of_folder(folder: Path) -> tuple[list[Entry], tuple[str, ...]]:
    """Read an entry per video file below a folder, labelled by its subfolder, and notes about skipped files.

    Raises:
        InputError: If there is no such folder, or its subfolders are splits.
    """
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "doesn't exist"
        raise InputError(
            f"{folder} {what}: give a folder with a subfolder per label, or entries or (path, label) pairs, such as those "
            "that the readers of timesformer_jax.datasets return."
        )
    contents = FolderContents(folder)
    found = labelled_videos(contents, folder)
    labels = sorted({label for _, label in found})
    if labels and {label.lower() for label in labels} <= SPLIT_LIKE:
        raise InputError(f"{folder} holds splits ({', '.join(labels)}), not labels: give one of them, as {folder / labels[0]}.")
    entries = [Entry(name=as_utf8(contents.name(path)), path=path, labels=(label,)) for path, label in sorted(found)]
    return entries, contents.notes


def entries_of_list(videos: Sequence[Any]) -> tuple[list[Entry], int]:
    """Convert a list of entries, (path, label) pairs and (path, labels) pairs to entries.

    Entries stay as they are. A pair's path as given becomes the entry's name.

    Returns:
        The entries, and, if labels are class numbers, the smallest number of classes that includes them, else 0.

    Raises:
        InputError: If an item is neither an entry nor a pair, or if class numbers and class names are mixed.
    """
    read = [(video, video.labels) if isinstance(video, Entry) else _read_pair(video) for video in videos]
    labels = [label for _, those in read for label in those]
    numbers = [label for label in labels if not isinstance(label, str)]
    if numbers and len(numbers) < len(labels):
        name = next(label for label in labels if isinstance(label, str))
        raise InputError(f"Labels mix numbers such as {numbers[0]} with names such as {name!r}: use one or the other.")
    entries = [
        video if isinstance(video, Entry) else Entry(name=_name(video), path=video, labels=tuple(map(str, those)))
        for video, those in read
    ]
    return entries, int(max(numbers)) + 1 if numbers else 0


def _name(path: Path) -> str:
    return as_utf8(path.as_posix())


def _read_pair(pair: Any) -> tuple[Path, tuple[Any, ...]]:
    """Return a video's path and its labels, as UTF-8 names or class numbers."""
    if not isinstance(pair, tuple | list) or len(pair) != 2 or not isinstance(pair[0], str | os.PathLike):
        raise InputError(f"Expected an Entry or a pair of a path and its label, got {pair!r}.")
    path, labels = pair
    labels = labels if isinstance(labels, tuple | list) else (labels,)
    for label in labels:
        if not isinstance(label, str) and (not isinstance(label, int | np.integer) or label < 0):
            raise InputError(f"{path}: expected a label's name or its number, 0 or above, got {label!r}.")
    return Path(path), tuple(as_utf8(label) if isinstance(label, str) else int(label) for label in labels)
