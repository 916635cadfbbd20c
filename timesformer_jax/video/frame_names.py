"""Check by the names of a folder's images that they are the frames of one video."""

import re
from collections.abc import Collection, Sequence
from pathlib import Path

from timesformer_jax.video.limits import UnreadableVideoError

MAX_NAMED = 4
"""Largest number of name patterns, suffixes or folders in a message."""
_NUMBER = re.compile(r"(\d+(?:[-.:]\d+)*)")
"""A number. A second such as 0.25 and a time of day such as 12-30-45 are one number."""


def check_names(folder: Path, images: Sequence[Path]) -> None:
    """Check that there are images, and that their names differ only in their number or that none of them has a number.

    Args:
        folder: The folder.
        images: Its images.

    Raises:
        UnreadableVideoError: If there are no images, several name patterns, or the same number under two suffixes.
    """
    if not images:
        raise UnreadableVideoError(folder, _no_frames(folder))
    if not any(_NUMBER.search(image.stem) for image in images):
        return
    patterns = _patterns(images)
    if len(patterns) > 1:
        raise UnreadableVideoError(
            folder,
            f"expected images whose names differ only in their number, got {_listed(patterns)}; keep the frames of one video "
            "in the folder and move the other images",
        )
    first: dict[str, Path] = {}
    for image in images:
        other = first.setdefault(_NUMBER.sub(lambda number: number[0].lstrip("0"), image.stem), image)
        if other.suffix != image.suffix:
            raise UnreadableVideoError(
                folder,
                f"expected one image per frame, got the same number in {other.name} and {image.name}; keep the frames in one "
                "format and move the others",
            )


def _patterns(images: Sequence[Path]) -> Collection[str]:
    """Return the distinct names of the images with * in place of the frame number, each with the suffix of its first image.

    The frame number is the only number that varies among names with the same text, else the last one.
    """
    alike: dict[tuple[str, ...], list[tuple[list[str], str]]] = {}
    for image in images:
        parts = _NUMBER.split(image.stem)  # text at even places, numbers at odd places
        alike.setdefault(tuple(parts[::2]), []).append((parts, image.suffix))
    patterns: dict[tuple[str, ...], str] = {}
    for text, names in alike.items():
        varying = [place for place in range(1, 2 * len(text) - 1, 2) if len({parts[place] for parts, _ in names}) > 1]
        place = varying[0] if len(varying) == 1 else 2 * len(text) - 3
        for parts, suffix in names:
            starred = parts if len(text) == 1 else [*parts[:place], "*", *parts[place + 1 :]]
            patterns.setdefault(tuple(starred), "".join(starred) + suffix)
    return patterns.values()


def _no_frames(folder: Path) -> str:
    """Return the reason why a folder without images isn't a video."""
    visible = [entry for entry in folder.iterdir() if not entry.name.startswith(".")]
    if not visible:
        return "the folder is empty"
    expected = "expected frames in .jpg, .jpeg or .png"
    files = [entry for entry in visible if not entry.is_dir()]
    if not files:
        return f"{expected}, got only folders ({_listed({entry.name for entry in visible})}); give the path of one of them"
    return f"{expected}, got {_listed({entry.suffix.lower() or 'files without a suffix' for entry in files})}"


def _listed(names: Collection[str]) -> str:
    more = ", ..." if len(names) > MAX_NAMED else ""
    return ", ".join(sorted(names)[:MAX_NAMED]) + more
