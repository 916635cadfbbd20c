"""Reading the files that list a data set: whatever is wrong with one becomes an `InputError` with its name and line."""

import csv
import io
import json
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from timesformer_jax.errors import InputError


def read_text(path: Path) -> str:
    """A file's text, UTF-8 with or without a byte order mark."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"Can't read {path}: {error.strerror}.") from error
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise InputError(f"{path}, line {line}: expected text in UTF-8, got the byte {data[error.start]:#x}.") from error


def read_lines(path: Path) -> list[tuple[int, str]]:
    """(number, line) of every line that isn't blank, whichever way lines end, without spaces at the end."""
    lines = io.StringIO(read_text(path), newline=None)  # `str.splitlines` would break lines at rare letters too
    return [(number, line.rstrip()) for number, line in enumerate(lines, start=1) if line.strip()]


def read_table(path: Path, required: Collection[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """(line, column -> cell) of every row of a csv file with a header; a cell that isn't there is empty.

    Raises `InputError` where a column of `required` is missing, or a row has more cells than the header.
    """
    rows = csv.reader(io.StringIO(read_text(path), newline=""), strict=True, skipinitialspace=True)
    header: list[str] = []
    try:
        for row in rows:
            cells = [cell.strip() for cell in row]
            if not any(cells):
                continue
            if not header:
                header = cells
                break
        if lacking := [name for name in required if name not in header]:
            raise InputError(
                f"{path}, line {max(rows.line_num, 1)}: expected a header with {', '.join(lacking)}, got "
                f"{', '.join(header) or 'nothing'}."
            )
        for row in rows:
            cells = [cell.strip() for cell in row]
            if not any(cells):
                continue
            if any(cells[len(header) :]):
                raise InputError(
                    f"{path}, line {rows.line_num}: expected the {len(header)} cells of the header, got {len(cells)}: write "
                    'cells with commas in them as "a, b".'
                )
            cells += [""] * (len(header) - len(cells))
            yield rows.line_num, dict(zip(header, cells, strict=False))
    except csv.Error as error:
        raise InputError(f"{path}, line {max(rows.line_num, 1)}: expected comma separated cells, but {error}.") from error


def parse_json(text: str, path: Path, first_line: int = 1) -> Any:
    """What a JSON text holds that begins on line `first_line` of a file."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"{path}, line {first_line + error.lineno - 1}: expected JSON, but {error.msg}.") from error
    except RecursionError as error:
        raise InputError(f"{path}: expected a list of videos as JSON, got something nested without end.") from error


def read_records(path: Path, required: Collection[str]) -> list[dict[str, Any]]:
    """A JSON file's list of objects, each with the keys of `required`."""
    value = parse_json(read_text(path), path)
    if not isinstance(value, list):
        raise InputError(f"{path}: expected a list of objects, got {type(value).__name__}.")
    for number, record in enumerate(value, start=1):
        if not isinstance(record, dict):
            raise InputError(f"{path}, entry {number}: expected an object, got {json.dumps(record)}.")
        if lacking := [key for key in required if record.get(key) in (None, "")]:
            raise InputError(f"{path}, entry {number}: expected {', '.join(required)}, but {', '.join(lacking)} is missing.")
    return value


def parse_seconds(text: str, path: Path, line: int) -> float:
    """A time in seconds that isn't negative."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise InputError(f"{path}, line {line}: expected a time in seconds, got {text!r}.")
    return seconds


def parse_span(start: str, end: str, path: Path, line: int) -> tuple[float, float]:
    """The seconds where a piece of a video starts and ends."""
    span = parse_seconds(start, path, line), parse_seconds(end, path, line)
    if span[0] >= span[1]:
        raise InputError(f"{path}, line {line}: expected a piece that ends after its start, got {start} to {end} seconds.")
    return span
