"""Digests of files, written with a checkpoint and compared when it is read.

A checkpoint's folder contains `digests.json` with the XXH3 of every file. The checkpoint's metadata record its existence: a
missing `digests.json` counts as damage, while checkpoints from before digests load with a warning.
"""

import json
import logging
import os
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from timesformer_jax.errors import InputError
from timesformer_jax.extras import needs
from timesformer_jax.os_errors import sentence

log = logging.getLogger("timesformer_jax")

FILE = "digests.json"
ALGORITHM = "xxh3_64"
NOTE = {"digests": ALGORITHM}
"""Entry of a checkpoint's metadata about its digests."""
MARK = "_CHECKPOINT_METADATA"
"""File that every Orbax folder has."""
WRITTEN_LAST = "commit_success.txt"
"""Orbax's empty marker file, written after the digests."""
UNFINISHED = ".orbax-checkpoint-tmp"
"""Suffix that Orbax adds to the names of folders that it is still writing."""
COMMIT_TIME = "commit_timestamp_nsecs"
"""The only entry of `MARK` that Orbax changes after the digests; nothing reads it."""
METADATA_SECONDS = 600.0
"""Longest wait for the metadata of an otherwise written checkpoint, in seconds."""
CHUNK = 1 << 18
"""Bytes per read: small enough to stay in the processor's cache until they are digested."""


def new_digest() -> Any:
    """Return an empty XXH3 hash object."""
    with needs("xxhash", "Comparing files with their digests"):
        import xxhash
    return xxhash.xxh3_64()


def digest_bytes(content: bytes) -> str:
    """XXH3 of bytes as hexadecimal digits."""
    digest = new_digest()
    digest.update(content)
    return digest.hexdigest()


def digest_file(path: Any) -> str:
    """XXH3 of a file as hexadecimal digits; for a checkpoint's metadata, of their values."""
    if path.name == MARK:
        return _digest_metadata(path)
    digest = new_digest()
    for chunk in chunks(path):
        digest.update(chunk)
    return digest.hexdigest()


def chunks(path: Any, start: int = 0) -> Iterator[memoryview]:
    """Yield a file's bytes from `start` on, in chunks that share one buffer."""
    buffer = bytearray(CHUNK)
    view = memoryview(buffer)
    with open(path, "rb", buffering=0) if "://" not in str(path) else path.open("rb") as file:
        file.seek(start)
        while count := file.readinto(buffer):
            yield view[:count]


def note_own_digests(folder: Any, process: int) -> None:
    """Write the digests of the files that this process has written, for `write_digests`.

    Args:
        folder: An `epath.Path` to a checkpoint that all processes have written and that isn't committed yet.
        process: Index of this process.
    """
    own = {name: path for name, path in _files(folder).items() if _writer(name) == process}
    (folder / _part(process)).write_text(json.dumps(_digests(own)))


def write_digests(folder: Any) -> None:
    """Write `digests.json` into a checkpoint's folder before it is committed; only one process must call it.

    Digests from `note_own_digests` are reused; all other files are read.
    """
    files, known = _files(folder), {}
    for part in [path for name, path in files.items() if name.startswith(f"{FILE}.")]:
        # Folders of entries are renamed once all processes have written.
        known |= {name.replace(UNFINISHED, "", 1): digest for name, digest in json.loads(part.read_text()).items()}
        part.unlink()
        del files[part.name]
    digests = {name: known.get(name) or digest_file(path) for name, path in files.items()}
    content = {"algorithm": ALGORITHM, "files": dict(sorted(digests.items()))}
    (folder / FILE).write_text(json.dumps({**content, "digest": _digest_of_values(content)}, indent=1) + "\n")


def wait_for_metadata(folder: Any) -> None:
    """Wait for the metadata with `NOTE`, which Orbax writes in a separate thread that the commit doesn't wait for.

    A digest of the earlier contents would make an intact checkpoint look damaged.
    """
    path = folder / MARK
    until = time.monotonic() + METADATA_SECONDS
    while time.monotonic() < until:
        try:
            content = json.loads(path.read_bytes())
            if "digests" in content["custom_metadata"]:
                return
        except (FileNotFoundError, ValueError, KeyError, TypeError):  # missing or half-written
            pass
        time.sleep(0.01)
    raise InputError(f"{path} was not written within {METADATA_SECONDS:.0f} seconds.")


def find_damage(folder: Any, entries: Iterable[str] | None = (), share: tuple[int, int] = (0, 1)) -> str | None:
    """Compare a checkpoint's files with their digests.

    Checkpoints from before digests can't be compared: they count as intact, with one warning.

    Args:
        folder: A `pathlib.Path` or `epath.Path` to the checkpoint.
        entries: Names of the entries (folders) to compare; None for all. Metadata and metrics are always compared.
        share: Index of this process and number of processes that divide the files among them. Each compares all small files.

    Returns:
        The damage, as part of a sentence; None if the checkpoint is intact.

    Raises:
        InputError: If a file can't be read at the moment, which says nothing about the checkpoint.
    """
    try:
        listed = _listed(folder)
        if listed is None:
            return None
        wanted = [name for name in listed if "/" not in name or entries is None or name.split("/")[0] in {*entries, "metrics"}]
        mine = [name for number, name in enumerate(wanted) if "/" not in name or number % share[1] == share[0]]
        with ThreadPoolExecutor(4) as pool:
            found = pool.map(lambda name: _compare(folder / name, listed[name]), mine)
            return next((f"{name} {damage}" for name, damage in zip(mine, found, strict=True) if damage), None)
    except OSError as error:
        if not folder.exists():
            return "it is gone, since a newer one has replaced it: start the same command again"
        if isinstance(error, FileNotFoundError | NotADirectoryError | IsADirectoryError):
            return f"it can't be read: {error.strerror}"
        raise InputError(sentence(error, f"Can't read the checkpoint {folder}")) from error


