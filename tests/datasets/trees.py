"""Small copies of data sets: lists with their text, and placeholder files for videos."""

from pathlib import Path

from timesformer_jax.datasets import Listing


def grow(root: Path, *names: str) -> Path:
    """Write a byte into every file of `names`."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return root


def write(root: Path, files: dict[str, str]) -> Path:
    """Write texts unchanged, including line ends."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode())
    return root


def labels(listing: Listing) -> dict[str, dict[str, str]]:
    """Return the label of each single-label video, by split and name."""
    return {split: {entry.name: " ".join(entry.labels) for entry in entries} for split, entries in listing.splits.items()}


def paths(listing: Listing, root: Path) -> dict[str, str]:
    """Return the path below `root` of each video, by name, over all splits."""
    return {entry.name: entry.path.relative_to(root).as_posix() for split in listing.splits.values() for entry in split}
