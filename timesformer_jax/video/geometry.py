"""Sizes and crop positions of the official spatial transforms, computed without touching pixels."""

import math

import numpy as np

from timesformer_jax._typing import Float, ndarray


def scale_short_side(height: int, width: int, size: int) -> tuple[int, int]:
    """Return (height, width) after scaling the short side to `size`, with the long side rounded down.

    If the short side is `size` already, both are returned unchanged.

    Source: official `datasets/transform.py`, `random_short_side_scale_jitter`.
    """
    if min(height, width) == size:
        return height, width
    if height < width:
        return size, math.floor(width / height * size)
    return math.floor(height / width * size), size


def crop_offset(height: int, width: int, size: int, *, vertical: float, horizontal: float) -> tuple[int, int]:
    """Return (top, left) of a `size` x `size` crop.

    Args:
        height: Height of the frame in pixels.
        width: Width of the frame in pixels.
        size: Side of the crop in pixels.
        vertical: Vertical position, to be drawn from [0, 1): 0 is the topmost crop, 1 just past the bottommost.
        horizontal: Horizontal position, to be drawn from [0, 1): 0 is the leftmost crop, 1 just past the rightmost.
    """
    return int(vertical * (height - size + 1)), int(horizontal * (width - size + 1))


def view_crop_offset(height: int, width: int, size: int, crop: int) -> tuple[int, int]:
    """Return (top, left) of an evaluation crop: at the start, centre or end of the long side, centred on the short one.

    Source: official `datasets/transform.py`, `uniform_crop`.

    Args:
        height: Height of the frame in pixels.
        width: Width of the frame in pixels.
        size: Side of the crop in pixels.
        crop: 0, 1 or 2 for left, centre or right of a landscape frame, and top, centre or bottom of a portrait one. A square
            frame counts as landscape; all three are the same if `size` is its side.
    """
    top, left = math.ceil((height - size) / 2), math.ceil((width - size) / 2)
    if height > width:
        return (0, top, height - size)[crop], left
    return top, (0, left, width - size)[crop]


def sample_positions(source: int, scaled: int, offset: int, size: int) -> Float[ndarray, "size"]:
    """Map pixels of a scaled axis to positions in the source, in float32.

    Positions follow the half-pixel convention of PyTorch's `interpolate(align_corners=False)`: 2.25 is a quarter of the way
    from pixel 2 to pixel 3. They are clipped to the first and the last pixel.

    Args:
        source: Length of the axis before scaling, in pixels.
        scaled: Length of the axis after scaling, in pixels.
        offset: First scaled pixel to map.
        size: Number of scaled pixels to map.
    """
    scale = np.float32(source) / np.float32(scaled)
    places = (np.arange(offset, offset + size, dtype=np.float32) + np.float32(0.5)) * scale - np.float32(0.5)
    return places.clip(0, source - 1)


def random_resized_crop(
    height: int, width: int, *, area: float, aspect: float, vertical: float, horizontal: float, longest: int
) -> tuple[int, int, int, int]:
    """Return (top, left, height, width) of a box that is then scaled to the crop.

    torchvision draws up to ten times until a box fits. Here the sides are clipped instead, so that a single draw suffices and
    randomness stays a function of the example.

    Args:
        height: Height of the frame in pixels.
        width: Width of the frame in pixels.
        area: Area of the box as a fraction of the frame.
        aspect: Width / height of the box.
        vertical: Vertical position of the box, from [0, 1).
        horizontal: Horizontal position of the box, from [0, 1).
        longest: Maximum side of the box in pixels. Sides are also clipped to the frame.
    """
    box_height = max(min(round(math.sqrt(area * height * width / aspect)), height, longest), 1)
    box_width = max(min(round(math.sqrt(area * height * width * aspect)), width, longest), 1)
    return int(vertical * (height - box_height + 1)), int(horizontal * (width - box_width + 1)), box_height, box_width
