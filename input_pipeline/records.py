"""Random access to the examples of a prepared split, in the TFRecord files that TFDS writes.

A record consists of 8 bytes of length, 4 of checksum, the data, and 4 of checksum. With an index of the records' offsets, an
epoch can be any permutation and a run can resume anywhere, without skipping through files or filling a shuffle buffer. Both
checksums are verified on every read.
"""

import contextlib
import errno
import functools
import hashlib
import io
import os
import struct
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from etils import epath

from input_pipeline._tensorflow import tf, tfds
from timesformer_jax._typing import Int, ndarray
from timesformer_jax.atomic_write import replacing
from timesformer_jax.datasets.tfrecords import FOOTER_BYTES, HEADER_BYTES, header_of, masked_crc
from timesformer_jax.errors import InputError, first_line
from timesformer_jax.state_files import reading, refuse

try:
    import resource
except ImportError:  # Windows
    resource = None

OPEN_FILES = 256
"""Largest number of a split's files to keep open, since a large data set has more files than a process may open."""
SHARE_OF_FILES = 4
"""A split keeps open at most 1 / `SHARE_OF_FILES` of the files that the process may open (`ulimit -n`)."""
DIGEST_BYTES = 16

Places = Int[ndarray, "examples 2"]
"""(begin, length) of each record's data in its file, in bytes."""


def index_path(folder: str, split: str) -> epath.Path:
    """Return the path of a split's index of records, next to the records."""
    return epath.Path(folder) / f"{split}.records.npy"


def save_index(folder: str, split: str, places: Iterable[Places]) -> str:
    """Save an index of the records' places, followed by its digest, so that files need not be scanned again.

    Returns:
        The records' `fingerprint`.
    """
    rows = [np.concatenate([np.full((len(part), 1), file), part], axis=1) for file, part in enumerate(places)]
    content = io.BytesIO()
    index = np.concatenate(rows) if rows else np.zeros((0, 3), np.int64)
    np.save(content, index)
    with replacing(index_path(folder, split), f".{os.getpid()}.part") as part:
        part.write_bytes(content.getvalue() + _digest(content.getvalue()))
    return _fingerprint(index)


def _fingerprint(index: np.ndarray) -> str:
    return hashlib.blake2b(np.ascontiguousarray(index, np.int64).tobytes(), digest_size=16).hexdigest()


def _digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=DIGEST_BYTES).digest()


def read_index(content: bytes) -> Int[ndarray, "examples 3"] | None:
    """Parse an index into rows of (file, begin, length), one per record; returns None if it is damaged.

    Older versions wrote no digest. Their damage shows in records that aren't contiguous.
    """
    file = io.BytesIO(content)
    try:
        index = np.load(file, allow_pickle=False)
    except Exception:  # a damaged header can raise anything; the index is rebuilt
        return None
    end = file.tell()
    if index.ndim != 2 or index.shape[1] != 3 or index.dtype != np.int64 or content[end:] not in (b"", _digest(content[:end])):
        return None
    files, begins, lengths = index.T
    follows = np.concatenate([[HEADER_BYTES], begins[:-1] + lengths[:-1] + FOOTER_BYTES + HEADER_BYTES])[: len(index)]
    follows = np.where(np.diff(files, prepend=-1) == 0, follows, HEADER_BYTES)
    ascending = bool((np.diff(files, prepend=0) >= 0).all())
    return index if ascending and bool((lengths >= 0).all()) and np.array_equal(begins, follows) else None


class _OpenFile:
    """A file that stays open as long as this object is referenced."""

    def __init__(self, path: str):
        self._descriptor: int | None = None  # for `__del__`, if opening fails
        self._descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))

    def read(self, begin: int, length: int) -> bytes:
        assert self._descriptor is not None
        return os.pread(self._descriptor, length, begin)

    def __del__(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)


class _RemoteFile:
    """A file in a bucket."""

    def __init__(self, path: str):
        self._path = path

    def read(self, begin: int, length: int) -> bytes:
        with tf.io.gfile.GFile(self._path, "rb") as file:
            file.seek(begin)
            return file.read(length)


