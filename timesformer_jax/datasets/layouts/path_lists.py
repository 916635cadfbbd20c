"""Lists without a header and with `path label` per line, as used by the official code and many others."""

import csv
from pathlib import Path
from typing import NamedTuple

from timesformer_jax.datasets.layouts.lists import read_lines
from timesformer_jax.errors import InputError
from timesformer_jax.video.files import VIDEO_SUFFIXES


class ListedPath(NamedTuple):
    """A line of a list."""

    line: int
    """Line number."""
    path: str
    """Path of the video as listed."""
    label: str
    """Number or name of the label."""


def read_path_list(file: Path) -> tuple[list[ListedPath], bool]:
    """Return the videos of a list, and whether their labels are numbers.

    The last space, comma or tab of a line separates path and label, so the path may contain more of them. If the separator is
    a comma or tab, the label may be a name, and both may be quoted.

    Raises `InputError` for a line in another format, or in a different one than the first line.
    """
    lines = read_lines(file)
    if not lines:
        raise InputError(f"{file}: expected a path and a label in each line, got an empty file.")
    separator = _separator(lines[0][1])
    rows = [ListedPath(number, *_split(line, separator, file, number)) for number, line in lines]
    numbered = [_is_number(row.label) for row in rows]
    names = separator != " " and not any(numbered)
    for row, is_number in zip(rows, numbered, strict=True):
        if not row.path or not row.label or not (is_number or names):
            wanted = "a path, a comma or tab, and a label" if names else "a path and the number of its label"
            raise InputError(f"{file}, line {row.line}: expected {wanted}, got {dict(lines)[row.line]!r}.")
    return rows, not names


def _separator(first: str) -> str:
    """Detect the separator between path and label from the first line."""
    if "\t" in first:
        return "\t"
    head, _, tail = first.rpartition(",")
    # Label names may contain spaces and numbers, and paths may contain commas.
    if _is_number(tail) or Path(head.strip('" ')).suffix.lower() in VIDEO_SUFFIXES:
        return ","
    return "," if head and not _is_number(first.rpartition(" ")[2]) else " "


def _split(line: str, separator: str, file: Path, number: int) -> tuple[str, str]:
    if separator == " ":
        path, _, label = line.rpartition(" ")
        return path.strip(), label
    try:
        cells = next(csv.reader([line], delimiter=separator, strict=True))
    except csv.Error as error:
        raise InputError(f"{file}, line {number}: expected a path and a label, but {error}.") from error
    return separator.join(cells[:-1]).strip(), cells[-1].strip()


def _is_number(text: str) -> bool:
    return text.strip().isascii() and text.strip().isdigit()
