"""Search for the videos below a folder, with a tally of everything that is skipped."""

import os
import re
from collections import deque
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from timesformer_jax.errors import InputError
from timesformer_jax.os_errors import raise_if_not_the_files
from timesformer_jax.printable import as_utf8, printable
from timesformer_jax.video.files import NOT_VIDEO_SUFFIXES, PICTURE_SUFFIXES, VIDEO_SUFFIXES, holds_text

PROBES = 16
"""Files to open per unknown suffix to see whether they are videos. If most are, the other files count as videos too."""

MAX_PROBES = 256
"""Files with unknown suffixes to open in one folder, over all suffixes."""

EXAMPLES = 3

BROKEN_LINKS = "links that lead nowhere"
HIDDEN = "hidden files or folders"
NO_VIDEO = "files that aren't videos"
NOT_PROBED = f"files with an unknown suffix that weren't opened (at most {PROBES} per suffix are, and {MAX_PROBES} in all)"
SEEN = "linked folders that were read under another path"
CLOSED = "folders that can't be opened"
SPECIAL = "pipes, sockets or devices"
LOOSE = "videos outside any label's folder"
COPIES = "unfinished downloads, backups and previews of videos"
ODD_SUFFIX = "Read as videos despite an unknown suffix"

COPY_SUFFIXES = frozenset({".part", ".crdownload", ".tmp", ".bak", ".lrv"})
"""Suffixes of `COPIES`, next to a final "~". Most of them decode, but they repeat another file or end early."""

SPLIT_LIKE = frozenset({"train", "training", "val", "valid", "validation", "test", "testing"})
"""Folder names of splits: a folder whose labels are all among these holds splits, not labels."""


class Tally:
    """Count of skipped files, and of those in `ODD_SUFFIX`, by kind, with a few examples of each."""

    def __init__(self) -> None:
        self._found: dict[str, tuple[int, list[str]]] = {}

    def add(self, kind: str, name: str) -> None:
        """Count one more of `kind`."""
        count, examples = self._found.get(kind, (0, []))
        if len(examples) < EXAMPLES:
            examples.append(name)
        self._found[kind] = count + 1, examples

    def notes(self, without: Collection[str] = ()) -> tuple[str, ...]:
        """Return a printable line per kind not in `without`: "Skipped links that lead nowhere: 2 (a.mp4, b.mp4)."."""
        found = {kind: found for kind, found in self._found.items() if kind not in without}
        return tuple(
            f"{kind if kind == ODD_SUFFIX else f'Skipped {kind}'}: {count} ({show(examples, count)})."
            for kind, (count, examples) in found.items()
        )


def show(examples: Collection[str], count: int, most: int = EXAMPLES) -> str:
    """Join the first `most` of `count` examples with commas, in printable form."""
    shown = [printable(name) for name in examples][:most]
    return ", ".join(shown) + (", ..." if count > len(shown) else "")


