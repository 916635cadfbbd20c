"""Maps of clips with their place in the video (the sampled seconds and the crop), and their drawing on any frame."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from timesformer_jax._typing import Array, Float, Shaped, UInt8, ndarray
from timesformer_jax.errors import InputError
from timesformer_jax.explain.drawing import STRENGTH, colour_of, scaled
from timesformer_jax.interpolation import linear

DIMMED = 0.4
"""Brightness of what the model did not receive, which is also drawn without colour."""
_GREY = np.array([0.299, 0.587, 0.114], np.float32) * DIMMED
_NEAR = 1e-3
"""Difference in seconds up to which two times are the same frame."""


class MappedClip(NamedTuple):
    """Maps of one view of a video, with their place in it.

    Attributes:
        times: Presentation time of each sampled frame, in seconds from the video's first frame (`Clip.times`).
        maps: One map per sampled frame, from any of this package's methods. Only differences within a clip count.
        box: (top, left, bottom, right) of the crop as fractions of the frame (a row of `Clip.boxes`).
    """

    times: Float[ndarray, "T"]
    maps: Shaped[Array | ndarray, "T h w"]
    box: Sequence[float] | Float[ndarray, "4"] = (0.0, 0.0, 1.0, 1.0)


class _Track(NamedTuple):
    """A clip's scaled maps at ascending times without duplicates, and its box as a tuple."""

    times: np.ndarray
    maps: np.ndarray
    box: tuple[float, ...]


class Overlay:
    """Drawing of the maps of a video's clips on any of its frames.

    Between two sampled frames a map is interpolated linearly; before a clip's first sampled frame and after its last one there
    is none. Where clips overlap, the map is a mean that favours clips in whose middle the frame lies, so that nothing jumps.
    What no clip covers at that moment, in space or time, is dimmed, since the model did not receive it.

    Args:
        clips: The clips to draw, at least one.
        strength: Opacity of the colour at the maps' maximum, from 0 to 1.

    Raises:
        InputError: If `strength` or the shapes, times or boxes of the clips are invalid.
    """

    def __init__(self, clips: Sequence[MappedClip], strength: float = STRENGTH):
        if not 0 <= strength <= 1:
            raise InputError(f"strength must be from 0 to 1, got {strength}.")
        if not clips:
            raise InputError("There is no clip to draw: give at least one MappedClip.")
        self._tracks = [_track(clip) for clip in clips]
        heat = np.linspace(0, 1, 256)
        opacity = np.rint(255 * strength * heat)
        self._transparency = (255 - opacity).astype(np.uint16)
        self._colour = np.rint(opacity[:, None] * colour_of(heat) * 255 + 127).astype(np.uint16)

    @property
    def spans(self) -> list[tuple[float, float]]:
        """Times of the first and the last sampled frame of each clip."""
        return [(float(track.times[0]), float(track.times[-1])) for track in self._tracks]

    def draw(self, frame: UInt8[ndarray, "H W 3"], second: float) -> UInt8[ndarray, "H W 3"]:
        """Draw the map at `second` on a frame, which is unchanged where the map is lowest."""
        found = self._at(second)
        if not found:
            return dimmed(frame)
        regions = [_pixels(box, *frame.shape[:2]) for box in found]
        top, left = (min(region[axis].start for region in regions) for axis in (0, 1))
        bottom, right = (max(region[axis].stop for region in regions) for axis in (0, 1))
        inside = slice(top, bottom), slice(left, right)
        whole = top == left == 0 and (bottom, right) == frame.shape[:2]
        drawn = np.empty_like(frame) if whole else dimmed(frame)
        drawn[inside] = self._blend(frame[inside], *_heat(list(found.values()), regions, inside))
        _outline(drawn, *inside)
        return drawn

    def _at(self, second: float) -> dict[tuple[float, ...], tuple[float, np.ndarray]]:
        """Return the weight and the map of each box at a time; empty if no clip covers it."""
        found: dict[Any, tuple[float, np.ndarray]] = {}
        for times, maps, box in self._tracks:
            if not times[0] - _NEAR <= second <= times[-1] + _NEAR:
                continue
            weight = max(min(second - times[0], times[-1] - second), 0.0) + _NEAR
            place = float(np.interp(second, times, np.arange(len(times))))
            before = int(place)
            after, share = min(before + 1, len(times) - 1), np.float32(place - before)
            earlier, so_far = found.get(box, (0.0, np.float32(0)))
            map_now = (1 - share) * maps[before] + share * maps[after]
            total = earlier + weight
            found[box] = total, so_far + (map_now - so_far) * np.float32(weight / total)
        return found

    def _blend(self, frame: np.ndarray, heat: np.ndarray, seen: np.ndarray | None) -> np.ndarray:
        levels = np.rint(255 * heat).astype(np.uint8)
        mixed = frame * self._transparency[levels][..., None]
        mixed += self._colour[levels]
        mixed += mixed >> 8  # (x + (x >> 8)) >> 8 is x / 255, rounded
        drawn = (mixed >> 8).astype(np.uint8)
        return drawn if seen is None else np.where(seen[..., None], drawn, dimmed(frame))


