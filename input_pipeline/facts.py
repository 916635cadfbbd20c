"""Facts of a prepared split's records that are available without reading them: name, labels, number of frames, rate and sizes.

They are stored in SPLIT.facts.npz next to the records. Data prepared by older versions or by Beam lack this file; it is created
on first use, which reads all records once.
"""

import contextlib
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from timesformer_jax.atomic_write import write_whole
from timesformer_jax.datasets.storing import FRAMES, NUM_FRAMES, Facts
from timesformer_jax.progress import Progress
from timesformer_jax.state_files import digest_of, reading

RECORDS = "records"
"""Name of the array with the fingerprint of the records that the facts describe."""
DIGEST_LENGTH = len(digest_of(b""))


class SplitFacts:
    """Facts of a split's records as columns.

    Args:
        columns: Maps each name to the concatenated values of all records, and the end of each record's values among them.
    """

    def __init__(self, columns: Mapping[str, tuple[np.ndarray, np.ndarray]]):
        self._columns = columns

    def __contains__(self, name: str) -> bool:
        return name in self._columns

    def lists(self, name: str) -> list[list[Any]]:
        """Return the list of values of each record, for facts such as `labels`."""
        values, ends = self._columns[name]
        return [values[begin:end].tolist() for begin, end in zip([0, *ends[:-1].tolist()], ends.tolist(), strict=True)]

    def scalars(self, name: str) -> np.ndarray:
        """Return the single value of each record: numbers, or text as objects."""
        return self._columns[name][0]


def facts_path(folder: Any, split: str) -> epath.Path:
    """Return the path of a split's facts, next to the records."""
    return epath.Path(folder) / f"{split}.facts.npz"


def make_facts(rows: Iterable[Facts]) -> SplitFacts:
    """Collect the facts of each record into columns."""
    values: dict[str, list[Any]] = {}
    counts: dict[str, list[int]] = {}
    for row in rows:
        for name, found in row.items():
            values.setdefault(name, []).extend(found)
            counts.setdefault(name, []).append(len(found))
    return SplitFacts(
        {name: (_array(found), np.cumsum(counts[name], dtype=np.int64)) for name, found in sorted(values.items())}
    )


def _array(values: list[Any]) -> np.ndarray:
    kind = {str: object, float: np.float32}.get(type(values[0]), np.int64) if values else np.int64
    return np.array(values, kind)


def save_facts(folder: Any, split: str, facts: SplitFacts, fingerprint: str) -> None:
    """Write the facts of a split.

    Text is stored as one array of UTF-8 bytes and an array of ends. A digest of everything follows the arrays.

    Args:
        folder: Folder of the prepared data.
        split: Name of the split.
        facts: Facts of the split's records.
        fingerprint: Fingerprint of these records.
    """
    arrays: dict[str, np.ndarray] = {RECORDS: np.frombuffer(fingerprint.encode(), np.uint8)}
    for name, (values, ends) in facts._columns.items():
        arrays[f"{name}.ends"] = ends
        if values.dtype == object:
            encoded = [text.encode() for text in values]
            arrays[f"{name}.text"] = np.frombuffer(b"".join(encoded), np.uint8)
            arrays[f"{name}.text_ends"] = np.cumsum([len(text) for text in encoded], dtype=np.int64)
        else:
            arrays[f"{name}.values"] = values
    content = io.BytesIO()
    np.savez(content, **arrays)  # pyright: ignore[reportArgumentType]
    write_whole(facts_path(folder, split), content.getvalue() + digest_of(content.getvalue()).encode())


def read_facts(folder: Any, split: str, fingerprint: str) -> SplitFacts | None:
    """Read the facts of a split; returns None if they are missing, damaged or of records with another fingerprint."""
    path = facts_path(folder, split)
    if not path.exists():
        return None
    with reading(path):
        content = path.read_bytes()
    content, digest = content[:-DIGEST_LENGTH], content[-DIGEST_LENGTH:]
    if digest != digest_of(content).encode():
        return None
    with np.load(io.BytesIO(content), allow_pickle=False) as file:
        arrays = dict(file)
    if arrays.pop(RECORDS).tobytes() != fingerprint.encode():
        return None
    names = [name.removesuffix(".ends") for name in arrays if name.endswith(".ends")]
    return SplitFacts({name: (_values(arrays, name), arrays[f"{name}.ends"]) for name in names})


def _values(arrays: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    if f"{name}.text" not in arrays:
        return arrays[f"{name}.values"]
    blob, ends = arrays[f"{name}.text"].tobytes(), arrays[f"{name}.text_ends"].tolist()
    return np.array([blob[begin:end].decode() for begin, end in zip([0, *ends[:-1]], ends, strict=True)], object)


def facts_of_split(folder: Any, split: str, records: Any) -> SplitFacts:
    """Read the facts next to `records`, or make them from the records and save them."""
    found = read_facts(folder, split, records.fingerprint)
    if found is None:
        found = make_facts(_read(records, f"Names and frame counts of '{split}', which are read once"))
        with contextlib.suppress(OSError):  # a read-only folder: the facts are collected again next time
            save_facts(folder, split, found, records.fingerprint)
    return found


def _read(records: Sequence[Any], title: str) -> Iterable[Facts]:
    with Progress(len(records), title) as progress:
        for number in range(len(records)):
            yield facts_of_example(records[number])
            progress.update()


def facts_of_example(example: Any) -> Facts:
    """Return the facts of a parsed `tf.train.Example`."""
    facts: Facts = {}
    for name, feature in example.features.feature.items():
        values = getattr(feature, feature.WhichOneof("kind") or "int64_list").value
        if name == FRAMES:
            facts[NUM_FRAMES] = [len(values)]
        else:
            facts[name] = [value.decode(errors="replace") if isinstance(value, bytes) else value for value in values]
    return facts
