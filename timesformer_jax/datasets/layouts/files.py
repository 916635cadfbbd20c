"""Find the lists of a data set, and the videos that they name."""

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from timesformer_jax.errors import InputError
from timesformer_jax.os_errors import raise_if_not_the_files
from timesformer_jax.video.finding import FolderContents

DEPTH = 3
"""Number of levels of folders below the root that are searched for lists."""


def check_root(root: Path) -> None:
    """Raise `InputError` if the folder doesn't exist."""
    if not root.is_dir():
        raise InputError(f"There is no folder {root}: give the folder of the videos as root (data.root in a config).")


def find_lists(root: Path, wanted: Mapping[str, Sequence[str]], optional: Collection[str] = ()) -> dict[str, Path]:
    """Find the lists of a data set in the root, or in the nearest folder below it that has them all.

    Args:
        root: Folder of the data set.
        wanted: Key -> possible file names, in which `*` matches anything; the first that exists is used.
        optional: Keys that may be missing.

    Returns:
        Key -> path of the list.

    Raises:
        InputError: If no folder has the lists, or if two equally near folders do.
    """
    check_root(root)
    level = [root]
    for _ in range(DEPTH + 1):
        found = [lists for folder in level if (lists := _lists_in(folder, wanted)).keys() >= wanted.keys() - set(optional)]
        if len(found) > 1:
            first, second = (next(iter(lists.values())).parent for lists in found[:2])
            raise InputError(f"Expected the lists of one data set in {root}, got those in {first} and in {second}.")
        if found:
            return found[0]
        level = [below for folder in level for below in _folders_in(folder)]
    names = "; ".join(" or ".join(names) for key, names in wanted.items() if key not in optional)
    raise InputError(f"Expected the lists of the data set in {root} or a folder below it: {names}.")


def _lists_in(folder: Path, wanted: Mapping[str, Sequence[str]]) -> dict[str, Path]:
    found = {}
    for key, names in wanted.items():
        paths = (path for name in names for path in sorted(folder.glob(name)))
        if path := next((path for path in paths if path.is_file() and not path.name.startswith(".")), None):
            found[key] = path
    return found


def _folders_in(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as inside:
            return sorted(Path(entry.path) for entry in inside if not entry.name.startswith(".") and entry.is_dir())
    except OSError as error:
        raise_if_not_the_files(error, folder)
        return []


class FileIndex(dict[str, list[Path]]):
    """Maps names without suffix to the video files that have them; `contents` is the folder walk that found them."""

    def __init__(self, contents: FolderContents):
        super().__init__()
        self.contents = contents
        for path in sorted(contents.videos, key=contents.walk_order):
            self.setdefault(path.stem, []).append(path)
        for path in sorted(contents.frame_folders, key=contents.walk_order):
            self.setdefault(path.name, []).append(path)


def index_files(root: Path, frame_folders: Collection[str] = frozenset()) -> FileIndex:
    """Index the videos below a folder by name, in one walk that finds the same files as `find_videos`.

    `frame_folders` are names of videos that may be folders of pictures; such folders come after files. They aren't listed
    completely, which would take hours for all frames of a data set.
    """
    check_root(root)
    return FileIndex(FolderContents(root, frame_folders=frame_folders))


def choose(paths: Sequence[Path], folders: Sequence[str]) -> Path | None:
    """Choose among files of the same name: the one whose folder comes first in `folders`, else the first; None if empty."""
    ranks = {folder: rank for rank, folder in enumerate(folders)}
    return min(paths, key=lambda path: min(ranks.get(part, len(ranks)) for part in path.parent.parts), default=None)


def resolve(text: str, bases: Iterable[Path]) -> Path | None:
    """Resolve a listed path, relative to each folder of `bases` in turn; None if no such file exists."""
    candidates = (base / text for base in bases)
    return next((path for path in candidates if os.path.exists(path)), None)
