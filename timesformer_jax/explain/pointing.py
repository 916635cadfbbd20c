"""Measures of how well a map points at an object whose location is known."""

import numpy as np

from timesformer_jax._typing import Bool, Float, Int, Shaped, ndarray
from timesformer_jax.errors import InputError


def box_mask(boxes: Int[ndarray, "*axes 4"], height: int, width: int) -> Bool[ndarray, "*axes H W"]:
    """Rasterize boxes (top, left, bottom, right), whose bottom and right are exclusive, into masks of pixels."""
    rows, columns = np.arange(height)[:, None], np.arange(width)
    top, left, bottom, right = (boxes[..., i, None, None] for i in range(4))
    return (top <= rows) & (rows < bottom) & (left <= columns) & (columns < right)


def inside_over_outside(maps: Shaped[ndarray, "B T h w"], inside: Bool[ndarray, "B T H W"]) -> Float[ndarray, "B"]:
    """Divide each clip's mean of the map over pixels inside by that over pixels outside; an uninformative map has 1.

    A patch's value applies to all of its pixels. Raises `InputError` if the frames are not a whole number of patches, or if a
    clip has no pixels inside or none outside.
    """
    (_, _, rows, columns), (_, _, height, width) = maps.shape, inside.shape
    if height % rows or width % columns:
        raise InputError(f"Frames of {height} x {width} pixels can't be divided into {rows} x {columns} equal patches.")
    share = inside.reshape(*inside.shape[:2], rows, height // rows, columns, width // columns).mean(axis=(3, 5))
    if not ((share.sum(axis=(1, 2, 3)) > 0) & ((1 - share).sum(axis=(1, 2, 3)) > 0)).all():
        raise InputError("Every clip must have pixels inside and pixels outside the object.")

    def mean(weight: np.ndarray) -> np.ndarray:
        return (maps * weight).sum(axis=(1, 2, 3)) / weight.sum(axis=(1, 2, 3))

    return mean(share) / np.maximum(mean(1 - share), np.finfo(np.float32).tiny)
