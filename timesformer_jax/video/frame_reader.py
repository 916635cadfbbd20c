"""Reading of frames by number directly from video files: the same frames that prepared data would hold."""

import contextlib
import itertools
import logging
import math
from collections.abc import Callable, Container, Iterator
from typing import NamedTuple

import numpy as np

from timesformer_jax._typing import UInt8, ndarray
from timesformer_jax.video.decoding import VideoFile
from timesformer_jax.video.entry import Entry, KeptFrames
from timesformer_jax.video.limits import DEFAULT_LIMITS, Limits, UnreadableVideoError
from timesformer_jax.video.opening import open_video
from timesformer_jax.video.views import Video, Windows

log = logging.getLogger("timesformer_jax")

Plan = Callable[[Video], Windows]
"""Function from a video's facts to the windows to decode."""


class _Measured(NamedTuple):
    """Facts of a video from its packets.

    Attributes:
        video: The video as prepared data would hold it.
        first: Index in the file of the first frame of the entry's span.
    """

    video: Video
    first: int


class FrameReader:
    """Reads the frames that a plan asks for, decoding from the preceding key frame if that is safe.

    The plan receives the facts that prepared data would have: the number of frames in the entry's span after thinning to
    `max_fps`, their rate in float32, and their size after shrinking to `short_side`. If the packets give a reliable number of
    frames, it is used until a frame turns out to be damaged or missing. Otherwise the whole video is decoded once to count the
    frames, and the process caches the result.

    Args:
        short_side: Shrink frames whose short side exceeds this many pixels.
        max_fps: Thin out videos with a higher frame rate to this rate.
        even_sides: Round height and width down to even numbers, as the storage "h264" requires.
        limits: Largest frame, duration and file size to accept.
    """

    def __init__(
        self, *, short_side: int, max_fps: float = math.inf, even_sides: bool = False, limits: Limits = DEFAULT_LIMITS
    ):
        self._short_side, self._max_fps, self._even, self._limits = short_side, max_fps, even_sides, limits
        self._promised: dict[str, _Measured | None] = {}
        self._counted: dict[str, Video] = {}

    def read(self, entry: Entry, plan: Plan) -> tuple[Video, Windows, UInt8[ndarray, "F H W 3"]]:
        """Read the frames of a video that `plan` asks for.

        Returns:
            The facts of the video, the plan for it, and the pixels within the plan's box of each frame.

        Raises:
            UnreadableVideoError: If no frame can be decoded, or the video exceeds the limits.
        """
        with self._open(entry) as file:
            if entry.name not in self._promised:
                self._promised[entry.name] = self._measure(entry, file)
            promised = self._promised[entry.name]
            if promised is not None:
                windows = plan(promised.video)
                pixels = self._find(file, promised, windows)
                if pixels is not None:
                    return promised.video, windows, pixels
        video = self.inspect(entry)
        windows = plan(video)
        with self._open(entry) as file:  # reopened, since concealment of damage depends on what was decoded before
            return video, windows, self._search(entry, file, windows)

    def inspect(self, entry: Entry) -> Video:
        """Return the facts of a video by decoding all of it once; raises the errors of `read`."""
        if entry.name not in self._counted:
            with self._open(entry) as file:
                sizes = [frame.shape for frame in self._frames(file, entry.span(file.seconds), only={0})]
                if not sizes:
                    raise UnreadableVideoError(entry.path, "none of its frames can be converted")
                if file.num_damaged:
                    log.warning("Used, though damaged in %d place(s): %s.", file.num_damaged, entry.path)
                self._counted[entry.name] = self._video(file, file.num_decoded, *sizes[0][:2])
        return self._counted[entry.name]

    def _open(self, entry: Entry) -> contextlib.AbstractContextManager[VideoFile]:
        return open_video(entry.path, entry.fps, limits=self._limits)

    def _share(self, file: VideoFile) -> float:
        return min(self._max_fps / file.fps, 1.0)

    def _video(self, file: VideoFile, num_frames: int, height: int, width: int) -> Video:
        share = self._share(file)
        kept = len(KeptFrames(share).among(num_frames))
        return Video(kept, float(np.float32(file.fps * share)), height, width)  # prepared data hold it in float32

    def _frames(self, file: VideoFile, span: tuple[float, float] | None, only: Container[int]) -> Iterator[np.ndarray]:
        return file.frames(self._short_side, only, span=span, even=self._even)

    def _measure(self, entry: Entry, file: VideoFile) -> _Measured | None:
        """Measure a video by its packets; returns None if they aren't reliable or the first frame is damaged."""
        times = file.times
        begin, end = entry.span(file.seconds) or (0.0, math.inf)
        first, last = np.searchsorted(times, (begin - 1e-6, end - 1e-6)).tolist()
        if first == last:
            return None
        frame = next(self._frames(file, (begin, end), {0}), None)
        if frame is None or file.num_damaged or not math.isclose(file.shown, times[first], abs_tol=1e-4):
            return None
        return _Measured(self._video(file, last - first, *frame.shape[:2]), first)

    def _find(self, file: VideoFile, measured: _Measured, windows: Windows) -> UInt8[ndarray, "F H W 3"] | None:
        """Locate the plan's frames by time; returns None if one is missing, has another size, or damage is met."""
        times, video = file.times, measured.video
        kept = KeptFrames(self._share(file)).among(len(times) - measured.first)
        wanted = (measured.first + kept[windows.frames]).tolist()
        found = []
        for run in self._runs(file, wanted):
            frames = self._frames(file, (times[run[0]], math.inf), {index - run[0] for index in run})
            part = [_cut(frame, windows) for frame in itertools.islice(frames, len(run)) if frame.shape[:2] == video[2:]]
            in_place = math.isclose(file.shown, times[run[-1]], abs_tol=1e-4) and file.num_decoded == run[-1] - run[0] + 1
            if len(part) < len(run) or file.num_damaged or not in_place:  # e.g. frames completed by gradual refresh
                return None
            found += part
        return np.stack(found)

    def _runs(self, file: VideoFile, wanted: list[int]) -> list[list[int]]:
        """Group the wanted frames into runs to decode in one go; a new run begins where a seek skips enough frames."""
        runs = [[wanted[0]]]
        for index in wanted[1:]:
            entry = np.searchsorted(file.times, file.entry_point(file.times[index]) - 1e-6)
            if entry - runs[-1][-1] - 1 > file.seek_cost:
                runs.append([index])
            else:
                runs[-1].append(index)
        return runs

    def _search(self, entry: Entry, file: VideoFile, windows: Windows) -> UInt8[ndarray, "F H W 3"]:
        """Read the plan's frames by decoding from the beginning."""
        count = windows.frames[-1] + 1
        kept = KeptFrames(self._share(file)).among(math.ceil(count / self._share(file)) + 1)
        wanted = kept[windows.frames].tolist()
        frames = self._frames(file, entry.span(file.seconds), set(wanted))
        found = [_cut(frame, windows) for frame in itertools.islice(frames, len(wanted))]
        if len(found) < len(wanted):
            raise UnreadableVideoError(entry.path, f"only {len(found)} of the {len(wanted)} frames of a clip can be decoded")
        return np.stack(found)


def _cut(frame: UInt8[ndarray, "H W 3"], windows: Windows) -> UInt8[ndarray, "h w 3"]:
    top, left, height, width = windows.box.tolist()
    return frame[top : top + height, left : left + width].copy()  # so that the rest of the frame can be freed
