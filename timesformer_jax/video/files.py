"""Which files of a folder are videos."""

import os
from pathlib import Path

VIDEO_SUFFIXES = frozenset(
    {".3gp", ".avi", ".flv", ".gif", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ogv", ".ts", ".vob"}
    | {".webm", ".wmv"}
)
"""Files with another ending, and hidden files, are none of ours."""

PICTURE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png"})
"""Frames of a video that is kept as a folder of pictures."""


def printable(name: str) -> str:
    """A file's name as text, also where its bytes aren't any."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def find_videos(folder: Path) -> list[Path]:
    """Every video file in a folder or deeper, sorted; links are followed, hidden folders and links that lead back are not."""
    found, seen = [], set()
    for where, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(where)
        folders[:] = [name for name in sorted(folders) if not name.startswith(".") and real not in seen]
        seen.add(real)
        paths = [Path(where) / name for name in names if not name.startswith(".")]
        found += [path for path in paths if path.suffix.lower() in VIDEO_SUFFIXES and path.is_file()]
    return sorted(found)
