"""Frame sampling of clips: the official samplers, as index arithmetic."""

import math
from collections.abc import Callable

import numpy as np

from timesformer_jax._typing import Int, ndarray
from timesformer_jax.checks import check_choice, check_whole

TARGET_FPS = 30.0
"""Frame rate at which `sampling_rate` counts frames, whatever the video's own rate."""


def clip_frames(
    num_video_frames: int, fps: float, *, num_frames: int, sampling_rate: float, start: float
) -> Int[ndarray, "num_frames"]:
    """Return frame indices spread evenly over a span of `sampling_rate * num_frames` frames at 30 fps, both ends included.

    "8 x 32" at 30 fps therefore takes frames 0, 36, 72, ... 255, with a stride of 36.4 instead of 32. If the video is shorter
    than the span, the last frame repeats.

    Source: official `datasets/decoder.py`, `get_start_end_idx` and `temporal_sampling`; float32 as in PyTorch.

    Args:
        num_video_frames: Frames of the video.
        fps: Frames per second of the video.
        num_frames: Frames of the clip.
        sampling_rate: Frames at 30 fps per frame of the clip.
        start: Position of the span in [0, 1]: 0 begins at the first frame, 1 ends with the video. Training draws it at random.
            Evaluation uses k / K for clip k of K, so a single clip begins at the first frame.
    """
    span = sampling_rate * num_frames * fps / TARGET_FPS
    first = max(num_video_frames - span, 0) * start
    frames = np.linspace(first, first + span - 1, num_frames, dtype=np.float32)
    return np.floor(np.clip(frames, 0, num_video_frames - 1)).astype(np.int64)


def segment_bounds(num_video_frames: int, num_frames: int) -> tuple[Int[ndarray, "num_frames"], Int[ndarray, "num_frames"]]:
    """Return the first and last index (inclusive) of each of `num_frames` equal segments of the whole video.

    Training takes a random frame of each, evaluation the middle one (`segment_frames`). Edges are rounded half to even.
    Source: official `datasets/ssv2.py`, `get_seq_frames`.
    """
    edges = np.round((num_video_frames - 1) / num_frames * np.arange(num_frames + 1)).astype(np.int64)
    return edges[:-1], edges[1:]


def segment_frames(
    num_video_frames: int, *, num_frames: int, random: np.random.Generator | None = None
) -> Int[ndarray, "num_frames"]:
    """Return one frame index per segment of the whole video: its middle, or a random one if `random` is given."""
    first, last = segment_bounds(num_video_frames, num_frames)
    return (first + last) // 2 if random is None else random.integers(first, last + 1)


SAMPLINGS = ("uniform", "segments")
"""Values of `sampling`: a span of `sampling_rate * num_frames` frames at 30 fps (Kinetics), or one frame from each of
`num_frames` segments of the whole video (Something-Something)."""

PLACEMENTS: dict[str, Callable[[int, int], float]] = {
    "official": lambda clip, num_clips: clip / num_clips,
    "centre": lambda clip, num_clips: (clip + 0.5) / num_clips,
    "dense": lambda clip, num_clips: clip / (num_clips - 1) if num_clips > 1 else 0.5,
}
"""Maps `placement` to the start of evaluation clip k of K: 0 begins at the first frame, 1 ends with the video.

"official": the first clip begins with the video and the last doesn't reach its end (`datasets/decoder.py`,
`get_start_end_idx`). "centre": the middles of K equal segments; a single clip is taken from the middle of the video, as the
paper describes. "dense": evenly from the first frame to the last. The placement "tiled" isn't listed, since its number of
clips follows from the video: see `tiled_clips`.
"""

PLACEMENT_NAMES = (*PLACEMENTS, "tiled")
"""Valid values of `ClipOptions.placement` and `Preprocess.placement`."""


