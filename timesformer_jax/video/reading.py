"""Chosen frames of a video file, and clips of them one after the other."""

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from timesformer_jax._typing import Float, Int, ndarray
from timesformer_jax.video.limits import DEFAULT_LIMITS, Limits
from timesformer_jax.video.opening import open_video

log = logging.getLogger("timesformer_jax")

Choose = Callable[[int, float], np.ndarray]
"""(number of frames, frames per second) -> indices of frames, ascending along both axes if there are two."""


class Clip(NamedTuple):
    """One clip of a video, prepared for the model.

    Attributes:
        number: 0 for the first. A clip 0 that follows others of its video means that the video turned out to have another
            number of frames: its clips begin again, and those before don't count.
        num_clips: The number of clips of the video.
        seconds: When the clip begins.
        views: Its crops.
    """

    number: int
    num_clips: int
    seconds: float
    views: Float[ndarray, "crops T S S 3"]


def sample_frames(
    path: str | Path, choose: Choose, transform: Callable[[np.ndarray], Any], *, limits: Limits = DEFAULT_LIMITS
) -> tuple[dict[int, Any], np.ndarray]:
    """The frames that `choose(number of frames, frames per second)` picks: index -> `transform(frame)`, and the indices.

    Each frame is decoded, transformed and let go, so memory is what `transform` leaves, however long the video. Decoding stops
    behind the last one that is wanted, if the number of frames is certain; otherwise all frames are decoded, and `choose` is
    asked again if there are more or fewer of them than the packets promised.

    Raises `UnreadableVideoError` where not one frame can be decoded.
    """
    found: tuple[dict[int, Any], np.ndarray] = {}, np.zeros(0, np.int64)
    for indices, _, frames in _attempts(path, choose, transform, limits):
        found = dict(frames), indices
    return found


def stream_clips(
    path: str | Path,
    choose: Choose,
    transform: Callable[[np.ndarray], Float[ndarray, "crops S S 3"]],
    *,
    limits: Limits = DEFAULT_LIMITS,
) -> Iterator[Clip]:
    """The clips whose frames `choose` picks, a row of indices each, as soon as the last frame of each is decoded.

    Memory is that of the frames which one clip spans, however long the video. If the number of frames turns out to be another
    than the packets promised, the clips begin again (see `Clip.number`); otherwise as in `sample_frames`.
    """
    for indices, fps, frames in _attempts(path, choose, transform, limits):
        yield from join_clips(indices, fps, frames)


def join_clips(indices: Int[ndarray, "K T"], fps: float, frames: Iterator[tuple[int, Any]]) -> Iterator[Clip]:
    """Clips out of their frames, (index, crops) ascending; it ends where those do."""
    kept: dict[int, Any] = {}
    first_needed = np.minimum.accumulate(indices.min(axis=1)[::-1])[::-1].tolist()  # by each clip or a later one
    for number, (clip, needed_from) in enumerate(zip(indices.tolist(), [*first_needed[1:], math.inf], strict=True)):
        while any(index not in kept for index in clip):
            if (frame := next(frames, None)) is None:
                return
            kept[frame[0]] = frame[1]
        yield Clip(number, len(indices), clip[0] / fps, np.stack([kept[index] for index in clip], axis=1))
        kept = {index: crops for index, crops in kept.items() if index >= needed_from}


def _attempts(
    path: str | Path, choose: Choose, transform: Callable[[np.ndarray], Any], limits: Limits
) -> Iterator[tuple[np.ndarray, float, Iterator[tuple[int, Any]]]]:
    """Indices, frames per second and the chosen frames to go through, by the announced number of frames and then, if it
    proves wrong, by the real one."""
    num_frames, certain = 0, False
    while True:
        with open_video(path, limits=limits) as video:
            if not num_frames:
                num_frames, certain = max(video.count_packets(), 1), video.count_is_certain
            indices = choose(num_frames, video.fps)
            wanted: Sequence[int] = np.unique(indices).tolist()
            coming, num_kept = video.frames(only=set(wanted)), 0

            def kept(coming: Iterator[np.ndarray], wanted: Sequence[int]) -> Iterator[tuple[int, Any]]:
                nonlocal num_kept
                for index, frame in zip(wanted, coming, strict=False):
                    num_kept += 1
                    yield index, transform(frame)

            yield indices, video.fps, kept(coming, wanted)
            if num_kept < len(wanted) or not certain or video.num_damaged:
                for _ in coming:  # what is left is only counted
                    pass
                if video.num_decoded != num_frames:
                    num_frames, certain = video.num_decoded, True
                    continue
            if video.num_damaged:
                log.warning("Used, though damaged in %d place(s): %s.", video.num_damaged, path)
            return
