"""Storage of prepared videos: a list of encoded frames per video."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np

from timesformer_jax.checks import check_choice
from timesformer_jax.errors import InputError
from timesformer_jax.os_errors import ReadError
from timesformer_jax.video.encoding import encode_h264, encode_jpeg
from timesformer_jax.video.entry import Entry, KeptFrames
from timesformer_jax.video.limits import DEFAULT_LIMITS, Limits, UnreadableVideoError
from timesformer_jax.video.opening import open_video

KEY_FRAME_EVERY = 2
"""Distance between H.264 key frames, in frames: every second frame refers to the one before it.

At equal size, independent frames would lose 4 dB; with longer chains, random access would be slower.
"""

CODECS: dict[str, Callable[[Iterable[np.ndarray]], list[bytes]]] = {
    "jpeg": lambda frames: encode_jpeg(frames, quality=90),
    "h264": lambda frames: encode_h264(frames, key_frame_every=KEY_FRAME_EVERY, crf=23),
}
"""Maps `storage` to a function from RGB frames to bytes. JPEG reads fastest; H.264 has a third of its size or less."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Storage:
    """Settings for storing prepared videos."""

    codec: str
    """A key of `CODECS`."""
    short_side: int
    """Short side in pixels to which larger frames are scaled down."""
    max_fps: float = math.inf
    """Maximum number of frames per second; further frames are dropped, evenly spread."""
    part_seconds: float = math.inf
    """Maximum length of an example in seconds; longer videos become several examples."""
    limits: Limits = DEFAULT_LIMITS
    """Largest video to accept."""

    def __post_init__(self) -> None:
        check_choice("data.storage", self.codec, CODECS)
        if self.short_side < 1:
            raise InputError(f"data.short_side must be at least 1 pixel, got {self.short_side}.")
        if not self.max_fps > 0:
            raise InputError(f"data.max_fps must be above 0, got {self.max_fps}.")
        if not self.part_seconds > 0:
            raise InputError(f"data.part_seconds must be above 0, got {self.part_seconds}.")


class StoredVideo(NamedTuple):
    """A prepared video, or a part of a long one."""

    frames: list[bytes]
    """Encoded frames."""
    fps: float
    """Frame rate of the stored frames."""
    source_fps: float
    """Frame rate of the original video."""
    height: int
    """Height of the stored frames in pixels."""
    width: int
    """Width of the stored frames in pixels."""
    num_damaged: int
    """Number of damaged places in the whole original video."""


def store_video(entry: Entry, storage: Storage) -> list[StoredVideo]:
    """Read and encode a video; the result has one part unless the video is longer than `storage.part_seconds`.

    Raises `UnreadableVideoError` if no frame can be read.
    """
    parts = []
    with open_video(entry.path, fps=entry.fps, limits=storage.limits) as video:
        share = min(storage.max_fps / video.fps, 1.0)
        per_part = max(round(storage.part_seconds * video.fps * share), 1) if storage.part_seconds < math.inf else math.inf
        frames = video.frames(
            storage.short_side,
            only=KeptFrames(share) if share < 1 else None,
            span=entry.span(video.seconds),
            even=storage.codec == "h264",
        )
        for part in _parts(frames, per_part):
            sizes: list[tuple[int, int]] = []
            try:
                encoded = CODECS[storage.codec](_noting_size(part, sizes))
            except (InputError, ReadError):
                raise
            except Exception as error:  # such as sizes that the encoder rejects; it must not stop the other videos
                reason = f"its frames can't be kept as {storage.codec}: {type(error).__name__}: {error}"
                raise UnreadableVideoError(entry.path, reason) from error
            parts.append(StoredVideo(encoded, video.fps * share, video.fps, *sizes[0], 0))
    if not parts:
        raise UnreadableVideoError(entry.path, "none of its frames can be converted")
    return [part._replace(num_damaged=video.num_damaged) for part in parts]


class VideoFacts(NamedTuple):
    """Properties of a video, found by decoding all of it."""

    num_frames: int
    """Number of frames."""
    fps: float
    """Frames per second."""
    height: int
    """Height of the last frame in pixels."""
    width: int
    """Width of the last frame in pixels."""
    num_damaged: int
    """Number of damaged places."""


def inspect_video(entry: Entry, limits: Limits = DEFAULT_LIMITS) -> VideoFacts:
    """Decode all of a video without storing it, and return its properties.

    Raises `UnreadableVideoError` if no frame can be read.
    """
    with open_video(entry.path, fps=entry.fps, limits=limits) as video:
        count, height, width = 0, 0, 0
        for frame in video.frames(span=entry.span(video.seconds)):
            count, (height, width) = count + 1, frame.shape[:2]
    if not count:
        raise UnreadableVideoError(entry.path, "none of its frames can be converted")
    return VideoFacts(count, video.fps, height, width, video.num_damaged)


def _parts(frames: Iterator[np.ndarray], length: float) -> Iterator[Iterator[np.ndarray]]:
    """Split the frames into runs of `length`. Each run must be consumed before the next is requested."""

    def run(first: np.ndarray) -> Iterator[np.ndarray]:
        yield first
        count = 1
        while count < length and (frame := next(frames, None)) is not None:
            count += 1
            yield frame

    while (first := next(frames, None)) is not None:
        yield run(first)


def _noting_size(frames: Iterator[np.ndarray], sizes: list[tuple[int, int]]) -> Iterator[np.ndarray]:
    for frame in frames:
        sizes.append(frame.shape[:2])
        yield frame
