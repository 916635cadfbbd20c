"""Video files -> RGB frames, by PyAV (any container and codec that FFmpeg reads)."""

import logging
import math
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from timesformer_jax._typing import UInt8, ndarray
from timesformer_jax.errors import InputError

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
        self, max_short_side: int | None = None, only: Container[int] | None = None
    ) -> Iterator[UInt8[ndarray, "H W 3"]]:
        """Every frame in order, RGB uint8; frames with a short side above `max_short_side` are shrunk to it.

        `only`: the indices of those that are wanted (all by default); the others are decoded, since frames build on each
        other, but not converted.

        All have the first frame's size, also where the stream changes its own midway, and stand upright where a phone was held
        sideways and says so.

        Raises `UnreadableVideoError` where not one frame can be decoded.
        """
        from av.error import FFmpegError
        from av.video.reformatter import Interpolation, VideoReformatter

        # One reformatter for all frames: `frame.to_ndarray` makes a new one each time, 20 times slower.
        reformatter = VideoReformatter()
        size = None
        for frame in self._decoded():
            if size is None:
                scale = min((max_short_side or math.inf) / min(frame.height, frame.width), 1.0)
                size = round(frame.width * scale), round(frame.height * scale)
            if only is not None and self.num_decoded not in only:
                self.num_decoded += 1
                continue
            try:
                rgb = reformatter.reformat(frame, *size, "rgb24", interpolation=Interpolation.AREA).to_ndarray()
            except (FFmpegError, ValueError):
                self.num_damaged += 1
                continue
            self.num_decoded += 1
            turns = round(frame.rotation / 90) % 4  # counter-clockwise
            yield np.ascontiguousarray(np.rot90(rgb, turns)) if turns else rgb
        if not self.num_decoded:
            raise UnreadableVideoError(self._path, "it holds no frame that can be decoded")

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

    def _decoded(self) -> Iterator[Any]:
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


@contextmanager
def open_video(path: str | Path) -> Iterator[VideoFile]:
    """Opens a video file; raises `UnreadableVideoError` with the reason where that can't be done.

    Needs PyAV: `pip install timesformer_jax[video]`.
    """
    try:
        import av
        from av.error import FFmpegError
    except ImportError as error:
        raise InputError("Reading videos needs PyAV, which is not installed: pip install timesformer_jax[video].") from error

    try:
        size = Path(path).stat().st_size
        container = av.open(str(path), metadata_errors="ignore") if size else None
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
