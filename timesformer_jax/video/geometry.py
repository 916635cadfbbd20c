"""Sizes and crops of the official spatial transforms, as integer arithmetic; the pixels are moved elsewhere."""

import math

import numpy as np

from timesformer_jax._typing import Float, ndarray


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


def sample_positions(source: int, scaled: int, offset: int, size: int) -> Float[ndarray, "size"]:
    """Where `size` pixels, from `offset` on, of an axis scaled from `source` to `scaled` pixels lie in the source.

    Bilinear with half-pixel centres, as PyTorch's `interpolate(align_corners=False)` places them, in float32: 2.25 is a
    quarter of the way from pixel 2 to pixel 3. Nothing lies outside of the first and the last pixel.
    """
    scale = np.float32(source) / np.float32(scaled)
    places = (np.arange(offset, offset + size, dtype=np.float32) + np.float32(0.5)) * scale - np.float32(0.5)
    return places.clip(0, source - 1)


def random_resized_crop(
    height: int, width: int, *, area: float, aspect: float, vertical: float, horizontal: float, longest: int
) -> tuple[int, int, int, int]:
    """(top, left, height, width) of a box of share `area` of the frame and width : height `aspect`, to be scaled to the crop.

    Sides end at the frame, and at `longest`. `vertical` and `horizontal` from [0, 1) place it. (torchvision draws up to ten
    times until a box fits; one draw keeps randomness a function of the example.)
    """
    box_height = max(min(round(math.sqrt(area * height * width / aspect)), height, longest), 1)
    box_width = max(min(round(math.sqrt(area * height * width * aspect)), width, longest), 1)
    return int(vertical * (height - box_height + 1)), int(horizontal * (width - box_width + 1)), box_height, box_width
