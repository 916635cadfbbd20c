"""Kinetics-400, -600 and -700, from the official lists of YouTube clips, or from lists of paths as in the official code."""

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
"""Maps each split to possible names of its list and of its folder of videos."""

REPLACEMENTS = ("replacement", "replacement_for_corrupted_k400")
"""Folders of replacements for broken videos, which take precedence."""

CLASSES = ("labels.txt", "classes.txt", "labels.json")


def read_kinetics(root: Path) -> Listing:
    """Read Kinetics from `train.csv`, `val.csv` (or `validate.csv`, `validation.csv`) and, if it has labels, `test.csv`.

    The lists are in the root or a folder below it. Two formats are supported:

    Official lists have the columns `label`, `youtube_id`, `time_start` and `time_end`. Videos are found by name anywhere below
    the root: `ID_000012_000022`, or `ID`. In the latter case the piece is cut out of the video, unless the video is at most one
    second longer than the piece, and therefore assumed to be cut already.

    Lists without a header have a path and a label per line. After a space the label is a number; after a comma or tab it is a
    number or a name. Paths are relative to the root or to the list's folder, and bare ids are found as with official lists.
    Names for the numbers are read from `labels.txt`, `classes.txt` (one name per line) or `labels.json` next to the lists;
    otherwise the numbers are the names.
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
        del lists["test"]  # an official test list next to path lists
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
            else:  # copies of the data set often store the piece under the id of the whole video
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
    by_id = functools.cache(lambda: _index_by_id(root))  # lazy, because lists of paths don't need the walk
    for split, (videos, _) in rows.items():
        for row in videos:
            label = row.label
            if numbered[split]:
                if int(label) >= len(label_names):
                    raise InputError(
                        f"{lists[split]}, line {row.line}: expected a label below {len(label_names)}, the number of names in "
                        f"{classes}, got {label}."
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
    """Index files by name, and files called `ID_000012_000022` also by id if there is only one piece of that id."""
    files = index_files(root)
    pieces: dict[str, list[str]] = {}
    for name in files:
        if match := re.fullmatch(r"(.+)_\d{6}_\d{6}", name):
            pieces.setdefault(match[1], []).append(name)
    return {video: files[names[0]] for video, names in pieces.items() if len(names) == 1} | files
