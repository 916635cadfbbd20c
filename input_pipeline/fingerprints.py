"""By what a video's file is known again, without reading it: where it is, how large, since when."""

import contextlib
import hashlib
import os
from pathlib import Path

from timesformer_jax.datasets import Entry
from timesformer_jax.video import PICTURE_SUFFIXES


def facts_of(entry: Entry) -> str:
    """All that a prepared video follows from but the storage, as one line of ASCII.

    It costs one look at the file's size and time, and of a folder of pictures one at each of them: a folder's own time says
    nothing of a picture that was written over.
    """
    piece = entry.labels, entry.start, entry.end, entry.fps, entry.perhaps_cut
    return ascii((entry.name, os.path.abspath(entry.path), *piece, _state(entry.path)))


def _state(path: Path) -> tuple[object, ...]:
    """Size and time; of a folder how many pictures there are, and a digest of theirs."""
    with contextlib.suppress(OSError):  # gone since it was listed: reading it will say so
        if not path.is_dir():
            stat = path.stat()
            return stat.st_size, stat.st_mtime_ns
        pictures = []
        with os.scandir(path) as inside:
            for file in inside:
                if os.path.splitext(file.name)[1].lower() in PICTURE_SUFFIXES and not file.name.startswith("."):
                    stat = file.stat()
                    pictures.append((file.name, stat.st_size, stat.st_mtime_ns))
        return len(pictures), hashlib.sha256(ascii(sorted(pictures)).encode()).hexdigest()
    return ()
