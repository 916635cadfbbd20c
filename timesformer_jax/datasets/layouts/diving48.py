"""Diving-48, with the corrected labels of version 2."""

from pathlib import Path
from typing import Any

from timesformer_jax.datasets.entries import Listing
from timesformer_jax.datasets.layouts.files import find_lists, index_files
from timesformer_jax.datasets.layouts.gathering import Gathered
from timesformer_jax.datasets.layouts.lists import parse_json, read_records, read_text
from timesformer_jax.errors import InputError

LISTS = {"train": ("Diving48_V2_train.json",), "val": ("Diving48_V2_test.json",), "names": ("Diving48_vocab.json",)}


def read_diving48(root: Path) -> Listing:
    """Read Diving-48 from `Diving48_V2_train.json` and `Diving48_V2_test.json`, which becomes `val`.

    The lists are in the root or a folder below it, and the videos anywhere below the root. Each video is one dive from the
    first frame to the last. `Diving48_vocab.json` next to the lists names the classes: take-off, somersaults, twists and
    position. Without it, the names are "0" to "47".
    """
    lists = find_lists(root, LISTS, optional=("names",))
    label_names = _read_names(lists.pop("names")) if "names" in lists else [str(number) for number in range(48)]
    files = index_files(root)
    gathered = Gathered()
    for split, path in lists.items():
        for number, record in enumerate(read_records(path, ("vid_name", "label")), start=1):
            label: Any = record["label"]
            if type(label) is not int or not 0 <= label < len(label_names):
                raise InputError(f"{path}, entry {number}: expected a label from 0 to {len(label_names) - 1}, got {label!r}.")
            name = str(record["vid_name"])
            gathered.add(split, name, next(iter(files.get(name, [])), None), label_names[label])
    return gathered.listing(label_names, files=files)


def _read_names(path: Path) -> list[str]:
    value = parse_json(read_text(path), path)
    if not isinstance(value, list) or not all(isinstance(words, list) and words for words in value):
        raise InputError(f"{path}: expected a list with the words of each class, as in [['Back', '15som', ...], ...].")
    return [" / ".join(str(word) for word in words) for words in value]
