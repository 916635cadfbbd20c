"""Video files -> RGB frames, by PyAV (any container and codec that FFmpeg reads)."""

import contextlib
import logging
import math
import os
import re
from collections.abc import Callable, Container, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from timesformer_jax._typing import UInt8, ndarray
from timesformer_jax.errors import InputError
from timesformer_jax.extras import MissingPackageError
from timesformer_jax.video.files import PICTURE_SUFFIXES

log = logging.getLogger("timesformer_jax")


class UnreadableVideoError(InputError):
    """A file from which not one frame can be had; `reason` says why in a few words."""

    def __init__(self, path: str | Path, reason: str):
        super().__init__(path, reason)
        self.path, self.reason = path, reason

    def __str__(self) -> str:
        return f"Can't read {self.path} as a video: {self.reason}."


class VideoFile:
    """An open video: `fps`, the frames one after the other, and how many places turned out damaged on the way."""

    def __init__(self, path: str | Path, container: Any):
        self._path = path
        self._container = container
        self._stream = container.streams.video[0]
        self._stream.thread_type = "SLICE"  # threads over frames would swallow the errors of damaged ones
        rate = self._stream.average_rate or self._stream.guessed_rate
        self.fps = float(rate) if rate else 30.0
        self.num_damaged = 0
        """Damaged packets and frames met so far. Damage costs those places only; the rest of the video is kept."""
        self.num_decoded = 0
        """Good frames met so far."""

    def frames(
        self,
        max_short_side: int | None = None,
        only: Container[int] | None = None,
        *,
        span: tuple[float, float] | None = None,
        even: bool = False,
    ) -> Iterator[UInt8[ndarray, "H W 3"]]:
        """Every frame in order, RGB uint8; frames with a short side above `max_short_side` are shrunk to it.

        `only`: the indices of those that are wanted (all by default); the others are decoded, since frames build on each
        other, but not converted. `span`: first second and the second where it ends; indices count from its first frame.
        `even`: height and width are rounded down to even ones.

        All have the first frame's size, also where the stream changes its own midway, and stand upright where a phone was held
        sideways, or has mirrored them, and says so.

        Raises `UnreadableVideoError` where not one frame can be decoded.
        """
        from av.error import FFmpegError
        from av.video.reformatter import Interpolation, VideoReformatter

        # One reformatter for all frames: `frame.to_ndarray` makes a new one each time, 20 times slower.
        reformatter = VideoReformatter()
        size = None
        for frame in self._decoded(span):
            if size is None:
                scale = min((max_short_side or math.inf) / min(frame.height, frame.width), 1.0)
                size = round(frame.width * scale), round(frame.height * scale)
                if even:
                    size = max(size[0] - size[0] % 2, 2), max(size[1] - size[1] % 2, 2)
            if only is not None and self.num_decoded not in only:
                self.num_decoded += 1
                continue
            try:
                rgb = reformatter.reformat(frame, *size, "rgb24", interpolation=Interpolation.AREA).to_ndarray()
            except (FFmpegError, ValueError):
                self.num_damaged += 1
                continue
            self.num_decoded += 1
            yield _upright(rgb, frame)
        if not self.num_decoded:
            where = "" if span is None else f" from {span[0]:g} to {span[1]:g} s"
            raise UnreadableVideoError(self._path, f"it holds no frame that can be decoded{where}")

    def count_packets(self) -> int:
        """How many frames the container announces, without decoding any; the file is at its end afterwards."""
        from av.error import FFmpegError

        count = 0
        try:
            for packet in self._container.demux(self._stream):
                count += packet.size > 0
        except FFmpegError:
            pass
        return count

    @property
    def seconds(self) -> float | None:
        """How long the container says that the video is."""
        if self._stream.duration is not None:
            return float(self._stream.duration * self._stream.time_base)
        return None if self._container.duration is None else self._container.duration / 1e6  # in microseconds

    def _decoded(self, span: tuple[float, float] | None = None) -> Iterator[Any]:
        """The frames of `span`, or all; one without a time of its own counts as its neighbour."""
        if span is None:
            yield from self._from_here()
            return
        from av.error import FFmpegError

        zero = float((self._stream.start_time or 0) * self._stream.time_base)
        with contextlib.suppress(FFmpegError):  # what can't be sought is decoded from its start
            self._container.seek(int((zero + span[0]) / self._stream.time_base), stream=self._stream)
        now = 0.0
        for frame in self._from_here():
            now = now if frame.time is None else frame.time - zero
            if now >= span[1] - 1e-6:
                return
            if now >= span[0] - 1e-6:
                yield frame

    def _from_here(self) -> Iterator[Any]:
        from av.error import FFmpegError

        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except FFmpegError:  # the container breaks off here: what came before stays
                self.num_damaged += 1
                return
            try:
                frames = self._stream.decode(packet)
            except FFmpegError:
                self.num_damaged += 1
                continue
            for frame in frames:
                self.num_damaged += bool(frame.is_corrupt)
                yield frame


