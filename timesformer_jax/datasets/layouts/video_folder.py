"""A folder of video files, one sub-folder a label.

ROOT/train/LABEL/*.mp4  and  ROOT/val/LABEL/*.mp4        (the splits as given)
ROOT/LABEL/*.mp4                                         (a fixed share of every label's files becomes `val`)
"""

from pathlib import Path

from timesformer_jax.datasets.entries import Listing
from timesformer_jax.datasets.layouts.files import check_root
from timesformer_jax.datasets.layouts.gathering import Gathered
from timesformer_jax.datasets.layouts.shares import check_fraction, val_share
from timesformer_jax.errors import InputError
from timesformer_jax.video.files import find_videos, printable

SPLIT_LIKE = frozenset({"train", "training", "val", "valid", "validation", "test", "testing"})
"""If a folder's only labels are among these, they are splits by another name."""


def read_video_folder(root: Path, *, val_fraction: float = 0.2) -> Listing:
    """Every video file below a folder, labelled by the folder it is in; its name is the path below the root.

    Without `train` and `val` folders, `val_fraction` of each label's files become `val` (at least one, if there are two).

    Raises `InputError` where the folder can't be trained on.
    """
    check_root(root)
    check_fraction(val_fraction)
    files = {split: _labelled_files(root / split) for split in ("train", "val")}
    if not files["train"] and not files["val"]:
        files = _split(root, val_fraction)
    for split, pairs in files.items():
        if not pairs:
            raise InputError(
                f"No video file for the split '{split}' in {root}: expected {root}/train/LABEL/*.mp4 and "
                f"{root}/val/LABEL/*.mp4, or {root}/LABEL/*.mp4 with two files or more in each label."
            )
    labels = {label for _, label in files["train"]}
    if len(labels) < 2:
        raise InputError(
            f"Only one label in {root}: {labels.pop()!r}. A classifier needs two or more, each a folder with videos of its own."
        )
    if unknown := sorted({label for _, label in files["val"]} - labels):
        raise InputError(f"{root}/val has labels that {root}/train lacks: {', '.join(unknown)}. Add videos or remove them.")
    gathered = Gathered()
    for split, pairs in files.items():
        for path, label in sorted(pairs):
            gathered.add(split, printable(path.relative_to(root).as_posix()), path, label)
    return gathered.listing(sorted(labels))


def _split(root: Path, val_fraction: float) -> dict[str, list[tuple[Path, str]]]:
    everything = _labelled_files(root)
    if everything and {label.lower() for _, label in everything} <= SPLIT_LIKE:
        found = ", ".join(sorted({label for _, label in everything}))
        raise InputError(f"{root} holds {found}: call the folders of the two splits 'train' and 'val'.")
    by_label: dict[str, dict[str, Path]] = {}
    for path, label in everything:
        below = path.relative_to(root)
        by_label.setdefault(label, {})[below.relative_to(below.parts[0]).as_posix()] = path
    files: dict[str, list[tuple[Path, str]]] = {"train": [], "val": []}
    for label, paths in by_label.items():
        val = val_share(paths, val_fraction)
        for name, path in paths.items():
            files["val" if name in val else "train"].append((path, label))
    return files


def _labelled_files(folder: Path) -> list[tuple[Path, str]]:
    """(file, label) of every video file in a label's folder or deeper."""
    placed = [(path, path.relative_to(folder).parts) for path in find_videos(folder)]
    return [(path, printable(parts[0])) for path, parts in placed if len(parts) > 1]
