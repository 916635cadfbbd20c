"""The clip of a video that begins at a chosen second."""

import math
from pathlib import Path

import numpy as np

from timesformer_jax.errors import InputError
from timesformer_jax.video.limits import DEFAULT_LIMITS, Limits
from timesformer_jax.video.preprocess import Preprocess
from timesformer_jax.video.reading import Clip, stream_clips
from timesformer_jax.video.sampling import sliding_clips


def clip_at(
    preprocess: Preprocess, video: str | Path, start: float, *, num_crops: int = 1, limits: Limits = DEFAULT_LIMITS
) -> Clip:
    """Prepare the clip of a video that begins at second `start`, or the last one of the video if it would begin later.

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
    if num_crops not in (1, 3):
        raise InputError(f"num_crops must be 1 (centre) or 3 (along the long side), got {num_crops}.")
    size, seconds = (0, 0), 0.0

    def choose(count: int, fps: float) -> np.ndarray:
        nonlocal seconds
        seconds = count / fps
        sizes = {"num_frames": preprocess.num_frames, "sampling": preprocess.sampling, "window": preprocess.window_seconds}
        if start * fps < 1:
            return sliding_clips(count, fps, stride=seconds, **sizes)[:1]
        return sliding_clips(count, fps, stride=start, **sizes)[:2][-1:]  # the second of windows that are `start` apart

    def crop(frame: np.ndarray) -> np.ndarray:
        nonlocal size
        size = frame.shape[:2]
        return preprocess.crops(frame, num_crops)

    *_, clip = stream_clips(video, choose, crop, limits=limits)  # the last one is of the video's real number of frames
    if start >= seconds:
        raise InputError(f"start must be less than the {seconds:.1f} seconds of {video}, got {start:g}.")
    return clip._replace(boxes=preprocess.boxes(*size, num_crops))
