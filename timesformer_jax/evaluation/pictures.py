"""Pictures of the report: single frames as JPEG, and the frames and maps of clips as grids in one image each."""

import base64
import io
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from timesformer_jax._typing import Float, UInt8, ndarray
from timesformer_jax.evaluation.report import ShownVideo
from timesformer_jax.extras import needs
from timesformer_jax.spacing import evenly

THUMBNAIL = 240
"""Long side of a single frame in pixels."""
CLIPS_BYTES = 9 * 2**20
"""Maximum size of the frames of all clips, which base64 makes a third larger."""


class Quality(NamedTuple):
    """Size of a clip: the frames' long side in pixels, the quality of WebP, and the maximum number of frames."""

    side: int
    webp: int
    frames: int


QUALITIES = (
    Quality(640, 80, 16),
    Quality(640, 65, 16),
    Quality(480, 65, 16),
    Quality(400, 60, 12),
    Quality(320, 55, 8),
    Quality(240, 45, 8),
    Quality(160, 40, 4),
)
"""Sizes of a clip; the first one that fits into its share of `CLIPS_BYTES` is used."""

LEAST_SAVED = 0.7
"""Bytes per pixel at the next lower quality of WebP, relative to the last attempt, are not expected to be fewer than this."""

SMALLEST = 320
"""Frames with a shorter long side are enlarged by a whole factor, without blurring them, until the next would exceed this."""

STRENGTH = 0.75
"""Opacity of a map at its maximum."""
HEAT = np.array(
    [[0, 0, 4], [40, 11, 84], [101, 21, 110], [159, 42, 99], [212, 72, 66], [245, 125, 21], [250, 193, 39], [252, 255, 164]]
)
"""Colours of the maps from low to high: matplotlib's "inferno", whose lightness rises evenly, also for colour-blind people."""


class Clip(NamedTuple):
    """A clip's frames and maps.

    Attributes:
        frames: Grid of the frames, as WebP.
        maps: Grid of the maps, as PNG with transparency; empty for no maps.
        count: Number of frames.
        columns: Number of columns of both grids.
        width: Width of a frame in pixels.
        height: Height of a frame in pixels.
    """

    frames: bytes
    maps: bytes
    count: int
    columns: int
    width: int
    height: int


def thumbnail(frame: UInt8[ndarray, "H W 3"]) -> bytes:
    """Encode a frame as a small JPEG."""
    picture = _resized(frame, THUMBNAIL)
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=82)
    return file.getvalue()


def encode_clips(videos: Sequence[ShownVideo], most_bytes: int = CLIPS_BYTES) -> list[Clip]:
    """Encode the clips of all videos, each at the largest of `QUALITIES` that fits into its share of `most_bytes`."""
    return [_encode_clip(video, most_bytes // len(videos)) for video in videos]


def _encode_clip(video: ShownVideo, most_bytes: int) -> Clip:
    *larger, smallest = QUALITIES
    density = 0.0  # bytes per pixel of the last attempt, by which hopeless ones are skipped
    for quality in larger:
        if LEAST_SAVED * density * _num_pixels(video, quality) > most_bytes:
            continue
        clip = _encoded(video, quality)
        size = len(clip.frames) + len(clip.maps)
        if size <= most_bytes:
            return clip
        density = size / _num_pixels(video, quality)
    return _encoded(video, smallest)


def _num_pixels(video: ShownVideo, quality: Quality) -> float:
    count, height, width = video.frames.shape[:3]
    return min(count, quality.frames) * height * width * min(quality.side / max(height, width), 1) ** 2


def _encoded(video: ShownVideo, quality: Quality) -> Clip:
    chosen = evenly(len(video.frames), quality.frames)
    frames = np.stack([np.asarray(_resized(video.frames[i], quality.side)) for i in chosen])
    columns = int(np.ceil(np.sqrt(len(chosen))))
    file = io.BytesIO()
    _pillow().fromarray(_grid(frames, columns)).save(file, "WEBP", quality=quality.webp, method=2)
    maps = b"" if video.maps is None else _png(_grid(heat(video.maps[chosen]), columns))
    return Clip(file.getvalue(), maps, len(chosen), columns, frames.shape[2], frames.shape[1])


def _grid(frames: np.ndarray, columns: int) -> np.ndarray:
    """Arrange frames `[T, h, w, C]` row by row in one image `[rows * h, columns * w, C]`."""
    count, height, width, channels = frames.shape
    rows = -(-count // columns)
    padded = np.concatenate([frames, np.zeros((rows * columns - count, height, width, channels), frames.dtype)])
    return (
        padded.reshape(rows, columns, height, width, channels).swapaxes(1, 2).reshape(rows * height, columns * width, channels)
    )


def heat(maps: Float[ndarray, "T h w"]) -> UInt8[ndarray, "T h w 4"]:
    """Colour maps from 0 to 1, from transparent to bright."""
    levels = np.asarray(maps, float).clip(0, 1)
    stops = np.linspace(0, 1, len(HEAT))
    colours = [np.interp(levels, stops, HEAT[:, channel]) for channel in range(3)]
    return np.stack([*colours, 255 * STRENGTH * levels], axis=-1).round().astype(np.uint8)


def _png(picture: np.ndarray) -> bytes:
    file = io.BytesIO()
    _pillow().fromarray(picture).save(file, "PNG", optimize=True)
    return file.getvalue()


def _resized(frame: np.ndarray, side: int) -> Any:
    """Return a Pillow image whose long side is at most `side`; tiny frames are enlarged."""
    image, longest = _pillow(), max(frame.shape[:2])
    height, width = frame.shape[:2]
    if longest < SMALLEST:
        factor = max(min(SMALLEST, side) // longest, 1)
        return image.fromarray(frame).resize((width * factor, height * factor), image.Resampling.NEAREST)
    if longest <= side:
        return image.fromarray(frame)
    size = max(round(width * side / longest), 1), max(round(height * side / longest), 1)
    return image.fromarray(frame).resize(size, image.Resampling.LANCZOS)


def _pillow() -> Any:
    with needs("PIL", "A report"):
        from PIL import Image
    return Image


KINDS = {b"\xff\xd8\xff": "image/jpeg", b"\x89PN": "image/png", b"RIF": "image/webp"}


def data_uri(content: bytes) -> str:
    """Encode an image as a `data:` URI."""
    return f"data:{KINDS[content[:3]]};base64,{base64.b64encode(content).decode()}"
