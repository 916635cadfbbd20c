"""Files that are there whole or not at all."""

from typing import Any


def write_whole(path: Any, content: str | bytes) -> None:
    """Writes `content` to `path` (a `Path`, or an `epath.Path` in a bucket) under another name, and then renames it."""
    part = path.with_name(path.name + ".part")
    if isinstance(content, bytes):
        part.write_bytes(content)
    else:
        part.write_text(content)
    part.replace(path)
