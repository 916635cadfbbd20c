"""Small state files, JSON and arrays, that are verified when they are read.

JSON written by this project has a `digest` of all other entries. Files of older versions without a digest can be read; their
damage is detected only if it breaks the JSON or a field's type.
"""

import contextlib
import errno
import hashlib
import json
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NoReturn

import numpy as np

from timesformer_jax.atomic_write import write_whole
from timesformer_jax.errors import InputError, first_line
from timesformer_jax.printable import to_json

DIGEST = "digest"
"""Key of the digest in a JSON file."""

_LOST = "is its disk, or the network's, still mounted?"
HINTS = {
    errno.EMFILE: "this process may not open more files; raise the limit with `ulimit -n`",
    errno.ENFILE: "this machine may not open more files; close other programs, or raise fs.file-max",
    errno.EIO: "the disk or its connection has failed; the file itself may be fine",
    errno.ENOENT: _LOST,
    errno.ESTALE: _LOST,
    errno.ENOTCONN: _LOST,
    errno.ENODEV: _LOST,
}
"""Maps the `errno` of a failed read to advice."""


class DamagedFileError(InputError):
    """Raised if the content of a file is not what was written."""


def describe_os_error(error: OSError) -> str:
    """Describe a failed read, with advice if there is any; without a full stop."""
    hint = HINTS.get(error.errno or 0)
    return f"{error.strerror or first_line(error)}{f': {hint}' if hint else ''}"


@contextlib.contextmanager
def reading(path: Any) -> Iterator[None]:
    """Turn an `OSError` of the block into an `InputError` that names the file: a failed read is not damage."""
    try:
        yield
    except OSError as error:
        raise InputError(f"Can't read {path}: {describe_os_error(error)}.") from error


def digest_of(content: bytes) -> str:
    """Digest of a state file's content."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def sealed(value: Mapping[str, Any]) -> dict[str, Any]:
    """Add the digest of the JSON object `value` as its last entry."""
    plain = json.loads(json.dumps({name: each for name, each in value.items() if name != DIGEST}))
    return {**plain, DIGEST: digest_of(_canonical(plain))}


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _is_digest_of_rest(value: Mapping[str, Any]) -> bool:
    """Return True if the last entry is the digest of the others, under a damaged name."""
    *names, last = value or [DIGEST]
    return bool(names) and value[last] == digest_of(_canonical({name: value[name] for name in names}))


def write_json(path: Any, value: Mapping[str, Any], *, indent: int | None = 2) -> None:
    """Write a JSON object with its digest atomically."""
    write_whole(path, to_json(sealed(value), indent=indent) + "\n")


def read_json(path: Any, *, remedy: str, fields: Mapping[str, type] | None = None) -> dict[str, Any]:
    """Read the JSON object in a file and verify its digest, which is removed.

    Args:
        path: A `pathlib.Path` or `epath.Path`.
        remedy: Remedy for a damaged file, as the end of a sentence: "evaluate again".
        fields: Maps required keys to the types of their values.

    Raises:
        DamagedFileError: If the content is not a JSON object, doesn't match its digest, or lacks a field.
        InputError: If the file can't be read.
    """
    with reading(path):
        content = path.read_bytes()
    return parse_json(content, path, remedy=remedy, fields=fields)


def parse_json(
    content: bytes, path: Any, *, remedy: str, fields: Mapping[str, type] | None = None, digest: bool = True
) -> dict[str, Any]:
    """Parse the bytes of a file as `read_json` does.

    Args:
        content: Bytes of the file.
        path: Path of the file, for errors.
        remedy: As in `read_json`.
        fields: As in `read_json`.
        digest: False if the digest is stored elsewhere, and an entry named `digest` is ordinary content.

    Raises:
        DamagedFileError: As in `read_json`.
    """
    try:
        value = json.loads(content.decode())
    except (ValueError, RecursionError) as error:
        refuse(path, first_line(error), remedy, error)
    if not isinstance(value, dict):
        refuse(path, "it holds no JSON object", remedy)
    stored = value.pop(DIGEST, None) if digest else None
    if stored is not None and stored != digest_of(_canonical(value)):
        refuse(path, "its content doesn't match its digest", remedy)
    if stored is None and digest and _is_digest_of_rest(value):
        refuse(path, f"its entry {DIGEST!r} has another name", remedy)
    for name, kind in (fields or {}).items():
        if not isinstance(value.get(name), kind):
            refuse(path, f"its entry {name!r} is missing, or not of type {kind.__name__}", remedy)
    return value


def read_arrays(path: Any, *, remedy: str, names: Sequence[str] | None = None) -> dict[str, np.ndarray]:
    """Read all arrays of an .npz, or those of `names`, and verify their checksums.

    Args:
        path: A `pathlib.Path` or `epath.Path`.
        remedy: Remedy for a damaged file, as in `read_json`.
        names: Names of the arrays to read; all by default.

    Raises:
        DamagedFileError: If the content is not what was written, or an array of `names` is missing.
        InputError: If the file can't be read.
    """
    with reading(path), path.open("rb") as file:
        try:
            with zipfile.ZipFile(file) as archive:
                stored = [name.removesuffix(".npy") for name in archive.namelist()]
                return {name: _read_array(archive, name) for name in (names or stored)}
        except Exception as error:  # of many types: from zipfile, NumPy and struct
            if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):  # EINVAL: a negative offset
                raise
            refuse(path, first_line(error), remedy, error)


def _read_array(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    with archive.open(f"{name}.npy") as member:
        array = np.lib.format.read_array(member, allow_pickle=False)
        if member.read(1):  # the checksum is compared at the end of the file, which too small a shape wouldn't reach
            raise ValueError(f"{name} is longer than its shape says")
    return array


def refuse(path: Any, reason: str, remedy: str, cause: BaseException | None = None) -> NoReturn:
    """Raise `DamagedFileError` for a file.

    Args:
        path: The file.
        reason: Damage, as part of a sentence.
        remedy: As in `read_json`.
        cause: Exception that revealed the damage.
    """
    raise DamagedFileError(f"{path} is damaged ({reason}): {remedy}.") from cause