def _upright(rgb: np.ndarray, frame: Any) -> np.ndarray:
    """The pixels of a frame turned and mirrored as its display matrix says: (x, y) is shown at (a x + c y, b x + d y)."""
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return rgb
    a, b, _, c, d, *_ = memoryview(matrix).cast("B").cast("i").tolist()
    # The angle is that of the rows. Where it isn't the columns' too, they were upside down before the turn.
    mirrored = a * d - b * c < 0
    return np.ascontiguousarray(np.rot90(rgb[::-1] if mirrored else rgb, round(frame.rotation / 90) % 4))  # counter-clockwise


class FrameFolder(VideoFile):
    """A video as a folder of pictures, in the order of their names (frame9 before frame10)."""

    def __init__(self, path: Path, fps: float):
        self._path = path
        pictures = (
            file for file in path.iterdir() if file.suffix.lower() in PICTURE_SUFFIXES and not file.name.startswith(".")
        )
        self._pictures = sorted(pictures, key=_natural)
        self.fps = fps
        self.num_damaged = self.num_decoded = 0

    @property
    def seconds(self) -> float:
        return len(self._pictures) / self.fps

    def count_packets(self) -> int:
        return len(self._pictures)

    def _decoded(self, span: tuple[float, float] | None = None) -> Iterator[Any]:
        from av.error import FFmpegError

        first, last = (0, None) if span is None else (math.ceil(second * self.fps) for second in span)
        for picture in self._pictures[first:last]:
            try:
                with _open_container(picture) as container:
                    yield next(container.decode(video=0))
            except (OSError, FFmpegError, StopIteration):
                self.num_damaged += 1


def _open_container(path: str | Path) -> Any:
    """PyAV's container of a file; metadata text in an unknown encoding is no obstacle to reading it."""
    import av

    # PyAV decodes metadata strictly by default up to version 18; from 19 on it keeps any bytes and has no such option.
    lenient: dict[str, Any] = {"metadata_errors": "ignore"} if int(av.__version__.partition(".")[0]) < 19 else {}
    # FFmpeg would take what stands before a colon, as in 12:30.mp4, for a protocol: not so behind a slash.
    return av.open(os.path.abspath(path), **lenient)


def _natural(path: Path) -> list[tuple[int, str]]:
    """Sorts numbers in names by their value."""
    return [(int(part), part) if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", path.name)]


@contextlib.contextmanager
def open_video(path: str | Path, fps: float | None = None) -> Iterator[VideoFile]:
    """Opens a video file, or a folder of pictures at `fps` (30); raises `UnreadableVideoError` with the reason where it can't.

    Needs the extra `video`.
    """
    try:
        from av.error import FFmpegError
    except ImportError as error:
        raise MissingPackageError("av", "Reading videos") from error

    if Path(path).is_dir():
        yield FrameFolder(Path(path), fps or 30.0)
        return
    try:
        size = Path(path).stat().st_size
        container = _open_container(path) if size else None
    except (OSError, FFmpegError) as error:
        raise UnreadableVideoError(path, error.strerror or str(error)) from error
    if container is None:
        raise UnreadableVideoError(path, "the file is empty")
    with container:
        if not container.streams.video:
            raise UnreadableVideoError(path, "it has no video stream")
        yield VideoFile(path, container)


def sample_frames(
    path: str | Path, choose: Callable[[int, float], np.ndarray], transform: Callable[[np.ndarray], Any]
) -> tuple[dict[int, Any], np.ndarray]:
    """The frames that `choose(number of frames, frames per second)` picks: index -> `transform(frame)`, and the indices.

    Each frame is decoded, transformed and let go, so memory is what `transform` leaves, however long the video; decoding
    stops behind the last one. Where fewer frames can be decoded than the container announces, `choose` is asked again.

    Raises `UnreadableVideoError` where not one frame can be decoded.
    """
    with open_video(path) as video:
        num_frames = max(video.count_packets(), 1)
    while True:
        with open_video(path) as video:
            indices = choose(num_frames, video.fps)
            wanted = np.unique(indices).tolist()
            frames = zip(wanted, video.frames(only=set(wanted)), strict=False)  # stops behind the last one wanted
            kept = {index: transform(frame) for index, frame in frames}
            if len(kept) == len(wanted):
                if video.num_damaged:
                    log.warning("Used, though damaged in %d place(s): %s.", video.num_damaged, path)
                return kept, indices
            num_frames = video.num_decoded
