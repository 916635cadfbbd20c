"""Sizes and crops of the official spatial transforms, as integer arithmetic; the pixels are moved elsewhere."""

import math


def scale_short_side(height: int, width: int, size: int) -> tuple[int, int]:
    """(height, width) after scaling the short side to `size`; the long side is rounded down, or kept where nothing changes.

    Source: official `datasets/transform.py`, `random_short_side_scale_jitter`.
    """
    if min(height, width) == size:
        return height, width
    if height < width:
        return size, math.floor(width / height * size)
    return math.floor(height / width * size), size


def crop_offset(height: int, width: int, size: int, *, vertical: float, horizontal: float) -> tuple[int, int]:
    """(top, left) of a `size` x `size` crop; 0 is the first place, 1 just past the last, so draw from [0, 1)."""
    return int(vertical * (height - size + 1)), int(horizontal * (width - size + 1))


def view_crop_offset(height: int, width: int, size: int, crop: int) -> tuple[int, int]:
    """(top, left) of test crop 0, 1 or 2: start, centre and end of the long side, centred on the short one.

    Left, centre, right of a landscape frame (or a square one, where all three are the same); top, centre, bottom of a
    portrait one. Source: official `datasets/transform.py`, `uniform_crop`.
    """
    top, left = math.ceil((height - size) / 2), math.ceil((width - size) / 2)
    if height > width:
        return (0, top, height - size)[crop], left
    return top, (0, left, width - size)[crop]
