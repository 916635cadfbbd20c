"""Preprocessing of a video into a model's input: the official evaluation views, with each checkpoint's constants."""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from timesformer_jax._typing import Float, Int, UInt8, ndarray
from timesformer_jax.checks import check_choice, check_crops, check_whole
from timesformer_jax.errors import InputError
from timesformer_jax.interpolation import linear
from timesformer_jax.video.geometry import scale_short_side, view_crop_offset
from timesformer_jax.video.limits import DEFAULT_LIMITS, Limits
from timesformer_jax.video.pixels import OFFICIAL_MEAN, OFFICIAL_STD, denormalize
from timesformer_jax.video.reading import Clip, join_clips, stream_clips
from timesformer_jax.video.sampling import PLACEMENT_NAMES, SAMPLINGS, TARGET_FPS, eval_clips, sliding_clips

CHANNEL_ORDERS = ("rgb", "bgr")
"""Valid values of `Preprocess.channel_order`."""

SEGMENTS_WINDOW = 4.0
"""Usual length of a window in seconds with sampling "segments", about the length of a video of Something-Something."""


class Window(NamedTuple):
    """One of the overlapping windows that cover a video.

    Attributes:
        clip: Its frames, prepared for the model.
        start: First second that it covers.
        end: Last second that it covers.
    """

    clip: Clip
    start: float
    end: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preprocess:
    """Preprocessing of videos for a model; call it with a path or with frames to get the model's input.

    Source: official `datasets/kinetics.py`, `datasets/ssv2.py`, `datasets/utils.py`.

    Attributes:
        num_frames: Frames per clip, as the model expects.
        crop_size: Side of the square crop in pixels, as the model expects.
        sampling: One of `SAMPLINGS`.
        sampling_rate: Distance between sampled frames, in frames at 30 fps, if `sampling` is "uniform".
        mean: Mean of each channel in `channel_order`, for pixels in [0, 1].
        std: Standard deviation of each channel in `channel_order`, for pixels in [0, 1].
        channel_order: Channel order of the model's input: "rgb", or "bgr" for the official Something-Something models.
        short_side: Length in pixels to which the short side is scaled before a single centre crop; None for `crop_size`. For
            three crops it is always scaled to `crop_size`.
        placement: Positions of evaluation clips, one of `PLACEMENT_NAMES`; "tiled" covers the video with adjacent clips.

    Raises:
        InputError: If a value is invalid.
    """

    num_frames: int
    crop_size: int
    sampling: str = "uniform"
    sampling_rate: float = 32.0
    mean: Sequence[float] = OFFICIAL_MEAN
    std: Sequence[float] = OFFICIAL_STD
    channel_order: str = "rgb"
    short_side: int | None = None
    placement: str = "official"

    def __post_init__(self) -> None:
        for name in ("mean", "std"):  # JSON has lists; equal numbers must compare equal
            try:
                object.__setattr__(self, name, tuple(float(value) for value in getattr(self, name)))
            except (TypeError, ValueError):
                raise InputError(f"{name} must be three numbers, got {getattr(self, name)!r}.") from None
        for name, choices in (("sampling", SAMPLINGS), ("channel_order", CHANNEL_ORDERS), ("placement", PLACEMENT_NAMES)):
            check_choice(name, getattr(self, name), choices)
        for name in ("num_frames", "crop_size"):
            check_whole(name, getattr(self, name))
        if not 0 < self.sampling_rate < math.inf:
            raise InputError(f"sampling_rate must be above 0, got {self.sampling_rate}.")
        if self.short_side is not None and self.short_side < self.crop_size:
            raise InputError(f"short_side must be at least crop_size={self.crop_size}, got {self.short_side}.")
        finite = all(map(math.isfinite, (*self.mean, *self.std)))
        if len(self.mean) != 3 or len(self.std) != 3 or not finite or min(self.std) <= 0:
            raise InputError(f"mean and std must be three numbers, std positive, got {self.mean} and {self.std}.")

    def __call__(
        self,
        video: str | Path | Any,
        *,
        fps: float = 30.0,
        num_clips: int = 1,
        num_crops: int = 3,
        limits: Limits = DEFAULT_LIMITS,
    ) -> Float[ndarray, "views T S S 3"]:
        """Prepare the views of a video.

        Args:
            video: A file, or all frames of a video as uint8 RGB `[frames, H, W, 3]`.
            fps: Frames per second of `video` if it is an array; a file's own rate is used otherwise.
            num_clips: Number of clips; ignored with placement "tiled", for which it follows from the duration.
            num_crops: Crops per clip: 1 (centre) or 3 (along the long side).
            limits: Largest frame, duration and file size to accept.

        Returns:
            `num_clips * num_crops` views, normalized float32, with the crops of each clip adjacent.

        Raises:
            InputError: If the number of clips or crops, the frames or `fps` are invalid.
            UnreadableVideoError: If no frame of a file can be decoded.
        """
        return self.timed(video, fps=fps, num_clips=num_clips, num_crops=num_crops, limits=limits)[0]

    def timed(
        self,
        video: str | Path | Any,
        *,
        fps: float = 30.0,
        num_clips: int = 1,
        num_crops: int = 3,
        limits: Limits = DEFAULT_LIMITS,
    ) -> tuple[Float[ndarray, "views T S S 3"], Float[ndarray, "clips"]]:
        """Prepare the views of a video and the times of its clips, with the arguments of `__call__`.

        Returns:
            The views, and the second at which each clip begins.
        """
        found: list[Clip] = []
        for clip in self.clips(video, fps=fps, num_clips=num_clips, num_crops=num_crops, limits=limits):
            if not clip.number:
                found.clear()
            found.append(clip)
        return np.concatenate([clip.views for clip in found]), np.array([clip.seconds for clip in found])

    def clips(
        self,
        video: str | Path | Any,
        *,
        fps: float = 30.0,
        num_clips: int = 1,
        num_crops: int = 3,
        limits: Limits = DEFAULT_LIMITS,
    ) -> Iterator[Clip]:
        """Prepare the views of a video clip by clip, with the arguments of `__call__`, in memory independent of the duration.

        Yields:
            The clips in order. They may start over; see `Clip.number`.
        """
        check_crops(num_crops)
        check_whole("num_clips", num_clips)

        def choose(count: int, fps: float) -> np.ndarray:
            return self.indices(count, fps, num_clips)

        size = 0, 0

        def crop(frame: np.ndarray) -> np.ndarray:
            nonlocal size
            size = frame.shape[:2]
            return self.crops(frame, num_crops)

        if isinstance(video, str | Path):
            for clip in stream_clips(video, choose, crop, limits=limits):
                yield clip._replace(boxes=self.boxes(*size, num_crops))
            return
        frames = np.asarray(video)
        if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or 0 in frames.shape:
            raise InputError(f"Expected frames uint8 [frames, height, width, 3], got {frames.dtype} {frames.shape}.")
        if not 0 < fps < math.inf:
            raise InputError(f"fps must be above 0, got {fps}.")
        indices = choose(len(frames), fps)
        for clip in join_clips(indices, fps, ((index, crop(frames[index])) for index in np.unique(indices).tolist())):
            yield clip._replace(times=indices[clip.number] / fps, boxes=self.boxes(*size, num_crops))

    def windows(
        self,
        video: str | Path,
        *,
        window: float | None = None,
        stride: float | None = None,
        num_crops: int = 1,
        limits: Limits = DEFAULT_LIMITS,
    ) -> Iterator[Window]:
        """Prepare overlapping windows that cover a video, one by one, in memory independent of the duration.

        Args:
            video: A video file or a folder of images.
            window: Length of a window in seconds, `window_seconds` by default. The frames are spread over it.
            stride: Seconds from one window to the next, half a window by default.
            num_crops: Crops per window: 1 (centre) or 3 (along the long side).
            limits: Largest frame, duration and file size to accept.

        Yields:
            The windows in order. They may start over; see `Clip.number`.

        Raises:
            InputError: If an argument is invalid.
            UnreadableVideoError: If no frame of the file can be decoded.
        """
        window = self.window_seconds if window is None else window
        stride = window / 2 if stride is None else stride
        for name, value in (("window", window), ("stride", stride)):
            if not 0 < value < math.inf:
                raise InputError(f"{name} must be above 0 seconds, got {value}.")
        check_crops(num_crops)

        seconds = frame = 0.0

        def choose(count: int, fps: float) -> np.ndarray:
            nonlocal seconds, frame
            seconds, frame = count / fps, 1 / fps
            sliding = {"num_frames": self.num_frames, "sampling": self.sampling, "window": window, "stride": stride}
            return sliding_clips(count, fps, **sliding)

        for clip in stream_clips(video, choose, lambda frame: self.crops(frame, num_crops), limits=limits):
            first, last = float(clip.times[0]), float(clip.times[-1])
            if self.sampling == "segments":  # the frames are the middles of segments
                half = window / (2 * self.num_frames)
                yield Window(clip, max(first - half, 0.0), max(min(last + half, seconds), last))
            else:
                yield Window(clip, first, last + frame)

    @property
    def window_seconds(self) -> float:
        """Usual length of a window: what a clip covers, or `SEGMENTS_WINDOW` if clips cover whole videos."""
        return SEGMENTS_WINDOW if self.sampling == "segments" else self.sampling_rate * self.num_frames / TARGET_FPS

    def indices(self, num_video_frames: int, fps: float, num_clips: int) -> Int[ndarray, "num_clips T"]:
        """Return the frame indices of the evaluation clips; "tiled" ignores `num_clips` and covers the video."""
        return eval_clips(
            num_video_frames,
            fps,
            num_clips=num_clips,
            num_frames=self.num_frames,
            sampling=self.sampling,
            sampling_rate=self.sampling_rate,
            placement=self.placement,
        )

    def crops(self, frame: UInt8[ndarray, "H W 3"], num_crops: int) -> Float[ndarray, "num_crops S S 3"]:
        """Scale (bilinear, without antialiasing), crop and normalize one frame."""
        height, width = frame.shape[:2]
        size = self.crop_size
        scaled, offsets = self._offsets(height, width, num_crops)
        crops = []
        for top, left in offsets:
            rows, vertical = _axis(height, scaled[0], top, size)
            columns, horizontal = _axis(width, scaled[1], left, size)
            pixels = frame[rows[:, None], columns].astype(np.float32)  # only the crop's pixels, however large the frame
            part = np.tensordot(vertical, pixels[..., ::-1] if self.channel_order == "bgr" else pixels, axes=1)  # [S, W, 3]
            crops.append(np.einsum("xw,ywc->yxc", horizontal, part, optimize=True))
        mean, std = np.asarray(self.mean, np.float32), np.asarray(self.std, np.float32)
        return (np.stack(crops) / np.float32(255) - mean) / std

    def boxes(self, height: int, width: int, num_crops: int) -> Float[ndarray, "num_crops 4"]:
        """Return (top, left, bottom, right) of each crop, as fractions of the height and width of the video's frames."""
        scaled, offsets = self._offsets(height, width, num_crops)
        corners = np.array(offsets, np.float64)
        return np.concatenate([corners, corners + self.crop_size], axis=1) / (*scaled, *scaled)

    def _offsets(self, height: int, width: int, num_crops: int) -> tuple[tuple[int, int], list[tuple[int, int]]]:
        """Return (height, width) of the scaled frame, and (top, left) of each crop in it."""
        scaled = scale_short_side(height, width, self.crop_size if num_crops == 3 else self.short_side or self.crop_size)
        return scaled, [view_crop_offset(*scaled, self.crop_size, crop) for crop in (range(3) if num_crops == 3 else [1])]

    def pictures(self, clip: Float[ndarray, "*T S S 3"]) -> UInt8[ndarray, "*T S S 3"]:
        """Convert prepared frames back to displayable RGB images."""
        return denormalize(clip, self.mean, self.std, self.channel_order)

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-serializable values."""
        values = dataclasses.asdict(self)
        return {**values, "mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Preprocess":
        """Invert `as_dict`; unknown entries are ignored."""
        return cls(**{field.name: values[field.name] for field in dataclasses.fields(cls) if field.name in values})


def _axis(source: int, target: int, offset: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Interpolate part of an axis that is scaled from `source` to `target` pixels.

    Returns:
        The source pixels that contribute to the `size` target pixels starting at `offset`, and their weights.
    """
    weights = linear(source, target, span=(offset, offset + size)).astype(np.float32)
    needed = np.flatnonzero(weights.any(axis=0))
    return needed, weights[:, needed]
