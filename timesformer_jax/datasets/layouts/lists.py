"""Read the files that list a data set; any fault raises an `InputError` with the file and line."""

import csv
import io
import json
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

from timesformer_jax.errors import InputError


def read_text(path: Path) -> str:
    """Read a text file in UTF-8, with or without a byte order mark."""
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
    """Return (number, line) of every line that isn't blank, for any line endings, without trailing whitespace."""
    lines = io.StringIO(read_text(path), newline=None)  # `str.splitlines` would also split at rare separators
    return [(number, line.rstrip()) for number, line in enumerate(lines, start=1) if line.strip()]


def read_table(path: Path, required: Collection[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield (line number, column -> cell) for every row of a csv file with a header; missing cells are empty.

    Raises `InputError` if a column of `required` is missing, two columns have the same name, or a row has more cells than the
    header. Columns without a name may repeat: spreadsheets add them.
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
        if (repeated := find_repeated(name for name in header if name)) is not None:
            raise InputError(
                f"{path}, line {rows.line_num}: expected different columns, got {repeated} twice: rename or remove one."
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


def find_repeated(names: Iterable[str]) -> str | None:
    """Return the first name that occurs a second time, or None."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None


def parse_json(text: str, path: Path, first_line: int = 1, *, unique_keys: bool = False) -> Any:
    """Parse a JSON text that starts at line `first_line` of a file.

    With `unique_keys`, an object that has a key twice is an error; otherwise the last value counts.
    """

    def as_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if (repeated := find_repeated(key for key, _ in pairs)) is not None:
            raise InputError(f"{path}, line {first_line}: expected different keys, got {repeated} twice: remove one.")
        return dict(pairs)

    try:
        return json.loads(text, object_pairs_hook=as_object if unique_keys else None)
    except json.JSONDecodeError as error:
        raise InputError(f"{path}, line {first_line + error.lineno - 1}: expected JSON, but {error.msg}.") from error
    except RecursionError as error:
        raise InputError(f"{path}: expected a list of videos as JSON, but it is nested too deeply.") from error


def read_records(path: Path, required: Collection[str]) -> list[dict[str, Any]]:
    """Read a JSON file that holds a list of objects, each with the keys in `required`."""
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
    """Parse a non-negative time in seconds."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise InputError(f"{path}, line {line}: expected a time in seconds, got {text!r}.")
    return seconds


def parse_span(start: str, end: str, path: Path, line: int) -> tuple[float, float]:
    """Parse the start and end of a piece of a video, in seconds.

    Args:
        start: Text of the start.
        end: Text of the end.
        path: The list, for errors.
        line: Line number, for errors.

    Raises:
        InputError: If either isn't a time, or if the piece doesn't end after its start.
    """
    span = parse_seconds(start, path, line), parse_seconds(end, path, line)
    if span[0] >= span[1]:
        raise InputError(f"{path}, line {line}: expected a piece that ends after its start, got {start} to {end} seconds.")
    return span
