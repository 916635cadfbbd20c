"""What a reader has found so far, and what is listed and isn't there."""

from collections.abc import Iterable
from pathlib import Path

from timesformer_jax.datasets.entries import Entry, Listing

NO_FILE = "there is no such file"


class Gathered:
    """Collects the videos of each split; a split is there as soon as one video of it is."""

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
            self._splits.setdefault(split, []).append(
                Entry(name=name, path=path, labels=labels, start=start, end=end, fps=fps, perhaps_cut=perhaps_cut)
            )

    def add_missing(self, split: str, name: str, reason: str) -> None:
        """A video that is listed and can't be used."""
        self._splits.setdefault(split, [])
        self._missing.setdefault(split, {})[name] = reason

    def listing(self, label_names: Iterable[str], *, several: bool = False) -> Listing:
        """All of it; raises `InputError` where that makes no data set."""
        return Listing(label_names=tuple(label_names), splits=self._splits, missing=self._missing, several=several)
