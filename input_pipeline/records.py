"""Any example of a prepared split by its number, read from the TFRecord files that TFDS writes.

A record file is a run of records, each 8 bytes of length, 4 of checksum, the data, 4 of checksum. Knowing where each begins, an
epoch can be any permutation and a run can go on anywhere: nothing has to be read past, and no buffer has to be filled.
"""

import contextlib
import functools
import hashlib
import mmap
import os
import struct
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from etils import epath

from input_pipeline._tensorflow import tf, tfds
from timesformer_jax._typing import Int, ndarray
from timesformer_jax.atomic_write import replacing
from timesformer_jax.errors import InputError

HEADER_BYTES, FOOTER_BYTES = 12, 4
OPEN_FILES = 256
"""A large data set has more files than a process may hold open."""

Places = Int[ndarray, "examples 2"]
"""Where each record's data begin in its file, and how long they are."""


def index_path(folder: str, split: str) -> epath.Path:
    """Where the places of a split's records are kept, beside the records."""
    return epath.Path(folder) / f"{split}.records.npy"


def save_index(folder: str, split: str, places: Iterable[Places]) -> None:
    """Keeps the places of every file's records, so that nobody has to look for them again."""
    rows = [np.concatenate([np.full((len(part), 1), file), part], axis=1) for file, part in enumerate(places)]
    path = index_path(folder, split)
    with replacing(path, f".{os.getpid()}.part") as part, part.open("wb") as file:
        np.save(file, np.concatenate(rows) if rows else np.zeros((0, 3), np.int64))


class Records:
    """The records of one split: `len(records)`, `records[i]` is a parsed `tf.train.Example`. Threads may share it.

    Raises `InputError` for files that are shorter than their index says, or hold another number of records than the split.
    """

    def __init__(self, builder: tfds.core.DatasetBuilder, split: str):
        info: Any = builder.info.splits[split]
        self._files = [os.fspath(path) for path in info.filepaths]
        self._mapped = functools.lru_cache(maxsize=OPEN_FILES)(self._map)
        self._where: Int[ndarray, "examples 3"] = self._index(builder.data_path, split, info.num_examples)

    def __len__(self) -> int:
        return len(self._where)

    @property
    def fingerprint(self) -> str:
        """Of the records' places and lengths: other data have another one, but for a rare accident."""
        return hashlib.blake2b(np.ascontiguousarray(self._where, np.int64).tobytes(), digest_size=16).hexdigest()

    def __getitem__(self, number: int) -> Any:
        file, begin, length = self._where[number].tolist()
        data = self._read(file, begin, length)
        if len(data) != length:
            raise InputError(f"{self._files[file]} ends in the middle of a record: prepare the data set again.")
        return tf.train.Example.FromString(data)

    def _read(self, file: int, begin: int, length: int) -> Any:
        path = self._files[file]
        if "://" in path:
            with tf.io.gfile.GFile(path, "rb") as remote:
                remote.seek(begin)
                return remote.read(length)
        return memoryview(self._mapped(file))[begin : begin + length]

    def _map(self, file: int) -> mmap.mmap:
        with open(self._files[file], "rb") as local:
            return mmap.mmap(local.fileno(), 0, access=mmap.ACCESS_READ)

    def _index(self, folder: Any, split: str, num_examples: int) -> np.ndarray:
        path = index_path(folder, split)
        if path.exists():
            with contextlib.suppress(EOFError, ValueError), path.open("rb") as file:  # a damaged one is as good as none
                index = np.load(file)
                if index.shape == (num_examples, 3):
                    return index
        places = [_scan(file) for file in self._files]
        if (found := sum(map(len, places))) != num_examples:
            raise InputError(
                f"The prepared data of {folder} are damaged (expected {num_examples} records of the split '{split}', got "
                f"{found}): prepare them again."
            )
        with contextlib.suppress(OSError):  # someone else's folder: it is made again next time
            save_index(folder, split, places)
        return np.concatenate([np.insert(part, 0, file, axis=1) for file, part in enumerate(places)])


class Selection:
    """Some records of a split, numbered from 0."""

    def __init__(self, records: Records, numbers: Sequence[int]):
        self._records, self._numbers = records, numbers

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, number: int) -> Any:
        return self._records[self._numbers[number]]

    @property
    def fingerprint(self) -> str:
        """Of the records and of which they are."""
        return hashlib.blake2b(f"{self._records.fingerprint} {list(self._numbers)}".encode(), digest_size=16).hexdigest()


def _scan(path: str) -> Places:
    """Where the records of a file are, by going from one length to the next."""
    places, begin = [], 0
    with tf.io.gfile.GFile(path, "rb") as file:
        size = file.size()
        while begin + HEADER_BYTES <= size:
            file.seek(begin)
            (length,) = struct.unpack("<Q", file.read(8))
            places.append((begin + HEADER_BYTES, length))
            begin += HEADER_BYTES + length + FOOTER_BYTES
    if begin != size:
        raise InputError(f"{path} ends in the middle of a record: prepare the data set again.")
    return np.array(places, np.int64).reshape(-1, 2)
