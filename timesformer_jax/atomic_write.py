"""Write files and folders atomically, with the permissions of the user's umask."""

import contextlib
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from timesformer_jax.os_errors import NAMES, WriteError


@contextlib.contextmanager
def replacing(path: Any, suffix: str = ".part") -> Iterator[Any]:
    """Yield a path next to `path` to write to, and rename it to `path` if the block succeeds.

    If the block fails, `path` stays as it was and the unfinished file is removed.

    Args:
        path: A `pathlib.Path`, or an `epath.Path` (which may be in a bucket).
        suffix: Suffix of the unfinished file; processes that write the same file need different ones.

    Raises:
        WriteError: An `InputError` and `OSError`, if the disk is full, permission is denied or the like.
    """
    part = path.with_name(path.name + suffix)
    try:
        yield part
        part.replace(path)
    except BaseException as error:
        with contextlib.suppress(OSError):  # has the same cause, which is reported below
            part.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno in NAMES and not isinstance(error, WriteError):
            raise WriteError(path, error) from error
        raise


@contextlib.contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Yield a path for a folder or a file, and rename it to `path`, which may be a folder, if the block succeeds.

    The result gets the permissions of the user's umask. If the block fails, `path` stays as it was and the unfinished result is
    removed. Since a rename can't replace a folder, the old one is moved away first, and back if the rename fails.
    """
    with tempfile.TemporaryDirectory(prefix=f".{path.name[:40]}-", dir=path.parent) as beside:
        new, old = Path(beside) / "new", Path(beside) / "old"
        yield new
        apply_umask(new)
        if path.exists():
            path.rename(old)
        try:
            new.rename(path)
        except OSError:
            if old.exists():
                old.rename(path)
            raise


def write_whole(path: Any, content: str | bytes) -> None:
    """Write `content` (text as UTF-8) to `path`, whole or not at all."""
    with replacing(path) as part:
        part.write_bytes(content.encode() if isinstance(content, str) else content)


def apply_umask(path: Path) -> None:
    """Give a file, or a folder with its contents, the permissions of newly created files and folders.

    Libraries that write through temporary files leave them readable only by their owner.
    """
    probe = path.with_name(f".{uuid.uuid4().hex}")  # os.umask can only be read by changing it, for all threads
    probe.touch()
    file_mode = probe.stat().st_mode & 0o777
    probe.unlink()
    probe.mkdir()
    folder_mode = probe.stat().st_mode & 0o777
    probe.rmdir()
    for each in [path, *path.rglob("*")]:
        each.chmod(folder_mode if each.is_dir() else file_mode)