def check_digests(folder: Any, entries: Iterable[str] | None = ()) -> None:
    """Raise `InputError` if a checkpoint is damaged, naming the file and the newest earlier checkpoint that is intact.

    Args:
        folder: As in `find_damage`.
        entries: As in `find_damage`.
    """
    if damage := find_damage(folder, entries):
        raise damaged(folder, damage)


def damaged(folder: Any, damage: str) -> InputError:
    """Make the error about a damaged checkpoint, which names the newest earlier checkpoint that is intact."""
    return InputError(f"The checkpoint {folder} is damaged: {damage}. {_remedy(folder)}")


def steps_in(folder: Any) -> list[int]:
    """Steps of the checkpoints in a folder, intact or damaged, without those that are still being written."""
    if not folder.is_dir():
        return []
    # In a bucket nothing is renamed; a checkpoint is complete once this file exists.
    needed = (WRITTEN_LAST,) if "://" in str(folder) else (MARK, FILE)
    entries = [entry for entry in folder.iterdir() if entry.name.isdecimal()]
    return sorted(int(entry.name) for entry in entries if any((entry / name).exists() for name in needed))


def _remedy(folder: Any) -> str:
    if not folder.name.isdecimal():
        return "Use a copy of it, or write it again."
    for step in reversed(steps_in(folder.parent)):
        earlier = folder.parent / str(step)
        if step < int(folder.name) and _is_intact(earlier):
            return f"The one of step {step} before it is intact: to use that, move the folder {folder} away."
    return "There is no intact one before it: use a copy of it, or train again in another --workdir."


def _is_intact(folder: Any) -> bool:
    try:
        return find_damage(folder, None) is None
    except InputError:
        return False


def _compare(path: Any, digest: str) -> str | None:
    try:
        return None if digest_file(path) == digest else "differs from its digest"
    except FileNotFoundError:
        return "is missing"
    except ValueError:  # the metadata are not valid JSON
        return "differs from its digest"


def _listed(folder: Any) -> dict[str, str] | None:
    """Digests of a checkpoint by file; None if it is from before digests. Raises `OSError` if they can't be read."""
    path = folder / FILE
    if not path.exists():
        return _without_digests(folder)
    try:
        content = json.loads(path.read_bytes())
        whole = content.pop("digest") == _digest_of_values(content) and content["algorithm"] == ALGORITHM
        whole = whole and not any(Path(name).is_absolute() or ".." in Path(name).parts for name in content["files"])
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        whole = False
    return content["files"] if whole else {FILE: ""}  # a digest that no file has


def _without_digests(folder: Any) -> dict[str, str] | None:
    try:
        notes = json.loads((folder / MARK).read_bytes())["custom_metadata"]
        if "digests" in notes:
            return {FILE: ""}
    except FileNotFoundError:
        return {MARK: ""}
    except (ValueError, TypeError, KeyError, RecursionError):
        pass  # another project's, or damaged: the reader's error says more than a digest could
    if str(folder.parent) not in _WARNED and (folder / MARK).exists():
        _WARNED.add(str(folder.parent))
        log.warning("The checkpoint %s has no digests, since an older version wrote it: damage would go unnoticed.", folder)
    return None


_WARNED: set[str] = set()
"""Folders whose checkpoints without digests have been warned about."""


def _files(folder: Any) -> dict[str, Any]:
    """Map paths within a checkpoint's folder to files, without those written after the digests."""
    files = {}
    for place, _, names in os.walk(folder) if "://" not in str(folder) else _walk(folder):
        for name in names:
            path = folder.__class__(place) / name
            files[path.relative_to(folder).as_posix()] = path
    return {name: path for name, path in files.items() if name not in (FILE, WRITTEN_LAST)}


def _walk(folder: Any) -> Iterator[tuple[Any, list[str], list[str]]]:
    """Walk a folder in a bucket, as `os.walk` does."""
    entries = list(folder.iterdir())
    inner = [entry for entry in entries if entry.is_dir()]
    yield folder, [entry.name for entry in inner], [entry.name for entry in entries if entry not in inner]
    for entry in inner:
        yield from _walk(entry)


def _digests(files: dict[str, Any]) -> dict[str, str]:
    return {name: digest_file(path) for name, path in files.items()}


def _writer(name: str) -> int | None:
    """Index of the process that wrote a file, from its path: Orbax names folders and array metadata after processes."""
    for place in Path(name).parts[1:3]:
        head, _, number = place.rpartition("process_")
        if head in ("", "ocdbt.") and number.isdecimal():
            return int(number)
    return None


def _part(process: int) -> str:
    return f"{FILE}.process_{process}"


def _digest_metadata(path: Any) -> str:
    content = json.loads(path.read_bytes())
    if isinstance(content, dict):
        content.pop(COMMIT_TIME, None)
    return _digest_of_values(content)


def _digest_of_values(content: Any) -> str:
    return digest_bytes(json.dumps(content, sort_keys=True).encode())