def most_open_files() -> int:
    """Return the number of files that a split may keep open in this process."""
    if resource is None:
        return OPEN_FILES
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return OPEN_FILES if limit == resource.RLIM_INFINITY else max(1, min(OPEN_FILES, limit // SHARE_OF_FILES))


class Records:
    """Records of one split as a sequence of parsed `tf.train.Example`s; can be shared between threads.

    Args:
        builder: Builder of the prepared data.
        split: Name of the split.

    Raises:
        InputError: Here or on access, if a checksum doesn't match, a file is shorter than its index implies, the number of
            records differs from that of the split, or a file can't be read.
    """

    def __init__(self, builder: tfds.core.DatasetBuilder, split: str):
        info: Any = builder.info.splits[split]
        self._files = [os.fspath(path) for path in info.filepaths]
        self._remedy = _remedy(builder.data_path)
        self._opened = functools.lru_cache(maxsize=most_open_files())(self._open)
        self._where: Int[ndarray, "examples 3"] = self._index(builder.data_path, split, info.num_examples)

    def __len__(self) -> int:
        return len(self._where)

    @property
    def fingerprint(self) -> str:
        """Hash of the records' places and lengths, which distinguishes data sets with high probability."""
        return _fingerprint(self._where)

    def __getitem__(self, number: int) -> Any:
        return tf.train.Example.FromString(self.read(number))

    def read(self, number: int) -> bytes:
        """Read a record's data and verify its checksums."""
        file, begin, length = self._where[number].tolist()
        path = self._files[file]
        with _reading(path):
            opened = self._opened(file)
            header = opened.read(begin - HEADER_BYTES, HEADER_BYTES)
            data = opened.read(begin, length)
            footer = opened.read(begin + length, FOOTER_BYTES)
        if len(footer) < FOOTER_BYTES:
            refuse(path, f"it ends in the middle of record {number}", self._remedy)
        if header != header_of(length) or footer != struct.pack("<I", masked_crc(data)):
            refuse(path, f"record {number}, at byte {begin}, doesn't match its checksum", self._remedy)
        return data

    def _open(self, file: int) -> _OpenFile | _RemoteFile:
        path = self._files[file]
        if "://" in path:
            return _RemoteFile(path)
        try:
            return _OpenFile(path)
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE):
                raise
            self._opened.cache_clear()  # other code has used up the process's limit on open files
            return _OpenFile(path)

    def _index(self, folder: Any, split: str, num_examples: int) -> np.ndarray:
        path = index_path(folder, split)
        if path.exists():
            with _reading(path):
                content = path.read_bytes()
            index = read_index(content)
            if index is not None and len(index) == num_examples and index[:, 0].max(initial=0) < max(len(self._files), 1):
                return index
        places = [_scan(file, self._remedy) for file in self._files]
        if (found := sum(map(len, places))) != num_examples:
            raise InputError(
                f"The prepared data of {folder} are damaged (expected {num_examples} records of the split '{split}', got "
                f"{found}): {self._remedy}."
            )
        with contextlib.suppress(OSError):  # a read-only folder: the index is rebuilt next time
            save_index(folder, split, places)
        return np.concatenate([np.insert(part, 0, file, axis=1) for file, part in enumerate(places)])


def _remedy(folder: Any) -> str:
    return f"delete {folder} to prepare the data again"


@contextlib.contextmanager
def _reading(path: Any) -> Any:
    """Convert errors as `reading` does, including TensorFlow's for files in buckets."""
    try:
        with reading(path):
            yield
    except tf.errors.OpError as error:
        raise InputError(f"Can't read {path}: {first_line(error)}.") from error


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
        """Hash of the records and of the selected numbers."""
        return hashlib.blake2b(f"{self._records.fingerprint} {list(self._numbers)}".encode(), digest_size=16).hexdigest()


def _scan(path: str, remedy: str) -> Places:
    """Find the places of a file's records by following their lengths."""
    places, begin = [], 0
    with _reading(path), tf.io.gfile.GFile(path, "rb") as file:
        size = file.size()
        while begin + HEADER_BYTES <= size:
            file.seek(begin)
            header = file.read(HEADER_BYTES)
            (length,) = struct.unpack("<Q", header[:8])
            if header != header_of(length):
                refuse(path, f"the length of record {len(places)} doesn't match its checksum", remedy)
            places.append((begin + HEADER_BYTES, length))
            begin += HEADER_BYTES + length + FOOTER_BYTES
    if begin != size:
        refuse(path, f"it ends in the middle of record {max(len(places) - 1, 0)}", remedy)
    return np.array(places, np.int64).reshape(-1, 2)
