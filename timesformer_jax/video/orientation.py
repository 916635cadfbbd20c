"""Mirroring of frames, according to their display matrix or the EXIF data of their image file."""

import struct
from collections.abc import Callable, Iterator
from typing import Any

EXIF_MIRRORED = (2, 4, 5, 7)
"""EXIF orientations that mirror the image."""
_ORIENTATION = 0x0112


def is_mirrored(frame: Any, encoded: Callable[[], bytes]) -> bool:
    """Return True if a frame is to be mirrored: its display matrix maps (x, y) to (a x + c y, b x + d y) with a d < b c.

    Args:
        frame: PyAV's frame.
        encoded: Returns the image file from which the frame was decoded, to read its EXIF data if PyAV can't read the matrix.
    """
    from av.video.reformatter import VideoReformatter

    # PyAV links a frame and its side data in both directions, so the frame would stay in memory until Python's garbage
    # collector runs, seldom enough to hold thousands of frames. A tiny copy has the same side data.
    tiny = VideoReformatter().reformat(frame, 2, 2, "gray")
    try:
        matrix = tiny.side_data.get("DISPLAYMATRIX")
    except ValueError:  # PyAV 18 returns no side data at all if it doesn't know one kind, such as EXIF
        return exif_orientation(encoded()) in EXIF_MIRRORED
    if matrix is None:
        return False
    a, b, _, c, d, *_ = memoryview(matrix).cast("B").cast("i").tolist()
    return a * d - b * c < 0


def exif_orientation(image: bytes) -> int:
    """Return the EXIF orientation of a JPEG or PNG file, from 1 to 8; 1 if it has none or is damaged."""
    try:
        for exif in _exif_blocks(image):
            order = {b"II": "<", b"MM": ">"}[exif[:2]]
            (start,) = struct.unpack_from(f"{order}I", exif, 4)
            (num_entries,) = struct.unpack_from(f"{order}H", exif, start)
            for entry in range(start + 2, start + 2 + 12 * num_entries, 12):
                tag, _, _, value = struct.unpack_from(f"{order}HHIH", exif, entry)
                if tag == _ORIENTATION:
                    return value if 1 <= value <= 8 else 1
    except (struct.error, KeyError):
        pass
    return 1


def _exif_blocks(image: bytes) -> Iterator[bytes]:
    """Yield the EXIF data of a JPEG file (segment APP1) or a PNG file (chunk eXIf), which have the layout of a TIFF file."""
    if image.startswith(b"\x89PNG"):
        place = 8
        while place < len(image):
            size, kind = struct.unpack_from(">I4s", image, place)
            if kind == b"eXIf":
                yield image[place + 8 : place + 8 + size]
            place += size + 12
    elif image.startswith(b"\xff\xd8"):
        place, marker = 2, 0
        while marker != 0xDA:  # the segments end where the scan starts
            _, marker, size = struct.unpack_from(">BBH", image, place)
            if marker == 0xE1 and image[place + 4 : place + 10] == b"Exif\0\0":
                yield image[place + 10 : place + 2 + size]
            place += size + 2
