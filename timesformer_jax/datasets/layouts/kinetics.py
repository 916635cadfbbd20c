"""Kinetics-400, -600 and -700: the official lists of YouTube clips, or lists of paths as the official code reads them."""

import functools
import re
from collections.abc import Mapping
from pathlib import Path

from timesformer_jax.datasets.entries import Listing
from timesformer_jax.datasets.layouts.files import choose, find_lists, index_files, resolve
from timesformer_jax.datasets.layouts.gathering import Gathered
from timesformer_jax.datasets.layouts.lists import parse_span, read_lines, read_table
from timesformer_jax.datasets.layouts.path_lists import read_path_list
from timesformer_jax.errors import InputError
from timesformer_jax.labels import read_labels

NAMES = {"train": ("train",), "val": ("val", "validate", "validation"), "test": ("test",)}
"""Split -> what its list and the folder of its videos are called."""

REPLACEMENTS = ("replacement", "replacement_for_corrupted_k400")
"""Folders of videos that were published again because the first file is broken."""

CLASSES = ("labels.txt", "classes.txt", "labels.json")


def read_kinetics(root: Path) -> Listing:
    """Reads `train.csv`, `val.csv` (or `validate.csv`, `validation.csv`) and, if it has labels, `test.csv`, which are in the
    root or a folder below it. Two forms are known:

    The official one has the columns `label`, `youtube_id`, `time_start`, `time_end`. Videos are found anywhere below the
    root by their name: `ID_000012_000022`, or `ID` for the whole video, from which the piece is to be cut where it is
    longer than the piece by more than a second.

    Lists without a header have a path and the number of its label in each line; or, separated by a comma or tab, its name.
    Paths may start at the root or at the list's folder; a mere id is looked for as in the official form. The names of the
    numbers are in `labels.txt`, `classes.txt` (one a line) or `labels.json` beside the lists, else the numbers are the names.
    """
    wanted = {split: [f"{name}{ending}" for ending in (".csv", ".txt") for name in names] for split, names in NAMES.items()}
    lists = find_lists(root, wanted, optional=("test",))
    official = {split: _is_official(path) for split, path in lists.items()}
    if official["train"] != official["val"]:
        raise InputError(
            f"Expected two lists of one form, but only one of {lists['train']} and {lists['val']} has the official header with "
            "youtube_id: use both as they were published, or neither."
        )
    if official["train"] != official.get("test", official["train"]):
        del lists["test"]  # the official one beside lists that were made from the others
    return _read_official(root, lists) if official["train"] else _read_path_lists(root, lists)


def _is_official(path: Path) -> bool:
    lines = read_lines(path)
    return bool(lines) and "youtube_id" in re.split(r'[\s",]+', lines[0][1])


def _read_official(root: Path, lists: Mapping[str, Path]) -> Listing:
    files = index_files(root)
    gathered = Gathered()
    label_names: set[str] = set()
    for split, path in lists.items():
        rows = list(read_table(path, ("youtube_id", "time_start", "time_end")))
        unlabelled = next((line for line, row in rows if not row.get("label")), None)
        if unlabelled is not None and split == "test":
            continue
        if unlabelled is not None:
            raise InputError(f"{path}, line {unlabelled}: expected a label, got none.")
        for line, row in rows:
            video = row["youtube_id"]
            if not video:
                raise InputError(f"{path}, line {line}: expected a youtube_id, got none.")
            start, end = parse_span(row["time_start"], row["time_end"], path, line)
            name = f"{video}_{int(start):06d}_{int(end):06d}"
            if piece := _choose(files.get(name, []), split):
                gathered.add(split, name, piece, row["label"])
            else:  # many keep the piece alone under the id of the whole video
                whole = _choose(files.get(video, []), split)
                gathered.add(split, name, whole, row["label"], start=start, end=end, perhaps_cut=True)
        if split == "train":
            label_names = {row["label"] for _, row in rows}
    return gathered.listing(sorted(label_names), files=files)


def _choose(paths: list[Path], split: str) -> Path | None:
    return choose(paths, (*REPLACEMENTS, *NAMES[split]))


def _read_path_lists(root: Path, lists: Mapping[str, Path]) -> Listing:
    rows = {split: read_path_list(path) for split, path in lists.items()}
    numbered = {split: are_numbers for split, (_, are_numbers) in rows.items()}
    if len(set(numbered.values())) > 1:
        raise InputError(f"Expected all lists in {lists['train'].parent} to have numbers as labels, or all to have names.")
    classes = next((path for name in CLASSES if (path := lists["train"].parent / name).is_file()), None)
    if classes:
        label_names = read_labels(classes)
    elif numbered["train"]:
        highest = max((int(row.label) for videos, _ in rows.values() for row in videos), default=-1)
        label_names = [str(number) for number in range(highest + 1)]
    else:
        label_names = sorted({row.label for row in rows["train"][0]})
    gathered = Gathered()
    by_id = functools.cache(lambda: _index_by_id(root))  # a walk that lists of paths don't need
    for split, (videos, _) in rows.items():
        for row in videos:
            label = row.label
            if numbered[split]:
                if int(label) >= len(label_names):
                    raise InputError(
                        f"{lists[split]}, line {row.line}: expected a label below {len(label_names)}, which is how many names "
                        f"{classes} has, got {label}."
                    )
                label = label_names[int(label)]
            path = resolve(row.path, (root, lists[split].parent))
            if path is None and re.fullmatch(r"[\w-]+", row.path):
                path = _choose(by_id().get(row.path, []), split)
            if path is None or path.is_file():
                gathered.add(split, row.path, path, label)
            else:
                gathered.add_missing(split, row.path, "it is a folder: folders of pictures can be listed as a video_list")
    return gathered.listing(label_names)


def _index_by_id(root: Path) -> dict[str, list[Path]]:
    """Files by their name, and those called `ID_000012_000022` by their id where there is one piece of it only."""
    files = index_files(root)
    pieces: dict[str, list[str]] = {}
    for name in files:
        if match := re.fullmatch(r"(.+)_\d{6}_\d{6}", name):
            pieces.setdefault(match[1], []).append(name)
    return {video: files[names[0]] for video, names in pieces.items() if len(names) == 1} | files
