"""HMDB-51, with one of its three official splits."""

from pathlib import Path

from timesformer_jax.datasets.entries import Listing
from timesformer_jax.datasets.layouts.files import choose, find_lists, index_files
from timesformer_jax.datasets.layouts.gathering import Gathered
from timesformer_jax.datasets.layouts.lists import read_lines
from timesformer_jax.errors import InputError

SPLITS = {"0": None, "1": "train", "2": "val"}
"""Maps the number that follows a file's name to its split; None if unused."""


def read_hmdb51(root: Path, *, fold: int = 1) -> Listing:
    """Read HMDB-51 from `LABEL_test_split1.txt` of every label; `fold` 2 and 3 select the other official splits.

    The lists are in the root or a folder below it, and their test videos become `val`. Videos are anywhere below the root; of
    several with the same name, the one in the label's folder is used.
    """
    if fold not in (1, 2, 3):
        raise InputError(f"fold must be 1, 2 or 3, got {fold}.")
    ending = f"_test_split{fold}.txt"
    folder = find_lists(root, {"lists": (f"*{ending}",)})["lists"].parent
    lists = {path.name.removesuffix(ending): path for path in folder.glob(f"*{ending}") if not path.name.startswith(".")}
    files = index_files(root)
    gathered = Gathered()
    for label, path in sorted(lists.items()):
        for line, text in read_lines(path):
            file, _, number = text.rpartition(" ")
            if number not in SPLITS or not file.strip():
                raise InputError(f"{path}, line {line}: expected a file and 0, 1 or 2, got {text!r}.")
            if split := SPLITS[number]:
                file = file.strip()
                gathered.add(split, f"{label}/{file}", choose(files.get(Path(file).stem, []), (label,)), label)
    return gathered.listing(sorted(lists), files=files)
