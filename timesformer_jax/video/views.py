"""Plans of a video's views: the frames and pixel positions of each clip, computed in NumPy without touching pixels."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from timesformer_jax._typing import Float, Int, UInt8, ndarray
from timesformer_jax.checks import check_choice, check_crops, check_whole
from timesformer_jax.errors import InputError
from timesformer_jax.video.geometry import (
    crop_offset,
    random_resized_crop,
    sample_positions,
    scale_short_side,
    view_crop_offset,
)
from timesformer_jax.video.sampling import PLACEMENT_NAMES, SAMPLINGS, clip_frames, eval_clips, segment_frames

JITTERS: dict[str, Callable[[Any, float, float], float]] = {
    "uniform": lambda random, low, high: random.uniform(low, high),
    "inverse_uniform": lambda random, low, high: 1 / random.uniform(1 / high, 1 / low),
}
"""Maps `jitter` to the distribution of the short side: Kinetics configs draw it uniformly, Something-Something configs draw its
inverse uniformly. The jitter "resized_crop" isn't listed, since it draws a box of random area and aspect instead."""

WIDEST = 16 / 9
"""Longest box of "resized_crop", in multiples of the short side, so that all windows have one size."""


class Video(NamedTuple):
    """Facts of a video that a plan depends on: number of frames, frames per second, and size in pixels."""

    num_frames: int
    fps: float
    height: int
    width: int


