"""Detection of animated WebP files, which FFmpeg doesn't read."""

from pathlib import Path


def is_animated_webp(path: str | Path) -> bool:
    """Return True if the header of a WebP file announces an animation."""
    if not Path(path).is_file():
        return False
    with open(path, "rb") as file:
        head = file.read(21)
    return head[:4] == b"RIFF" and head[8:16] == b"WEBPVP8X" and len(head) > 20 and bool(head[20] & 2)
