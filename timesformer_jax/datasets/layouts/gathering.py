"""Collect the videos that a reader finds, and those that are listed but missing."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from timesformer_jax.datasets.alike import describe_alike
from timesformer_jax.datasets.entries import Entry, Listing
from timesformer_jax.datasets.layouts.files import FileIndex
from timesformer_jax.printable import as_utf8
from timesformer_jax.video.finding import NO_VIDEO

NO_FILE = "there is no such file"

UNLISTED = "videos that the lists don't name for any split"


class Gathered:
    """Collector of the videos of each split. Splits other than `train` and `val` exist once they have a video.

    Names and labels are converted to text that UTF-8 can encode, as prepared data store them.
    """

    def __init__(self) -> None:
        self._splits: dict[str, list[Entry]] = {"train": [], "val": []}
        self._missing: dict[str, dict[str, str]] = {}

    def add(
        self,
        split: str,
        name: str,
        path: Path | None,
        *labels: str,
        start: float | None = None,
        end: float | None = None,
        fps: float | None = None,
        perhaps_cut: bool = False,
    ) -> None:
        """Add a video, or a missing one if `path` is None.

        Args:
            split: Name of the split.
            name: Name of the video, unique in its split.
            path: The file or folder of pictures; None if it doesn't exist.
            *labels: Labels of the video.
            start: Second at which a piece of the video starts; None for the whole video.
            end: Second at which the piece ends.
            fps: Frame rate of a folder of pictures.
            perhaps_cut: Whether the file may be cut to the piece already (see `Entry`).
        """
        if path is None:
            self.add_missing(split, name, NO_FILE)
        else:
            name, labels = as_utf8(name), tuple(map(as_utf8, labels))
            self._splits.setdefault(split, []).append(
                Entry(name=name, path=path, labels=labels, start=start, end=end, fps=fps, perhaps_cut=perhaps_cut)
            )

    def add_missing(self, split: str, name: str, reason: str) -> None:
        """Add a listed video that can't be used."""
        self._splits.setdefault(split, [])
        self._missing.setdefault(split, {})[as_utf8(name)] = reason

    def listing(
        self,
        label_names: Iterable[str],
        *,
        several: bool = False,
        notes: Sequence[str] = (),
        files: FileIndex | None = None,
    ) -> Listing:
        """Return the listing of all added videos, with a note if some labels are alike.

        Args:
            label_names: Names of the labels, in the order of the classes.
            several: Whether the data are multi-label.
            notes: Lines about skipped files.
            files: Index in which listed videos were looked up; lines about its skipped files are added to `notes`.

        Raises:
            InputError: If the listing is invalid (see `Listing`).
        """
        if files is not None:
            listed = {entry.path for entries in self._splits.values() for entry in entries}
            for path in files.contents.videos:
                if path not in listed:
                    files.contents.skipped.add(UNLISTED, files.contents.name(path))
            notes = (*notes, *files.contents.skipped.notes(without=(NO_VIDEO,)))  # which include the lists themselves
        label_names = tuple(map(as_utf8, label_names))
        return Listing(
            label_names=label_names,
            splits=self._splits,
            missing=self._missing,
            several=several,
            notes=(*notes, *describe_alike(label_names)),
        )
