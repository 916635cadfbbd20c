"""A digest in the header of the `.safetensors` files that this project writes, compared when one is read; CRCs of `.pyth`.

It covers the header and all tensors. The two JSON files of a Hugging Face folder, which people edit, have digests beside it: a
difference there is a warning.
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
"""Entry of a file's metadata with its digest."""
FILES = f"{KEY}.files"
"""Entry with the digests of further files in the folder, as JSON."""
OURS = "timesformer_jax"
"""Entry of a PyTorch file that this project wrote."""
OPEN = "0" * 16
"""What stands there until the digest is known."""


def open_seal(files: Mapping[str, str] | None = None) -> dict[str, str]:
    """Entries of a file's metadata, for `seal` to complete.

    Args:
      files: text of each further file in the folder, by name.
    """
    digests = {name: digest_bytes(text.encode()) for name, text in (files or {}).items()}
    return {KEY: OPEN, **({FILES: json.dumps(digests)} if digests else {})}


def seal(path: Path) -> None:
    """Enter the digest of a file that was written with `open_seal` in its metadata."""
    digest = _digest(path)
    with path.open("r+b") as file:
        header = file.read(int.from_bytes(file.read(8), "little"))
        file.seek(8 + header.index(f'"{KEY}":"{OPEN}"'.encode()) + len(f'"{KEY}":"'))
        file.write(digest.encode())


def check_seal(path: Path, metadata: Mapping[str, Any]) -> None:
    """Raise `InputError` if a file has a digest and isn't what was written; warn of edited files in its folder."""
    if KEY not in metadata:
        return
    if metadata[KEY] != _digest(path):
        raise InputError(f"{path} is damaged: it differs from the digest in it. Use a copy of it, or write it anew.")
    for name, digest in json.loads(metadata.get(FILES, "{}")).items():
        other = path.parent / Path(name).name
        if other.is_file() and digest_bytes(other.read_bytes()) != digest:
            log.warning("%s isn't as it was written: it was edited, or is damaged.", other)


def check_crcs(path: Path, notes: Mapping[str, Any]) -> None:
    """Raise `InputError` if an entry of a PyTorch file that this project wrote differs from its CRC; warn of others' files.

    PyTorch writes these CRCs, unless it is told not to, and doesn't compare them.

    Args:
      path: the file; one of PyTorch's format from before zip archives has no CRC.
      notes: its entries besides the tensors.
    """
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()
    if damaged is None:
        return
    meta = notes.get("meta")
    if OURS in notes or (isinstance(meta, Mapping) and OURS in meta):
        raise InputError(f"{path} is damaged: {damaged} in it differs from its CRC. Use a copy of it, or write it anew.")
    log.warning("%s is damaged, or was written without CRCs: %s in it differs from its CRC.", path, damaged)


def _digest(path: Path) -> str:
    """Of a file's header, without the digest in it, and of all that follows."""
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
