"""Integrity of weight files: digests in the headers of this project's `.safetensors` files, and CRCs of PyTorch files.

A digest covers the header and all tensors, and is verified whenever the file is read. The two JSON files of a Hugging Face
folder, which users may edit, have their own digests in the header; a difference there is only a warning.
"""

import json
import logging
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from timesformer_jax.digests import ALGORITHM, chunks, digest_bytes, new_digest
from timesformer_jax.errors import InputError

log = logging.getLogger("timesformer_jax")

KEY = f"timesformer_jax.{ALGORITHM}"
"""Metadata entry that holds the digest."""
FILES = f"{KEY}.files"
"""Metadata entry that holds the digests of other files in the folder, as JSON."""
OURS = "timesformer_jax"
"""Entry that marks a PyTorch file as written by this project."""
OPEN = "0" * 16
"""Placeholder with the length of a digest, until the digest is known."""


def open_seal(files: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return metadata entries that `seal` completes once the file is written.

    Args:
        files: Maps names of other files in the folder to their text.
    """
    digests = {name: digest_bytes(text.encode()) for name, text in (files or {}).items()}
    return {KEY: OPEN, **({FILES: json.dumps(digests)} if digests else {})}


def seal(path: Path) -> None:
    """Write the digest of a file into its metadata, which must hold the entries of `open_seal`."""
    digest = _digest(path)
    with path.open("r+b") as file:
        header = file.read(int.from_bytes(file.read(8), "little"))
        file.seek(8 + header.index(f'"{KEY}":"{OPEN}"'.encode()) + len(f'"{KEY}":"'))
        file.write(digest.encode())


def check_seal(path: Path, metadata: Mapping[str, Any]) -> None:
    """Raise `InputError` if a file differs from its digest; warn if other files of its folder were edited."""
    if KEY not in metadata:
        return
    if metadata[KEY] != _digest(path):
        raise InputError(f"{path} is damaged: it differs from the digest in it. Use another copy, or write it again.")
    for name, digest in json.loads(metadata.get(FILES, "{}")).items():
        other = path.parent / Path(name).name
        if other.is_file() and digest_bytes(other.read_bytes()) != digest:
            log.warning("%s has changed since it was written: it was edited, or is damaged.", other)


def check_crcs(path: Path, notes: Mapping[str, Any]) -> None:
    """Compare a PyTorch file with its CRCs: raise `InputError` if this project wrote the file, warn otherwise.

    PyTorch writes CRCs by default but never compares them.

    Args:
        path: A PyTorch file. Files in the format that preceded zip archives have no CRCs and pass.
        notes: Entries of the file other than tensors.
    """
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()
    if damaged is None:
        return
    meta = notes.get("meta")
    if OURS in notes or (isinstance(meta, Mapping) and OURS in meta):
        raise InputError(f"{path} is damaged: {damaged} in it differs from its CRC. Use another copy, or write it again.")
    log.warning("%s is damaged, or was written without CRCs: %s in it differs from its CRC.", path, damaged)


def _digest(path: Path) -> str:
    """Compute the digest of a file's header, excluding the digest itself, and of all tensors."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = file.read(length)
    content = json.loads(header)
    content.get("__metadata__", {}).pop(KEY, None)
    digest = new_digest()
    digest.update(json.dumps(content, sort_keys=True).encode())
    for chunk in chunks(path, 8 + length):
        digest.update(chunk)
    return digest.hexdigest()