class FolderContents:
    """Files below a folder, found in one walk without decoding any video.

    Links to files and folders are followed. A folder that is reachable by several paths is read once, by a path without links
    if there is one, so the walk ends even if links form a cycle. Hidden files and folders are skipped, except for names made of
    dots alone ("...").

    Files with a suffix in `VIDEO_SUFFIXES` are videos; those with one in `NOT_VIDEO_SUFFIXES` aren't, nor are `COPIES`. For
    every other suffix, the first `PROBES` files are opened.

    Args:
        folder: Folder to walk.
        ignore: Names of direct subfolders to skip.
        frame_folders: Names of folders, at any depth, that count as the frames of one video if they contain an image.
        base: Folder that names are relative to, `folder` by default.

    Attributes:
        videos: Sorted paths of the videos.
        frame_folders: Sorted paths of the folders of images.
        subfolders: Sorted names of the direct subfolders, except for hidden and ignored ones.
        broken_links: Names of broken links that may have been videos.
        skipped: `Tally` of everything else.
    """

    def __init__(
        self,
        folder: Path,
        *,
        ignore: Collection[str] = (),
        frame_folders: Collection[str] = (),
        base: Path | None = None,
    ):
        self._folder, self._ignore, self._names = os.fspath(folder), ignore, frame_folders
        self._prefix = os.path.join(os.fspath(base or folder), "")
        self.skipped = Tally()
        self.broken_links: list[str] = []
        self.subfolders: list[str] = []
        found: list[str] = []
        unknown: dict[str, list[str]] = {}
        self._frames: list[str] = []
        for path in self._files():
            suffix = os.path.splitext(path)[1].lower()
            if suffix in VIDEO_SUFFIXES:
                found.append(path)
            elif suffix in NOT_VIDEO_SUFFIXES:
                self.skipped.add(NO_VIDEO, self.name(path))
            elif suffix in COPY_SUFFIXES or path.endswith("~"):
                self.skipped.add(COPIES, self.name(path))
            else:
                unknown.setdefault(suffix if re.fullmatch(r"\.[a-z0-9]*[a-z][a-z0-9]*", suffix) else "", []).append(path)
        found += self._probe(unknown)
        self.videos = sorted(map(Path, found))
        self.frame_folders = sorted(map(Path, self._frames))
        for name in sorted(self.broken_links):
            self.skipped.add(BROKEN_LINKS, name)

    def name(self, path: str | Path) -> str:
        """Return a path relative to the base, with forward slashes."""
        return os.fspath(path).removeprefix(self._prefix).replace(os.sep, "/")

    def walk_order(self, path: Path) -> list[tuple[bool, str]]:
        """Sort key for the order of a walk: the files of a folder, then its subfolders, each by name."""
        *folders, name = self.name(path).split("/")
        return [*((True, folder) for folder in folders), (False, name)]

    @property
    def notes(self) -> tuple[str, ...]:
        """A line per kind of skipped file."""
        return self.skipped.notes()

    def _files(self) -> Iterator[str]:
        """Yield regular files; folders are entered and everything else is tallied."""
        pending, linked, seen = deque([self._folder]), deque[str](), set()
        while pending or linked:
            where = pending.popleft() if pending else linked.popleft()
            real = os.path.realpath(where)
            if real in seen:
                self.skipped.add(SEEN, self.name(where))
                continue
            seen.add(real)
            try:
                with os.scandir(where) as inside:
                    entries = sorted(inside, key=lambda entry: entry.name)
            except OSError as error:
                raise_if_not_the_files(error, where)
                self.skipped.add(CLOSED, self.name(where))
                continue
            for entry in entries:
                if entry.name in self._ignore and where == self._folder:
                    continue
                if _is_hidden(entry.name):
                    self.skipped.add(HIDDEN, self.name(entry.path))
                elif _is(entry, "is_dir"):
                    if where == self._folder:
                        self.subfolders.append(entry.name)
                    if entry.name in self._names and is_frame_folder(entry.path):
                        self._frames.append(entry.path)
                    else:
                        (linked if entry.is_symlink() else pending).append(entry.path)
                elif _is(entry, "is_file"):
                    yield entry.path
                elif not entry.is_symlink() or os.path.exists(entry.path):
                    self.skipped.add(SPECIAL, self.name(entry.path))
                elif os.path.splitext(entry.name)[1].lower() in NOT_VIDEO_SUFFIXES:
                    self.skipped.add(NO_VIDEO, self.name(entry.path))
                else:
                    self.broken_links.append(self.name(entry.path))

    def _probe(self, unknown: dict[str, list[str]]) -> list[str]:
        """Return the files with unknown suffixes that are videos."""
        videos, opened = [], 0
        for suffix in sorted(unknown):
            paths = sorted(unknown[suffix])
            tried = paths[: min(PROBES, MAX_PROBES - opened)]
            opened += len(tried)
            found = [path for path in tried if _holds_video(path)]
            for path in tried:
                if path not in found:
                    self.skipped.add(NO_VIDEO, self.name(path))
            rest = paths[len(tried) :]
            if 2 * len(found) > len(tried):
                found += rest
            else:
                for path in rest:
                    self.skipped.add(NOT_PROBED, self.name(path))
            videos += found
        return videos


def find_videos(folder: Path) -> list[Path]:
    """List every video file below a folder, sorted: the `videos` of its `FolderContents`."""
    return FolderContents(folder).videos


def labelled_videos(contents: FolderContents, folder: Path) -> list[tuple[Path, str]]:
    """List (file, label) of every video below a label's folder; other videos are counted as skipped.

    Videos with an unknown suffix are counted too, since they may be copies of others.

    Raises:
        InputError: If the names of two folders are the same label once encoded as UTF-8.
    """
    found, folders = [], dict[str, str]()
    for path in contents.videos:
        parts = path.relative_to(folder).parts
        if len(parts) == 1:
            contents.skipped.add(LOOSE, contents.name(path))
            continue
        label = as_utf8(parts[0])
        if folders.setdefault(label, parts[0]) != parts[0]:
            raise InputError(f"Two folders of {folder} give the same label {label!r} when written as UTF-8: rename one.")
        if path.suffix.lower() not in VIDEO_SUFFIXES:
            contents.skipped.add(ODD_SUFFIX, contents.name(path))
        found.append((path, label))
    return found


def is_frame_folder(path: str | Path) -> bool:
    """Return True if a folder directly contains an image."""
    try:
        with os.scandir(path) as inside:
            return any(os.path.splitext(entry.name)[1].lower() in PICTURE_SUFFIXES for entry in inside if entry.name[0] != ".")
    except OSError as error:
        raise_if_not_the_files(error, path)
        return False


def _is_hidden(name: str) -> bool:
    return name.startswith(".") and bool(name.strip("."))


def _is(entry: Any, what: str) -> bool:
    """Call `entry.is_dir()` or `entry.is_file()`; returns False for a link that can't be followed."""
    try:
        return getattr(entry, what)()
    except OSError as error:
        raise_if_not_the_files(error, entry.path)
        return False


def _holds_video(path: str) -> bool:
    """Return True if FFmpeg finds a video stream in a file; text and empty files are never passed to FFmpeg."""
    from timesformer_jax.video.decoding import has_video_stream

    try:
        with open(path, "rb") as file:
            head = file.read(1024)
    except OSError as error:
        raise_if_not_the_files(error, path)
        return False
    return bool(head) and not holds_text(head) and has_video_stream(path)
