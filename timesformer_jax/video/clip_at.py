"""The clip of a video that begins at a chosen second."""

import math
from pathlib import Path

import numpy as np

from timesformer_jax.checks import check_crops
from timesformer_jax.errors import InputError
from timesformer_jax.video.decoding import VideoFile
from timesformer_jax.video.limits import DEFAULT_LIMITS, Limits
from timesformer_jax.video.preprocess import Preprocess
from timesformer_jax.video.reading import Clip, stream_clips_of
from timesformer_jax.video.sampling import sliding_clips

ROUNDING = 1e-3
"""Seconds by which containers round timestamps."""


def clip_at(
    preprocess: Preprocess, video: str | Path, start: float, *, num_crops: int = 1, limits: Limits = DEFAULT_LIMITS
) -> Clip:
    """Prepare the clip whose window begins with the frame shown at second `start`, or the video's last clip if that is earlier.

    Args:
        preprocess: Preprocessing of the model.
        video: A video file or a folder of images.
        start: Second of the video, at least 0.
        num_crops: Crops of the clip: 1 (centre) or 3 (along the long side).
        limits: Largest frame, duration and file size to accept.

    Raises:
        InputError: If `start` is negative or after the end of the video, or `num_crops` is invalid.
        UnreadableVideoError: If no frame of the file can be decoded.
    """
    if not 0 <= start < math.inf:
        raise InputError(f"start must be at least 0 seconds, got {start}.")
    check_crops(num_crops)
    size, seconds = (0, 0), 0.0

    def choose(count: int, source: VideoFile) -> np.ndarray:
        nonlocal seconds
        times, fps = source.times, source.fps
        known = len(times) == count  # else frames can't be located by their times
        seconds = source.seconds if known and source.seconds else count / fps
        first = int(np.searchsorted(times, start + ROUNDING, side="right")) - 1 if known else int(start * fps)
        sizes = {"num_frames": preprocess.num_frames, "sampling": preprocess.sampling}
        # In units of frames, so that the second window begins at `first`.
        windows = sliding_clips(count, 1.0, window=preprocess.window_seconds * fps, stride=first or count, **sizes)
        return windows[min(first, 1, len(windows) - 1)][None]

    def crop(frame: np.ndarray) -> np.ndarray:
        nonlocal size
        size = frame.shape[:2]
        return preprocess.crops(frame, num_crops)

    *_, clip = stream_clips_of(video, choose, crop, limits=limits)  # the last one is of the video's real number of frames
    if start >= seconds:
        raise InputError(f"start must be less than the {seconds:.1f} seconds of {video}, got {start:g}.")
    return clip._replace(boxes=preprocess.boxes(*size, num_crops))
