"""Class names, from a user's file or from the metadata of the weights."""

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from timesformer_jax.errors import InputError, first_line
from timesformer_jax.printable import as_utf8


def encode_label(numbers: Sequence[int], num_classes: int, *, multi_label: bool) -> np.ndarray:
    """A video's label as the model learns it: int32 `[]`, or float32 `[num_classes]` of zeros and ones if `multi_label`."""
    if not multi_label:
        return np.array(numbers[0], np.int32)
    return np.isin(np.arange(num_classes), numbers).astype(np.float32)


def read_labels(path: str | Path) -> list[str]:
    """Read class names from a file, ordered by class index.

    The format depends on the extension:

    - `.json`: a list of names, `{"0": name, ...}` or `{name: 0, ...}` (like the files of Kinetics and Something-Something).
    - `.csv`: two columns, index and name, with or without a header.
    - Others: one name per line.

    Raises `InputError` if the file can't be read, or the indices are not 0, 1, 2, ...
    """
    path = Path(path).expanduser()
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"Can't read the labels in {path}: {getattr(error, 'strerror', None) or error}.") from error
    if path.suffix.lower() == ".json":
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise InputError(f"Can't read the labels in {path} as JSON: {first_line(error)}.") from error
        if isinstance(value, list) and all(isinstance(name, str) for name in value):
            return [as_utf8(name) for name in value]
        return names_in_order(value, str(path))
    if path.suffix.lower() == ".csv":
        rows = [row for row in csv.reader(text.splitlines()) if row]
        if rows and not any(cell.strip().isdigit() for cell in rows[0]):
            rows = rows[1:]  # a header
        if any(len(row) != 2 for row in rows):
            raise InputError(f"{path} should have two columns, a number and a name.")
        return _in_order([(row[0], row[1]) for row in rows], str(path))
    return [line.strip() for line in text.splitlines() if line.strip()]


def names_in_order(names: Any, source: str) -> list[str]:
    """Return the names in `{index: name}` or `{name: index}`, ordered by index; indices may be strings."""
    if not isinstance(names, Mapping) or not names:
        raise InputError(f"{source} should hold a list of names, or names with their numbers.")
    return _in_order(list(names.items()), source)


def _in_order(pairs: list[tuple[Any, Any]], source: str) -> list[str]:
    if not all(str(key).strip().isdigit() for key, _ in pairs):
        pairs = [(number, name) for name, number in pairs]
    try:
        by_number = {_whole(number): _unquoted(as_utf8(name)) for number, name in pairs}
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{source} should give every name its number, but {first_line(error)[:100]}.") from error
    if sorted(by_number) != list(range(len(pairs))):
        raise InputError(f"{source} should number its {len(pairs)} names from 0 to {len(pairs) - 1}, each once.")
    return [by_number[number] for number in range(len(pairs))]


def _whole(number: Any) -> int:
    if isinstance(number, float) and not number.is_integer():
        raise ValueError(f"{number} is no whole number")
    return int(number)


def _unquoted(name: str) -> str:
    """Strip the quotes that surround names in Kinetics' file; without quotes, surrounding spaces belong to the name."""
    quoted = name.strip()
    return quoted.strip('"') if quoted[:1] == quoted[-1:] == '"' else name


def check_labels(labels: Sequence[str], num_classes: int, source: str) -> tuple[str, ...]:
    """Return the labels as text that UTF-8 can encode. Raises `InputError` if their number differs from `num_classes`."""
    if len(labels) != num_classes:
        raise InputError(f"{source} names {len(labels)} labels, but the model has {num_classes} classes.")
    return tuple(map(as_utf8, labels))
