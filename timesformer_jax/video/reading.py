"""Reading of chosen frames of a video file, all at once or streamed as clips."""

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from timesformer_jax._typing import Float, Int, ndarray
from timesformer_jax.video.decoding import VideoFile
from timesformer_jax.video.limits import DEFAULT_LIMITS, Limits
from timesformer_jax.video.opening import open_video

log = logging.getLogger("timesformer_jax")

Choose = Callable[[int, float], np.ndarray]
"""Function from (number of frames, frames per second) to frame indices, which ascend along both axes if there are two."""


ChooseOf = Callable[[int, VideoFile], np.ndarray]
"""Like `Choose`, but receives the open video in place of its frames per second."""


class Clip(NamedTuple):
    """One clip of a video, prepared for the model.

    Attributes:
        number: Position among the video's clips, from 0. If clip 0 comes again, the video turned out to have a different number
            of frames: its clips start over, and the earlier ones must be discarded.
        num_clips: Number of clips of the video.
        seconds: Second at which the clip begins.
        views: Crops of the clip.
        times: Presentation time of each frame of the clip, in seconds from the video's first frame.
        boxes: (top, left, bottom, right) of each crop, as fractions of the frame's height and width.
    """

    number: int
    num_clips: int
    seconds: float
    views: Float[ndarray, "crops T S S 3"]
    times: Float[ndarray, "T"] = np.zeros(0)
    boxes: Float[ndarray, "crops 4"] = np.zeros((0, 4))


def sample_frames(
    path: str | Path, choose: Choose, transform: Callable[[np.ndarray], Any], *, limits: Limits = DEFAULT_LIMITS
) -> tuple[dict[int, Any], np.ndarray]:
    """Read and transform the frames that `choose` picks.

    Each frame is freed once it is transformed, so only the results are held in memory, regardless of the video's length.
    Decoding stops after the last chosen frame if the number of frames is known reliably. Otherwise all frames are decoded, and
    `choose` is called again if their number differs from that in the packets.

    Args:
        path: A video file or a folder of images.
        choose: Called with the number of frames and the frames per second; returns frame indices.
        transform: Applied to each chosen frame.
        limits: Largest frame, duration and file size to accept.

    Returns:
        A dict from index to transformed frame, and the indices.

    Raises:
        UnreadableVideoError: If no frame can be decoded.
    """
    found: tuple[dict[int, Any], np.ndarray] = {}, np.zeros(0, np.int64)
    for indices, _, _, frames in _attempts(path, _by_rate(choose), transform, limits):
        found = dict(frames), indices
    return found


def stream_clips(
    path: str | Path,
    choose: Choose,
    transform: Callable[[np.ndarray], Float[ndarray, "crops S S 3"]],
    *,
    limits: Limits = DEFAULT_LIMITS,
) -> Iterator[Clip]:
    """Yield the clips whose frames `choose` picks, each as soon as its last frame is decoded.

    Only the transformed frames that one clip spans are held in memory, regardless of the video's length. If the number of
    frames differs from that in the packets, the clips start over (see `Clip.number`).

    Args:
        path: A video file or a folder of images.
        choose: Called with the number of frames and the frames per second; returns a row of frame indices per clip.
        transform: Applied to each chosen frame; returns its crops.
        limits: Largest frame, duration and file size to accept.

    Raises:
        UnreadableVideoError: If no frame can be decoded.
    """
    return stream_clips_of(path, _by_rate(choose), transform, limits=limits)


def _by_rate(choose: Choose) -> ChooseOf:
    return lambda num_frames, video: choose(num_frames, video.fps)


def stream_clips_of(
    path: str | Path,
    choose: ChooseOf,
    transform: Callable[[np.ndarray], Float[ndarray, "crops S S 3"]],
    *,
    limits: Limits = DEFAULT_LIMITS,
) -> Iterator[Clip]:
    """Yield clips as `stream_clips` does; `choose` receives the open video, with the presentation times of its frames."""
    for indices, fps, times, frames in _attempts(path, choose, transform, limits):
        for clip in join_clips(indices, fps, frames):
            shown = np.array([times[index] for index in indices[clip.number].tolist()])
            yield clip._replace(seconds=float(shown[0]), times=shown)


def join_clips(indices: Int[ndarray, "K T"], fps: float, frames: Iterator[tuple[int, Any]]) -> Iterator[Clip]:
    """Assemble clips from frames, given as (index, crops) with ascending indices; stops when the frames end."""
    kept: dict[int, Any] = {}
    first_needed = np.minimum.accumulate(indices.min(axis=1)[::-1])[::-1].tolist()  # by this clip or a later one
    for number, (clip, needed_from) in enumerate(zip(indices.tolist(), [*first_needed[1:], math.inf], strict=True)):
        while any(index not in kept for index in clip):
            if (frame := next(frames, None)) is None:
                return
            kept[frame[0]] = frame[1]
        yield Clip(number, len(indices), clip[0] / fps, np.stack([kept[index] for index in clip], axis=1))
        kept = {index: crops for index, crops in kept.items() if index >= needed_from}


def _attempts(
    path: str | Path, choose: ChooseOf, transform: Callable[[np.ndarray], Any], limits: Limits
) -> Iterator[tuple[np.ndarray, float, dict[int, float], Iterator[tuple[int, Any]]]]:
    """Choose and decode frames based on the announced number of frames and, if that proves wrong, again based on the real one.

    Yields:
        The chosen indices, the frames per second, the presentation times of the frames consumed so far, and an iterator of
        (index, transformed frame) to consume.
    """
    num_frames, certain = 0, False
    while True:
        with open_video(path, limits=limits) as video:
            if not num_frames:
                num_frames, certain = max(video.count_packets(), 1), video.count_is_certain
            indices = choose(num_frames, video)
            wanted: Sequence[int] = np.unique(indices).tolist()
            coming, times = video.frames(only=set(wanted)), {}

            yield indices, video.fps, times, _timed(video, wanted, coming, transform, times)
            if len(times) < len(wanted) or not certain or video.num_damaged:
                for _ in coming:  # the remaining frames are only counted
                    pass
                if video.num_decoded != num_frames:
                    num_frames, certain = video.num_decoded, True
                    continue
            if video.num_damaged:
                log.warning("Used, though damaged in %d place(s): %s.", video.num_damaged, path)
            return


def _timed(
    video: VideoFile,
    wanted: Sequence[int],
    coming: Iterator[np.ndarray],
    transform: Callable[[np.ndarray], Any],
    times: dict[int, float],
) -> Iterator[tuple[int, Any]]:
    """Yield each wanted frame with its index, transformed, and note its presentation time in `times`."""
    for index, frame in zip(wanted, coming, strict=False):
        times[index] = video.shown
        yield index, transform(frame)
