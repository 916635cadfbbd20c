"""Sheet of sampled frames of the original video, plain and with maps, for a paper."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from timesformer_jax._typing import UInt8, ndarray
from timesformer_jax.explain.caption import Colour, MapPanel, band
from timesformer_jax.explain.drawing import MOST_COLUMNS, STRENGTH
from timesformer_jax.explain.film import of_first
from timesformer_jax.explain.mapped_clip import Overlay
from timesformer_jax.printable import printable
from timesformer_jax.spacing import evenly
from timesformer_jax.video.limits import DEFAULT_LIMITS, Limits
from timesformer_jax.video.opening import open_video

SHEET_SIDE = 320
"""Usual width or height of a frame, whichever is larger."""
GAP = 6
BLACK, GREY, WHITE = (20, 20, 20), (95, 95, 95), (255, 255, 255)


def draw_sheet(
    video: str | Path,
    panels: Sequence[MapPanel],
    *,
    title: str,
    caption: str = "",
    strength: float = STRENGTH,
    max_side: int | None = None,
    limits: Limits = DEFAULT_LIMITS,
) -> UInt8[ndarray, "H W 3"]:
    """Draw a sheet of at most 8 sampled frames of the original video: a plain row, and one row with the maps of each panel.

    Args:
        video: A video file, or a folder of images.
        panels: Maps with a title each.
        title: Title of the plain row.
        caption: Text below the rows.
        strength: Opacity of the colour at the maps' maximum, from 0 to 1.
        max_side: Width or height of a frame in pixels, whichever is larger; `SHEET_SIDE` by default.
        limits: Largest frame, duration and file size to accept.

    Raises:
        InputError: As for `draw_on_video`.
    """
    overlays = [Overlay(panel.clips, strength) for panel in panels]
    times = np.unique(np.concatenate([clip.times for panel in panels for clip in panel.clips]))
    chosen = times[evenly(len(times), MOST_COLUMNS)].tolist()

    @of_first
    def size_of(width: int, height: int) -> tuple[int, int]:
        scale = (max_side or SHEET_SIDE) / max(width, height)
        return max(round(width * scale), 1), max(round(height * scale), 1)

    with open_video(video, limits=limits) as source:
        frames = [next(source.frames(span=(second - 1e-4, math.inf), size_of=size_of)) for second in chosen]
    width = len(frames) * (frames[0].shape[1] + GAP) - GAP
    text = max(14, min(round(width / 100), round(max(frames[0].shape) / 10)))
    moments = [band(f"{second:.2f} s", frames[0].shape[1], round(0.75 * text), GREY, WHITE) for second in chosen]
    parts = [_title(title, width, text), _row(moments), _row(frames)]
    for panel, overlay in zip(panels, overlays, strict=True):
        drawn = [overlay.draw(frame, second) for frame, second in zip(frames, chosen, strict=True)]
        parts += [_title(panel.title, width, text), _row(drawn)]
    return np.concatenate([*parts, _title(caption, width, round(0.75 * text), GREY)])


def _title(text: str, width: int, size: int, ink: Colour = BLACK) -> np.ndarray:
    return band(printable(text), width, size, ink, WHITE)


def _row(pictures: Sequence[np.ndarray]) -> np.ndarray:
    padded = [np.pad(picture, ((0, 0), (0, GAP), (0, 0)), constant_values=255) for picture in pictures[:-1]]
    return np.concatenate([*padded, pictures[-1]], axis=1)