class View(NamedTuple):
    """One crop of one clip.

    Attributes:
        frames: Indices of the clip's frames in the video.
        rows: Positions of the crop's rows in the stored frame.
        columns: Positions of the crop's columns in the stored frame.
    """

    frames: Int[ndarray, "T"]
    rows: Float[ndarray, "S"]
    columns: Float[ndarray, "S"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvalViews:
    """Views of each video over which evaluation averages scores; by default one clip and its centre crop.

    Attributes:
        num_clips: Clips of each video, at least 1; ignored if `ClipOptions.placement` is "tiled".
        num_crops: Crops of each clip: 1 (centre) or 3 (along the long side).

    Raises:
        InputError: If either is out of range.
    """

    num_clips: int = 1
    num_crops: int = 1

    def __post_init__(self) -> None:
        check_crops(self.num_crops)
        check_whole("num_clips", self.num_clips)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClipOptions:
    """Sampling and cropping of a video's clips.

    Attributes:
        num_frames: Frames of a clip.
        crop_size: Side of the square crop that the model receives, in pixels.
        sampling: "uniform" (a span of `sampling_rate * num_frames` frames at 30 fps; Kinetics) or "segments" (one frame from
            each of `num_frames` equal segments of the whole video; Something-Something).
        sampling_rate: Distance between a clip's frames, in frames at 30 fps, above 0; None to derive it from `span`.
        short_side: (smallest, largest) length in pixels to which training scales the short side. Evaluation with a single
            centre crop uses the smallest.
        placement: Positions of evaluation clips, one of `PLACEMENT_NAMES`; "tiled" covers the video with adjacent clips.
        jitter: Training crops. A key of `JITTERS` draws a short side from `short_side`, then a random crop; "resized_crop"
            scales a random box to the crop.
        area: (smallest, largest) area of a "resized_crop" box as a fraction of the frame, within (0, 1].
        aspect: (smallest, largest) width / height of a "resized_crop" box.
        clips_per_video: Clips that training takes from a video each time it is read, at least 1.
        eval_crop_size: Side of evaluation's crops in pixels; 0 for `crop_size`.
        span: Frames at 30 fps that a clip covers; sets `sampling_rate` if that is None.

    Raises:
        InputError: If a value is out of range.
    """

    num_frames: int = 8
    crop_size: int = 224
    sampling: str = "uniform"
    sampling_rate: Any = 32.0
    short_side: Any = (256, 320)
    placement: str = "official"
    jitter: str = "uniform"
    area: Any = (0.08, 1.0)
    aspect: Any = (3 / 4, 4 / 3)
    clips_per_video: int = 1
    eval_crop_size: int = 0
    span: dataclasses.InitVar[float | None] = None

    def __post_init__(self, span: float | None) -> None:
        for name in ("num_frames", "crop_size", "clips_per_video"):
            check_whole(name, getattr(self, name))
        self._derive_rate(span)
        choices = {"sampling": SAMPLINGS, "placement": PLACEMENT_NAMES, "jitter": (*JITTERS, "resized_crop")}
        for name, known in choices.items():
            check_choice(name, getattr(self, name), known)
        if self.placement == "tiled" and self.sampling == "segments":
            raise InputError("placement=tiled needs sampling=uniform: a clip of segments already covers the whole video.")
        if self.eval_crop_size < 0:
            raise InputError(f"eval_crop_size must be at least 0 (the training crop's), got {self.eval_crop_size}.")
        largest = max(self.crop_size, self.eval_crop)
        if not _ascending(self.short_side) or largest > self.short_side[0]:
            side = "clips.eval_crop_size" if largest > self.crop_size else "the model's image_size"
            raise InputError(
                f"short_side must be (smallest, largest) with smallest at least {largest}, the side of the "
                f"crop ({side}), got {self.short_side}."
            )
        if not _ascending(self.area) or not self.area[0] > 0 or self.area[1] > 1:
            raise InputError(f"area must be (smallest, largest), above 0 and at most 1, got {self.area}.")
        if not _ascending(self.aspect) or not self.aspect[0] > 0 or self.aspect[1] == math.inf:
            raise InputError(f"aspect must be (smallest, largest), above 0 and finite, got {self.aspect}.")
        if not 0 < self.sampling_rate < math.inf:
            raise InputError(f"sampling_rate must be above 0 and finite, got {self.sampling_rate}.")

    def _derive_rate(self, span: float | None) -> None:
        if self.sampling_rate is None:
            if span is None:
                raise InputError("sampling_rate is None, and so is span, from which it could be derived; set one of them.")
            object.__setattr__(self, "sampling_rate", span / self.num_frames)

    @property
    def eval_crop(self) -> int:
        """Side of evaluation's crops in pixels."""
        return self.eval_crop_size or self.crop_size

    @property
    def eval_short_side(self) -> int:
        """Short side in pixels from which evaluation takes a single centre crop."""
        return self.short_side[0] if self.sampling == "uniform" else self.eval_crop

    def training_views(self, random: np.random.Generator, video: Video, longest: int) -> list[View]:
        """Draw `clips_per_video` random clips; the sides of a "resized_crop" box are at most `longest` pixels."""
        return [self._training_view(random, video, longest) for _ in range(self.clips_per_video)]

    def _training_view(self, random: np.random.Generator, video: Video, longest: int) -> View:
        if self.sampling == "uniform":
            span = {"num_frames": self.num_frames, "sampling_rate": self.sampling_rate}
            frames = clip_frames(video.num_frames, video.fps, start=random.random(), **span)
        else:
            frames = segment_frames(video.num_frames, num_frames=self.num_frames, random=random)
        if self.jitter == "resized_crop":
            area, log_aspect = random.uniform(*self.area), random.uniform(*np.log(self.aspect))
            place = {"vertical": random.random(), "horizontal": random.random()}
            top, left, height, width = random_resized_crop(
                video.height, video.width, area=area, aspect=math.exp(log_aspect), longest=longest, **place
            )
            rows = top + sample_positions(height, self.crop_size, 0, self.crop_size)
            columns = left + sample_positions(width, self.crop_size, 0, self.crop_size)
            return View(frames, rows, columns)
        scaled = scale_short_side(video.height, video.width, round(JITTERS[self.jitter](random, *self.short_side)))
        offset = crop_offset(*scaled, self.crop_size, vertical=random.random(), horizontal=random.random())
        return self._crop(video, frames, scaled, offset, self.crop_size)

    def eval_views(self, video: Video, views: EvalViews) -> list[View]:
        """Return all views of a video for evaluation, with the crops of each clip adjacent.

        For three crops the short side is scaled to the crop. For a single centre crop it is scaled to the smallest training
        size if `sampling` is "uniform", as in the official evaluation, and to the crop otherwise.
        """
        span = {"num_frames": self.num_frames, "sampling_rate": self.sampling_rate}
        clips = eval_clips(
            video.num_frames, video.fps, num_clips=views.num_clips, sampling=self.sampling, placement=self.placement, **span
        )
        scaled = scale_short_side(video.height, video.width, self._eval_short_side(views.num_crops))
        crops = range(3) if views.num_crops == 3 else [1]
        offsets = [view_crop_offset(*scaled, self.eval_crop, crop) for crop in crops]
        return [self._crop(video, frames, scaled, offset, self.eval_crop) for frames in clips for offset in offsets]

    def _crop(self, video: Video, frames: np.ndarray, scaled: tuple[int, int], offset: tuple[int, int], size: int) -> View:
        rows = sample_positions(video.height, scaled[0], offset[0], size)
        return View(frames, rows, sample_positions(video.width, scaled[1], offset[1], size))

    def training_window(self, stored_short_side: int) -> int:
        """Return the side in pixels of windows that can hold any training crop, for frames of at most `stored_short_side`."""
        if self.jitter == "resized_crop":
            return math.ceil(stored_short_side * min(WIDEST, math.sqrt(self.area[1] * WIDEST * self.aspect[1]))) + 2
        return self._window(stored_short_side, self.short_side[0], self.crop_size)

    def eval_window(self, stored_short_side: int, num_crops: int) -> int:
        """Return the side in pixels of windows that can hold any evaluation crop, for frames of at most `stored_short_side`."""
        return self._window(stored_short_side, self._eval_short_side(num_crops), self.eval_crop)

    def _eval_short_side(self, num_crops: int) -> int:
        return self.eval_short_side if num_crops == 1 else self.eval_crop

    def _window(self, stored_short_side: int, scaled_short_side: int, size: int) -> int:
        # The long side is rounded down to whole pixels, so the sampling positions along it can be this far apart.
        apart = stored_short_side / scaled_short_side * (1 + 1 / scaled_short_side)
        return math.ceil((size - 1) * apart) + 2  # 2 for the neighbours that interpolation reads


def _ascending(pair: Any) -> bool:
    numbers = isinstance(pair, tuple) and len(pair) == 2 and all(isinstance(value, int | float) for value in pair)
    return numbers and pair[0] <= pair[1]


class Windows(NamedTuple):
    """Plan for decoding a video's views and cutting them out.

    Attributes:
        frames: Indices of the frames to decode, ascending, without duplicates.
        box: (top, left, height, width) of the region to decode in each frame.
        which: Positions in `frames` of each view's frames.
        corners: (top, left) of each view's window in the box.
        rows: Positions of each view's rows in its window.
        columns: Positions of each view's columns in its window.
    """

    frames: list[int]
    box: Int[ndarray, "4"]
    which: Int[ndarray, "views T"]
    corners: Int[ndarray, "views 2"]
    rows: Float[ndarray, "views S"]
    columns: Float[ndarray, "views S"]


def plan_windows(views: Sequence[View], video: Video, size: int) -> Windows:
    """Plan windows of `size` x `size` pixels that contain the views' pixels."""
    frames, which = np.unique(np.stack([view.frames for view in views]), return_inverse=True)
    rows, columns = np.stack([view.rows for view in views]), np.stack([view.columns for view in views])
    tops = np.floor(rows.min(axis=1)).astype(np.int64).clip(0, max(video.height - size, 0))
    lefts = np.floor(columns.min(axis=1)).astype(np.int64).clip(0, max(video.width - size, 0))
    # One more pixel on every side, since decoding a cropped JPEG changes the colours at its border.
    top, left = max(int(tops.min()) - 1, 0), max(int(lefts.min()) - 1, 0)
    bottom, right = min(int(tops.max()) + size + 1, video.height), min(int(lefts.max()) + size + 1, video.width)
    return Windows(
        frames.tolist(),
        np.array([top, left, bottom - top, right - left], np.int64),
        which.reshape(len(views), -1).astype(np.int64),
        np.stack([tops - top, lefts - left], axis=1),
        (rows - tops[:, None]).astype(np.float32),
        (columns - lefts[:, None]).astype(np.float32),
    )


def cut_windows(pixels: UInt8[ndarray, "F H W 3"], plan: Windows, size: int) -> UInt8[ndarray, "views T R R 3"]:
    """Cut the views' windows out of decoded pixels, padded with zeros where a window extends past the frame.

    Args:
        pixels: The plan's box of each of its frames.
        plan: Plan of the windows.
        size: Side of the windows in pixels.
    """
    windows = np.zeros((*plan.which.shape, size, size, 3), np.uint8)
    for window, which, (top, left) in zip(windows, plan.which, plan.corners.tolist(), strict=True):
        part = pixels[:, top : top + size, left : left + size]
        window[:, : part.shape[1], : part.shape[2]] = part[which]
    return windows
