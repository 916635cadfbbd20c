"""What a reader has found so far, and what is listed and isn't there."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from timesformer_jax.datasets.entries import Entry, Listing
from timesformer_jax.datasets.layouts.files import FileIndex
from timesformer_jax.printable import as_utf8
from timesformer_jax.video.finding import NO_VIDEO

NO_FILE = "there is no such file"

UNLISTED = "videos that the lists don't name for any split"


class Gathered:
    """Collects the videos of each split; a split is there as soon as one video of it is.

    Names and labels become text that UTF-8 can store, as prepared data keep them.
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
        """One more video, or one that isn't there, where `path` is None."""
        if path is None:
            self.add_missing(split, name, NO_FILE)
        else:
            name, labels = as_utf8(name), tuple(map(as_utf8, labels))
            self._splits.setdefault(split, []).append(
                Entry(name=name, path=path, labels=labels, start=start, end=end, fps=fps, perhaps_cut=perhaps_cut)
            )

    def add_missing(self, split: str, name: str, reason: str) -> None:
        """A video that is listed and can't be used."""
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
        """All of it; raises `InputError` where that makes no data set.

        `files`: the index that listed videos were looked up in; what of it is skipped is added to `notes`.
        """
        if files is not None:
            listed = {entry.path for entries in self._splits.values() for entry in entries}
            for path in files.contents.videos:
                if path not in listed:
                    files.contents.skipped.add(UNLISTED, files.contents.name(path))
            notes = (*notes, *files.contents.skipped.notes(without=(NO_VIDEO,)))  # which the lists themselves are, too
        return Listing(
            label_names=tuple(map(as_utf8, label_names)),
            splits=self._splits,
            missing=self._missing,
            several=several,
            notes=notes,
        )