def dimmed(frame: UInt8[ndarray, "H W 3"]) -> UInt8[ndarray, "H W 3"]:
    """Return the frame darker and without colour."""
    return np.repeat((frame @ _GREY).astype(np.uint8)[..., None], 3, axis=2)


def _track(clip: MappedClip) -> _Track:
    times, maps, box = np.asarray(clip.times, np.float64), np.asarray(clip.maps, np.float64), tuple(map(float, clip.box))
    if maps.ndim != 3 or times.shape != maps.shape[:1] or not times.size:
        raise InputError(f"A clip needs maps [T, h, w] and one time per map, got {maps.shape} and {times.shape}.")
    if not (np.isfinite(times).all() and np.isfinite(maps).all()):
        raise InputError("The times and maps of a clip must be finite.")
    if len(box) != 4 or not (0 <= box[0] < box[2] <= 1 + 1e-9 and 0 <= box[1] < box[3] <= 1 + 1e-9):
        raise InputError(f"box must be (top, left, bottom, right) as fractions of the frame, got {clip.box}.")
    maps = scaled(maps)
    unique, which = np.unique(times, return_inverse=True)  # a short video repeats its last frame
    mean = np.stack([maps[which == number].mean(axis=0) for number in range(len(unique))])
    return _Track(unique, mean.astype(np.float32), box)


def _pixels(box: Sequence[float], height: int, width: int) -> tuple[slice, slice]:
    """Return the rows and columns of a box, at least one of each."""
    rows, columns = (
        slice(min(round(low * size), size - 1), max(min(round(high * size), size), min(round(low * size), size - 1) + 1))
        for low, high, size in ((box[0], box[2], height), (box[1], box[3], width))
    )
    return rows, columns


def _heat(
    weighted: Sequence[tuple[float, np.ndarray]], regions: Sequence[tuple[slice, slice]], inside: tuple[slice, slice]
) -> tuple[np.ndarray, np.ndarray | None]:
    """Enlarge maps to their regions and average them; also returns where there are any, None for everywhere."""
    if len(regions) == 1:
        return _enlarge(weighted[0][1], inside), None
    shape = inside[0].stop - inside[0].start, inside[1].stop - inside[1].start
    heat, weights = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    for (weight, small), (rows, columns) in zip(weighted, regions, strict=True):
        there = (
            slice(rows.start - inside[0].start, rows.stop - inside[0].start),
            slice(columns.start - inside[1].start, columns.stop - inside[1].start),
        )
        heat[there] += np.float32(weight) * _enlarge(small, (rows, columns))
        weights[there] += np.float32(weight)
    return heat / np.maximum(weights, np.finfo(np.float32).tiny), weights > 0


def _enlarge(small: np.ndarray, region: tuple[slice, slice]) -> np.ndarray:
    rows, columns = (_weights(*sizes) for sizes in zip(small.shape, (s.stop - s.start for s in region), strict=True))
    return (rows @ small @ columns.T).clip(0, 1)


@functools.lru_cache(maxsize=32)
def _weights(source: int, target: int) -> np.ndarray:
    return linear(source, target).astype(np.float32)


def _outline(drawn: np.ndarray, rows: slice, columns: slice) -> None:
    """Brighten the border of a box where it isn't the frame's own."""
    height, width = drawn.shape[:2]
    thick = max(1, round(min(height, width) / 400))
    edges = [
        (slice(rows.start, rows.start + thick), columns, rows.start > 0),
        (slice(rows.stop - thick, rows.stop), columns, rows.stop < height),
        (rows, slice(columns.start, columns.start + thick), columns.start > 0),
        (rows, slice(columns.stop - thick, columns.stop), columns.stop < width),
    ]
    for part_rows, part_columns, visible in edges:
        if visible:
            part = drawn[part_rows, part_columns]
            drawn[part_rows, part_columns] = 255 - (255 - part) // 2