def eval_clips(
    num_video_frames: int,
    fps: float,
    *,
    num_clips: int,
    num_frames: int,
    sampling: str,
    sampling_rate: float,
    placement: str,
) -> Int[ndarray, "num_clips num_frames"]:
    """Return the frame indices of every evaluation clip of a video.

    Args:
        num_video_frames: Frames of the video.
        fps: Frames per second of the video.
        num_clips: Number of clips; ignored if `placement` is "tiled".
        num_frames: Frames of each clip.
        sampling: One of `SAMPLINGS`. With "segments" all clips are the same.
        sampling_rate: Frames at 30 fps per frame of a clip; used by "uniform".
        placement: Positions of the clips, one of `PLACEMENT_NAMES`.

    Raises:
        InputError: If the video has no frame, or a name is unknown.
    """
    check_whole("num_video_frames", num_video_frames)
    check_choice("sampling", sampling, SAMPLINGS)
    check_choice("placement", placement, PLACEMENT_NAMES)
    if placement == "tiled" and sampling == "uniform":
        return tiled_clips(num_video_frames, fps, num_frames=num_frames, sampling_rate=sampling_rate)
    if sampling == "segments":
        return np.stack([segment_frames(num_video_frames, num_frames=num_frames)] * num_clips)
    starts = [PLACEMENTS[placement](clip, num_clips) for clip in range(num_clips)]
    span = {"num_frames": num_frames, "sampling_rate": sampling_rate}
    return np.stack([clip_frames(num_video_frames, fps, start=start, **span) for start in starts])


def nearest_clips(num_clips: int, *, of: int, placement: str) -> list[int]:
    """Choose `num_clips` out of `of` evaluated clips: those nearest to the positions that `num_clips` clips would have.

    With placement "official" the positions match exactly if `num_clips` divides `of`. Returns ascending clip numbers.

    Raises `InputError` if `placement` is no key of `PLACEMENTS`.
    """
    check_choice("placement", placement, PLACEMENTS)
    place = PLACEMENTS[placement]
    there = np.array([place(clip, of) for clip in range(of)])
    return [int(np.argmin(np.abs(there - place(clip, num_clips)))) for clip in range(num_clips)]


def tiled_clips(
    num_video_frames: int, fps: float, *, num_frames: int, sampling_rate: float
) -> Int[ndarray, "num_clips num_frames"]:
    """Return frame indices of adjacent clips that cover the whole video without overlap.

    The last clip repeats the last frame if it extends past the end. The paper evaluates HowTo100M this way (Table 8).

    Args:
        num_video_frames: Frames of the video.
        fps: Frames per second of the video.
        num_frames: Frames of each clip.
        sampling_rate: Frames at 30 fps per frame of a clip.
    """
    span = sampling_rate * num_frames * fps / TARGET_FPS
    firsts = np.arange(max(math.ceil(num_video_frames / span), 1)) * span
    frames = np.linspace(firsts, firsts + span - 1, num_frames, axis=1)
    return np.floor(np.clip(frames, 0, num_video_frames - 1)).astype(np.int64)


def sliding_clips(
    num_video_frames: int, fps: float, *, num_frames: int, sampling: str, window: float, stride: float
) -> Int[ndarray, "num_windows num_frames"]:
    """Return frame indices of overlapping windows that cover the whole video; the last one ends with the video.

    A video shorter than a window has a single one, in which the last frame repeats.

    Args:
        num_video_frames: Frames of the video.
        fps: Frames per second of the video.
        num_frames: Frames of each window.
        sampling: Spread of a window's frames, one of `SAMPLINGS`: "uniform" includes both ends, "segments" has the middles of
            equal segments.
        window: Length of a window in seconds.
        stride: Seconds from the start of a window to the start of the next; at least one frame, and less before the last one.

    Raises:
        InputError: If the video has no frame, or `sampling` is unknown.
    """
    check_whole("num_video_frames", num_video_frames)
    check_choice("sampling", sampling, SAMPLINGS)
    span, last = window * fps, max(num_video_frames - window * fps, 0.0)
    step = max(stride * fps, 1.0)
    firsts = np.minimum(np.arange(math.ceil(last / step - 1e-9) + 1) * step, last)
    if sampling == "segments":
        inside = (np.arange(num_frames) + 0.5) * span / num_frames
    else:
        inside = np.linspace(0, max(span - 1, 0), num_frames)
    return np.floor(np.clip(firsts[:, None] + inside, 0, num_video_frames - 1)).astype(np.int64)
