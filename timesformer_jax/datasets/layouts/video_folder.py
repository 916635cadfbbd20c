"""A folder of video files with one sub-folder per label, in one of two forms.

ROOT/train/LABEL/*.mp4  and  ROOT/val/LABEL/*.mp4        (given splits)
ROOT/LABEL/*.mp4                                         (a fixed share of every label's files becomes `val`)
"""

from pathlib import Path

from timesformer_jax.datasets.alike import DIFFERENCE, find_alike, visible
from timesformer_jax.datasets.entries import Listing
from timesformer_jax.datasets.layouts.files import check_root
from timesformer_jax.datasets.layouts.gathering import Gathered
from timesformer_jax.datasets.layouts.shares import check_fraction, val_share
from timesformer_jax.errors import InputError
from timesformer_jax.printable import as_utf8
from timesformer_jax.video.finding import SPLIT_LIKE, FolderContents, Tally, labelled_videos, show

SPLITS = ("train", "val")

MAX_NAMED = 10
"""Folders without a video to name in a note."""

OUTSIDE = "videos outside the folders 'train' and 'val'"
OTHER_SPLIT = "videos of a folder that looks like a split, since it holds folders called like the labels next to it"

Labelled = list[tuple[Path, str]]
"""Files with their labels."""


def read_video_folder(root: Path, *, val_fraction: float = 0.2) -> Listing:
    """Read every video file below a folder, labelled with its folder and named by its path below the root.

    Without `train` and `val` folders, `val_fraction` of each label's files become `val`, but at least one of two or more files.
    Other splits next to labels or next to `train` and `val`, and videos outside any label's folder, are skipped and counted in
    the listing's `notes`, which also name the folders of labels without a video.

    Raises `InputError` if the folder can't be trained on.
    """
    check_root(root)
    check_fraction(val_fraction)
    files, notes = _given_splits(root)
    if not files["train"] and not files["val"]:
        files, notes = _split(root, val_fraction)
    for split, pairs in files.items():
        if not pairs:
            raise InputError(
                f"No video file for the split '{split}' in {root}: expected {root}/train/LABEL/*.mp4 and "
                f"{root}/val/LABEL/*.mp4, or {root}/LABEL/*.mp4 with two files or more in each label."
            )
    labels = {label for _, label in files["train"]}
    if len(labels) < 2:
        raise InputError(
            f"Only one label in {root}: {labels.pop()!r}. A classifier needs two or more, each a folder with its own videos."
        )
    if unknown := sorted({label for _, label in files["val"]} - labels):
        raise InputError(_describe_unknown(unknown, sorted(labels), root))
    gathered = Gathered()
    for split, pairs in files.items():
        for path, label in sorted(pairs):
            gathered.add(split, path.relative_to(root).as_posix(), path, label)
    return gathered.listing(sorted(labels), notes=notes)


def _describe_unknown(unknown: list[str], labels: list[str], root: Path) -> str:
    """Return the error for labels of `val` that `train` lacks."""
    pairs = [(label, other) for label in unknown if (other := find_alike(label, labels)) is not None]
    hints = [f"{visible(label)} differs from {visible(other)} of train {DIFFERENCE}: rename one." for label, other in pairs]
    if len(pairs) < len(unknown):
        hints.append("Add videos or remove them.")
    return f"{root}/val has labels that {root}/train lacks: {', '.join(unknown)}. {' '.join(hints)}"


def _given_splits(root: Path) -> tuple[dict[str, Labelled], tuple[str, ...]]:
    """Return the labelled files of the folders `train` and `val`, and notes on files skipped there and next to them."""
    files: dict[str, Labelled] = {}
    notes: list[str] = []
    without: list[str] = []
    for split in SPLITS:
        contents = FolderContents(root / split, base=root)
        files[split] = labelled_videos(contents, root / split)
        if (root / split).is_dir():
            notes += contents.notes
            without += [f"{split}/{name}" for name in _without_video(contents, files[split], root / split)]
    if any(files.values()):
        rest = FolderContents(root, ignore=SPLITS)
        for path in rest.videos:
            rest.skipped.add(OUTSIDE, rest.name(path))
        notes += rest.notes
    return files, (*notes, *_describe_without(without))


def _split(root: Path, val_fraction: float) -> tuple[dict[str, Labelled], tuple[str, ...]]:
    """Split the labelled files of a folder of labels into `train` and `val`; also return notes on skipped files."""
    contents = FolderContents(root)
    everything = labelled_videos(contents, root)
    if everything and {label.lower() for _, label in everything} <= SPLIT_LIKE:
        found = ", ".join(sorted({label for _, label in everything}))
        raise InputError(f"{root} holds {found}: call the folders of the two splits 'train' and 'val'.")
    by_label: dict[str, dict[str, Path]] = {}
    for path, label in _without_other_splits(everything, root, contents.skipped):
        below = path.relative_to(root)
        by_label.setdefault(label, {})[below.relative_to(below.parts[0]).as_posix()] = path
    files: dict[str, Labelled] = {"train": [], "val": []}
    for label, paths in by_label.items():
        val = val_share(paths, val_fraction)
        for name, path in paths.items():
            files["val" if name in val else "train"].append((path, label))
    notes = (*contents.notes, *_describe_without(_without_video(contents, everything, root)))
    if odd := sorted(label for label in by_label if label.lower() in SPLIT_LIKE):
        notes = (*notes, f"Folders called like a split are read as labels: {', '.join(odd)}.")
    return files, notes


def _without_video(contents: FolderContents, found: Labelled, folder: Path) -> list[str]:
    """Return the names of the folders of labels in which no video was found."""
    used = {path.relative_to(folder).parts[0] for path, _ in found}
    return [name for name in contents.subfolders if name not in used and name.lower() not in SPLIT_LIKE]


def _describe_without(folders: list[str]) -> tuple[str, ...]:
    return (f"Folders of labels without a video: {show(folders, len(folders), MAX_NAMED)}.",) if folders else ()


def _without_other_splits(everything: Labelled, root: Path, skipped: Tally) -> Labelled:
    """Drop the videos of folders next to labels that look like a split."""
    labels = {label for _, label in everything if label.lower() not in SPLIT_LIKE}
    inside: dict[str, set[str]] = {}
    for path, label in everything:
        inside.setdefault(label, set()).update(as_utf8(part) for part in path.relative_to(root).parts[1:-1][:1])
    splits = {label for label, folders in inside.items() if label.lower() in SPLIT_LIKE and folders & labels}
    for path, label in everything:
        if label in splits:
            skipped.add(OTHER_SPLIT, path.relative_to(root).as_posix())
    return [(path, label) for path, label in everything if label not in splits]
