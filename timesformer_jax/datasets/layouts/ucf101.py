"""UCF-101, with one of its three official splits."""

from pathlib import Path

from timesformer_jax.datasets.entries import Listing
from timesformer_jax.datasets.layouts.files import find_lists, index_files
from timesformer_jax.datasets.layouts.gathering import Gathered
from timesformer_jax.datasets.layouts.lists import read_lines
from timesformer_jax.errors import InputError


def read_ucf101(root: Path, *, fold: int = 1) -> Listing:
    """Read UCF-101 from `classInd.txt`, `trainlist01.txt` and `testlist01.txt`, which becomes `val`.

    `fold` 2 and 3 select the other official splits. The lists are in the root or a folder below it, and the videos anywhere
    below the root. Names are matched regardless of case, because copies differ in HandstandPushups.
    """
    if fold not in (1, 2, 3):
        raise InputError(f"fold must be 1, 2 or 3, got {fold}.")
    wanted = {"classes": ("classInd.txt",), "train": (f"trainlist{fold:02d}.txt",), "val": (f"testlist{fold:02d}.txt",)}
    lists = find_lists(root, wanted)
    label_names = _read_classes(lists.pop("classes"))
    numbers = {name.casefold(): number for number, name in enumerate(label_names, start=1)}
    index = index_files(root)
    files: dict[str, list[Path]] = {}
    for name, paths in index.items():
        files.setdefault(name.casefold(), []).extend(paths)
    gathered = Gathered()
    for split, path in lists.items():
        for line, text in read_lines(path):
            video, _, given = text.rpartition(" ")
            if not given.isdecimal():
                video, given = text, ""
            folder, _, file = video.strip().rpartition("/")
            number = numbers.get(folder.casefold())
            if number is None or (given and int(given) != number) or not file:
                raise InputError(f"{path}, line {line}: expected CLASS/FILE, optionally with the class's number, got {text!r}.")
            label = label_names[number - 1]
            found = next(iter(files.get(Path(file).stem.casefold(), [])), None)
            gathered.add(split, video.strip(), found, label)
    return gathered.listing(label_names, files=index)


def _read_classes(path: Path) -> list[str]:
    """Read the names of the classes, numbered from 1: `1 ApplyEyeMakeup` and so on."""
    names: list[str] = []
    for line, text in read_lines(path):
        number, _, name = text.partition(" ")
        if number != str(len(names) + 1) or not name.strip():
            raise InputError(f"{path}, line {line}: expected the number {len(names) + 1}, a space and a class, got {text!r}.")
        names.append(name.strip())
    return names
