"""Custom data sets from two lists of videos: csv with a header, or one JSON object per line."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from timesformer_jax.datasets.alike import DIFFERENCE, find_alike, visible
from timesformer_jax.datasets.entries import Listing
from timesformer_jax.datasets.layouts.columns import check_columns, describe_unread
from timesformer_jax.datasets.layouts.files import check_root, resolve
from timesformer_jax.datasets.layouts.gathering import Gathered
from timesformer_jax.datasets.layouts.lists import parse_json, parse_seconds, parse_span, read_lines, read_table
from timesformer_jax.errors import InputError
from timesformer_jax.labels import read_labels
from timesformer_jax.video.finding import is_frame_folder

FPS = 30.0
"""Frame rate of folders of pictures for which the list has none."""


class Row(NamedTuple):
    """A video of a list."""

    line: int
    """Line number."""
    fields: Mapping[str, str]
    """Column or key -> text."""
    labels: tuple[str, ...]
    """Labels of the video."""


def read_video_list(
    train: str | Path, val: str | Path, *, root: str | Path | None = None, labels: str | Path | None = None
) -> Listing:
    """Read two lists of videos, `.csv` with a header or `.jsonl`.

    The columns, or keys, are:

    - `path`: a file or a folder of pictures.
    - `label`: the label; or `labels` for multi-label data: any number of labels, in csv as `a;b`.
    - `start` and `end` (optional): seconds at which a piece of the video starts and ends.
    - `name` (optional): by default the path, followed by the piece if there is one.
    - `fps` (optional): frame rate of a folder of pictures, 30 by default.

    Whitespace around cells of a csv, and around the labels in them, is removed; labels in `.jsonl` aren't changed. Other
    columns aren't read, which the listing's `notes` mention.

    Args:
        train: The training list.
        val: The validation list.
        root: Folder to which paths are relative; by default the folder of each list.
        labels: File with the names of the classes in order (see `read_labels`). By default the classes are the labels of
            `train`, sorted; if all are numbers, by value.

    Raises:
        InputError: If a list is malformed or has a column that looks like one of these (`start_time`), or if its listing is
            invalid (see `Listing`).
    """
    files = {"train": Path(train), "val": Path(val)}
    if root is not None:
        check_root(Path(root))
    kinds, rows = {}, {}
    unread: list[str] = []
    for split, file in files.items():
        kinds[split], rows[split], columns = _read(file)
        unread += columns
        if kinds[split] != kinds["train"]:
            raise InputError(f"{files['train']} has {kinds['train']} for each video, but {file} has {kinds[split]}.")
    label_names = read_labels(labels) if labels else _sorted({label for row in rows["train"] for label in row.labels})
    known, source = set(label_names), labels or train
    gathered = Gathered()
    for split, file in files.items():
        for row in rows[split]:
            if unknown := [label for label in row.labels if label not in known]:
                alike = find_alike(unknown[0], label_names)
                hint = f" It differs from {visible(alike)} {DIFFERENCE}: rename one." if alike is not None else ""
                raise InputError(f"{file}, line {row.line}: the label {visible(unknown[0])} isn't in {source}.{hint}")
            _add(gathered, split, row, file, Path(root) if root is not None else file.parent)
    return gathered.listing(label_names, several=kinds["train"] == "labels", notes=describe_unread(unread))


def _add(gathered: Gathered, split: str, row: Row, file: Path, root: Path) -> None:
    path, fields = resolve(row.fields["path"], (root,)), row.fields
    span: tuple[float, float] | tuple[None, None] = None, None
    default_name = fields["path"]
    if fields.get("start") or fields.get("end"):
        if not (fields.get("start") and fields.get("end")):
            raise InputError(f"{file}, line {row.line}: expected a start and an end, or neither.")
        span = parse_span(fields["start"], fields["end"], file, row.line)
        default_name += f" {fields['start']}-{fields['end']}"
    fps = parse_seconds(fields["fps"], file, row.line) if fields.get("fps") else FPS
    if not fps:
        raise InputError(f"{file}, line {row.line}: expected fps above 0, got {fields['fps']}.")
    name = fields.get("name") or default_name
    if path and path.is_dir() and not is_frame_folder(path):
        gathered.add_missing(split, name, "there are no pictures in the folder")
    else:
        fps = fps if path and path.is_dir() else None
        gathered.add(split, name, path, *row.labels, start=span[0], end=span[1], fps=fps)


def _sorted(labels: Iterable[str]) -> list[str]:
    labels = sorted(labels)
    return sorted(labels, key=int) if all(label.isdecimal() for label in labels) else labels


def _read(file: Path) -> tuple[str, list[Row], list[str]]:
    """Return "label" or "labels", whichever the videos have, the videos, and the columns that aren't read."""
    readers = {".csv": _read_csv, ".jsonl": _read_jsonl}
    if file.suffix.lower() not in readers:
        raise InputError(f"{file}: expected a list with the suffix .csv or .jsonl.")
    kind, rows, unread = readers[file.suffix.lower()](file)
    for row in rows:
        if not row.fields.get("path"):
            raise InputError(f"{file}, line {row.line}: expected the path of a video, got none.")
        if kind == "label" and len(row.labels) != 1:
            raise InputError(f"{file}, line {row.line}: expected a label, got none.")
    return kind, rows, unread


def _kind(keys: Iterable[str], file: Path, line: int) -> str:
    kinds = [key for key in ("label", "labels") if key in keys]
    if len(kinds) != 1:
        got = "both" if kinds else f"{', '.join(keys) or 'nothing'}"
        raise InputError(f"{file}, line {line}: expected either label or labels in addition to path, got {got}.")
    return kinds[0]


def _read_csv(file: Path) -> tuple[str, list[Row], list[str]]:
    rows = list(read_table(file, ("path",)))
    if not rows:
        raise InputError(f"{file}: expected videos below the header, got none.")
    kind = _kind(rows[0][1], file, 1)
    unread = check_columns(rows[0][1], file, 1)
    found = []
    for line, fields in rows:
        labels = fields[kind].split(";") if kind == "labels" else [fields[kind]]
        found.append(Row(line, fields, tuple(dict.fromkeys(label.strip() for label in labels if label.strip()))))
    return kind, found, unread


def _read_jsonl(file: Path) -> tuple[str, list[Row], list[str]]:
    rows = []
    unread: dict[str, None] = {}
    kind = ""
    for line, text in read_lines(file):
        value = parse_json(text, file, line, unique_keys=True)
        if not isinstance(value, dict):
            raise InputError(f"{file}, line {line}: expected an object with path and label, got {text}.")
        here = _kind(value, file, line)
        kind = kind or here
        if here != kind:
            raise InputError(f"{file}, line {line}: expected {kind}, as in the lines before, got {here}.")
        unread.update(dict.fromkeys(check_columns(value, file, line)))
        given = value[kind] if kind == "labels" else [value[kind]]
        if not isinstance(given, list) or not all(_is_text(label) for label in given):
            raise InputError(f"{file}, line {line}: expected text as {kind}, got {value[kind]!r}.")
        fields = {key: _as_text(value[key]) for key in ("path", "start", "end", "name", "fps") if value.get(key) is not None}
        rows.append(Row(line, fields, tuple(dict.fromkeys(str(label) for label in given if str(label).strip()))))
    if not rows:
        raise InputError(f"{file}: expected a JSON object in each line, got an empty file.")
    return kind, rows, list(unread)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) or type(value) is int  # class numbers are accepted


def _as_text(value: Any) -> str:
    return value.strip() if isinstance(value, str) else str(value)
