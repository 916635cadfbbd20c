"""Which frames of a video make a clip: the official samplers, as index arithmetic."""

import math
from collections.abc import Callable

import numpy as np

from timesformer_jax._typing import Int, ndarray

TARGET_FPS = 30.0
"""`sampling_rate` counts frames of a video at this rate, whatever the video's own."""


def clip_frames(
    num_video_frames: int, fps: float, *, num_frames: int, sampling_rate: float, start: float
) -> Int[ndarray, "num_frames"]:
    """Indices of `num_frames` frames spread over a span of `sampling_rate * num_frames` frames at 30 fps, both ends included.

    `start` in [0, 1] places the span: 0 at the first frame, 1 so that it ends with the video. Training draws it; test clip
    k of K takes k / K (so a single test clip begins at the first frame). Where the video is shorter than the span, the last
    frame repeats. "8 x 32" at 30 fps therefore takes frames 0, 36, 72, ... 255: a stride of 36.4, not 32.

    Source: official `datasets/decoder.py`, `get_start_end_idx` and `temporal_sampling`; float32 as in PyTorch.
    """
    span = sampling_rate * num_frames * fps / TARGET_FPS
    first = max(num_video_frames - span, 0) * start
    frames = np.linspace(first, first + span - 1, num_frames, dtype=np.float32)
    return np.floor(np.clip(frames, 0, num_video_frames - 1)).astype(np.int64)


def segment_bounds(num_video_frames: int, num_frames: int) -> tuple[Int[ndarray, "num_frames"], Int[ndarray, "num_frames"]]:
    """First and last index (inclusive) of each of `num_frames` equal segments of the whole video.

    Training takes a random frame of each, testing the middle one (`segment_frames`). Edges are rounded half to even.
    Source: official `datasets/ssv2.py`, `get_seq_frames`.
    """
    edges = np.round((num_video_frames - 1) / num_frames * np.arange(num_frames + 1)).astype(np.int64)
    return edges[:-1], edges[1:]


def segment_frames(
    num_video_frames: int, *, num_frames: int, random: np.random.Generator | None = None
) -> Int[ndarray, "num_frames"]:
    """Indices of one frame per segment of the whole video: its middle, or a random one where `random` is given."""
    first, last = segment_bounds(num_video_frames, num_frames)
    return (first + last) // 2 if random is None else random.integers(first, last + 1)


SAMPLINGS = ("uniform", "segments")
"""`sampling` -> a span of `sampling_rate * num_frames` frames at 30 fps (Kinetics), or one frame of each of `num_frames` parts
of the whole video (Something-Something)."""

PLACEMENTS: dict[str, Callable[[int, int], float]] = {
    "official": lambda clip, num_clips: clip / num_clips,
    "centre": lambda clip, num_clips: (clip + 0.5) / num_clips,
    "dense": lambda clip, num_clips: clip / (num_clips - 1) if num_clips > 1 else 0.5,
}
"""`placement` -> where test clip k of K begins, 0 at the first frame and 1 so that it ends with the video.

"official": the first clip begins with the video, the last doesn't reach its end (`datasets/decoder.py`, `get_start_end_idx`).
"centre": in the middle of K equal parts; with one clip the middle of the video, as the paper says it tests. "dense": from the
first frame to the last. "tiled", besides these, isn't K clips: see `tiled_clips`.
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
    """Indices of the frames of every test clip of a video; those of "segments" are all the same.

    `placement`: one of `PLACEMENT_NAMES`; of "tiled" clips there are as many as it takes, whatever `num_clips`.
    """
    if placement == "tiled" and sampling == "uniform":
        return tiled_clips(num_video_frames, fps, num_frames=num_frames, sampling_rate=sampling_rate)
    if sampling == "segments":
        return np.stack([segment_frames(num_video_frames, num_frames=num_frames)] * num_clips)
    starts = [PLACEMENTS[placement](clip, num_clips) for clip in range(num_clips)]
    span = {"num_frames": num_frames, "sampling_rate": sampling_rate}
    return np.stack([clip_frames(num_video_frames, fps, start=start, **span) for start in starts])


def nearest_clips(num_clips: int, *, of: int, placement: str) -> list[int]:
    """The numbers of `num_clips` out of `of` test clips, ascending: those that lie nearest to where a test with `num_clips`
    clips would place its own. With "official", they are the very same where `num_clips` divides `of`."""
    place = PLACEMENTS[placement]
    there = np.array([place(clip, of) for clip in range(of)])
    return [int(np.argmin(np.abs(there - place(clip, num_clips)))) for clip in range(num_clips)]


def tiled_clips(
    num_video_frames: int, fps: float, *, num_frames: int, sampling_rate: float
) -> Int[ndarray, "num_clips num_frames"]:
    """As many clips side by side as cover the whole video, none overlapping; the last one repeats the last frame where it
    reaches beyond the end. The paper tests HowTo100M so (Table 8)."""
    span = sampling_rate * num_frames * fps / TARGET_FPS
    firsts = np.arange(max(math.ceil(num_video_frames / span), 1)) * span
    frames = np.linspace(firsts, firsts + span - 1, num_frames, axis=1)
    return np.floor(np.clip(frames, 0, num_video_frames - 1)).astype(np.int64)
