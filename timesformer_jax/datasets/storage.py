"""How a prepared video is kept: one list of bytes, an entry for each frame."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np

from timesformer_jax.errors import InputError
from timesformer_jax.os_errors import ReadError
from timesformer_jax.video.encoding import encode_h264, encode_jpeg
from timesformer_jax.video.entry import Entry, KeptFrames
from timesformer_jax.video.limits import DEFAULT_LIMITS, Limits, UnreadableVideoError
from timesformer_jax.video.opening import open_video

KEY_FRAME_EVERY = 2
"""H.264: the second frame refers to the first. Alone, at equal bytes, frames lose 4 dB; longer chains are slower to enter."""

CODECS: dict[str, Callable[[Iterable[np.ndarray]], list[bytes]]] = {
    "jpeg": lambda frames: encode_jpeg(frames, quality=90),
    "h264": lambda frames: encode_h264(frames, key_frame_every=KEY_FRAME_EVERY, crf=23),
}
"""`storage` -> RGB frames to bytes. JPEG is the fastest to read, H.264 a third of its size or less."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Storage:
    """`codec`: a key of `CODECS`. Frames with a short side above `short_side` pixels are shrunk to it; of videos with more
    than `max_fps` frames a second only as many are kept. `part_seconds`: longer videos become several examples. `limits`: what
    a video may have at most.
    """

    codec: str
    short_side: int
    max_fps: float = math.inf
    part_seconds: float = math.inf
    limits: Limits = DEFAULT_LIMITS

    def __post_init__(self) -> None:
        if self.codec not in CODECS:
            raise InputError(f"data.storage must be one of {', '.join(CODECS)}, got {self.codec!r}.")
        if self.short_side < 1:
            raise InputError(f"data.short_side must be at least 1 pixel, got {self.short_side}.")
        if not self.max_fps > 0:
            raise InputError(f"data.max_fps must be above 0, got {self.max_fps}.")
        if not self.part_seconds > 0:
            raise InputError(f"data.part_seconds must be above 0, got {self.part_seconds}.")


class StoredVideo(NamedTuple):
    """A prepared video, or a part of one: its encoded frames, `fps` as kept and as it was, and where it is damaged."""

    frames: list[bytes]
    fps: float
    source_fps: float
    height: int
    width: int
    num_damaged: int


def store_video(entry: Entry, storage: Storage) -> list[StoredVideo]:
    """Reads a video and encodes it; one part, but for videos longer than `storage.part_seconds`.

    Raises `UnreadableVideoError` where not one frame can be had.
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
            except Exception as error:  # such as sides that the encoder can't have; other videos are still to be read
                reason = f"its frames can't be kept as {storage.codec}: {type(error).__name__}: {error}"
                raise UnreadableVideoError(entry.path, reason) from error
            parts.append(StoredVideo(encoded, video.fps * share, video.fps, *sizes[0], 0))
    if not parts:
        raise UnreadableVideoError(entry.path, "none of its frames can be converted")
    return [part._replace(num_damaged=video.num_damaged) for part in parts]


class VideoFacts(NamedTuple):
    """What reading a video from start to end has shown."""

    num_frames: int
    fps: float
    height: int
    width: int
    num_damaged: int


def inspect_video(entry: Entry, limits: Limits = DEFAULT_LIMITS) -> VideoFacts:
    """Decodes all of a video and keeps nothing; raises `UnreadableVideoError` where not one frame can be had."""
    with open_video(entry.path, fps=entry.fps, limits=limits) as video:
        count, height, width = 0, 0, 0
        for frame in video.frames(span=entry.span(video.seconds)):
            count, (height, width) = count + 1, frame.shape[:2]
    if not count:
        raise UnreadableVideoError(entry.path, "none of its frames can be converted")
    return VideoFacts(count, video.fps, height, width, video.num_damaged)


def _parts(frames: Iterator[np.ndarray], length: float) -> Iterator[Iterator[np.ndarray]]:
    """The frames in runs of `length`, each to be used up before the next is asked for."""

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
