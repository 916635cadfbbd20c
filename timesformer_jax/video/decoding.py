"""Decoding of video files into RGB frames with PyAV (any container and codec that FFmpeg reads)."""

import errno
import logging
import math
import re
from collections.abc import Callable, Container, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from timesformer_jax._typing import Float, UInt8, ndarray
from timesformer_jax.os_errors import NOT_THE_FILES, raise_if_not_the_files
from timesformer_jax.video.containers import open_container
from timesformer_jax.video.limits import DEFAULT_LIMITS, Limits, OverLimitError, UnreadableVideoError
from timesformer_jax.video.orientation import is_mirrored
from timesformer_jax.video.sound import Sound, open_sound
from timesformer_jax.video.timeline import DTS_FORMATS, JUMPING_FORMATS, Clock, Key, read_timeline
from timesformer_jax.video.webp import is_animated_webp

log = logging.getLogger("timesformer_jax")


class VideoFile:
    """An open video file: its frame rate, its frames in order, and a count of the damage encountered while decoding.

    Args:
        path: The file.
        limits: Largest frame, duration and file size to accept.

    Attributes:
        fps: Frames per second, on average.
        num_damaged: Damaged packets and frames encountered so far by the latest call of `frames`. Only the damaged frames are
            lost.
        num_decoded: Frames decoded without error so far by the latest call of `frames`.
        shown: Presentation time of the latest decoded frame, in seconds from the first frame.
    """

    def __init__(self, path: str | Path, limits: Limits = DEFAULT_LIMITS):
        self._path, self._limits = path, limits
        self.num_damaged = 0
        limits.check_bytes(path, Path(path).stat().st_size)
        self._open()
        formats = self._container.format.name.split(",")
        self._jumps_ahead = any(name in formats for name in JUMPING_FORMATS)
        self._by_dts = any(name in formats for name in DTS_FORMATS)
        self._timeline = read_timeline(self._packets(), self._stream, jumps_ahead=self._jumps_ahead)
        limits.check_seconds(path, self._timeline.seconds)
        self.fps = self._timeline.fps
        self.num_damaged = 0  # decoding will encounter the same damage again
        self.num_decoded = 0
        self.shown = 0.0

    def _open(self) -> None:
        try:
            container = open_container(self._path, self._limits)
        except Exception as error:
            check_disk(error, self._path)
            raise
        stream = container.streams.best("video")
        if stream is None or stream.disposition & type(stream.disposition).attached_pic:
            container.close()
            raise UnreadableVideoError(
                self._path, "it has no video stream" if stream is None else "its only image is cover art"
            )
        if stream.codec_context is None:
            container.close()
            raise UnreadableVideoError(self._path, "FFmpeg doesn't know its codec")
        stream.thread_type = "SLICE"  # frame threading would hide the errors of damaged frames
        self._container, self._stream = container, stream
        aspect = float(stream.sample_aspect_ratio or 1)
        self._pixel_aspect = aspect if 1 / WIDEST_PIXEL <= aspect <= WIDEST_PIXEL else 1.0
        self._size_is_unknown = not stream.codec_context.width
        self._mirrored: dict[int, bool] = {}

    def close(self) -> None:
        """Close the file."""
        self._container.close()

    def frames(
        self,
        max_short_side: int | None = None,
        only: Container[int] | None = None,
        *,
        span: tuple[float, float] | None = None,
        even: bool = False,
        size_of: Callable[[int, int], tuple[int, int]] | None = None,
    ) -> Iterator[UInt8[ndarray, "H W 3"]]:
        """Yield the frames in order, as RGB.

        All frames have the size of the first one, even if the stream changes its resolution midway. Rotation and mirroring
        that the file records, as phones do, are applied.

        Args:
            max_short_side: Shrink frames whose short side exceeds this many pixels; None to keep their size.
            only: Indices of the frames to yield, all by default. The others are decoded, since frames depend on each other,
                but not converted.
            span: Interval [begin, end) in seconds to decode; None for the whole video. Indices count from its first frame.
            even: Round height and width down to even numbers.
            size_of: Maps (width, height) of the upright frame, as players show it, to the size to scale frames to, instead of
                `max_short_side` and `even`.

        Yields:
            Frames as uint8 `[H, W, 3]`.

        Raises:
            UnreadableVideoError: If no frame can be decoded.
        """
        from av.video.reformatter import Interpolation, VideoReformatter

        self.num_decoded = self.num_damaged = 0
        # `frame.to_ndarray` would make a new reformatter per frame, which is 20 times slower.
        reformatter = VideoReformatter()
        size = None
        for frame in self._decoded(span):
            if size is None:
                scale = min((max_short_side or math.inf) / min(frame.height, frame.width), 1.0)
                size = round(frame.width * scale), round(frame.height * scale)
                if size_of is not None:
                    size = self._stored_size(frame, size_of)
                elif even:
                    size = max(size[0] - size[0] % 2, 2), max(size[1] - size[1] % 2, 2)
            if only is not None and self.num_decoded not in only:
                self.num_decoded += 1
                continue
            try:
                rgb = reformatter.reformat(frame, *size, "rgb24", interpolation=Interpolation.AREA).to_ndarray()
                rgb = self._upright(rgb, frame)
            except Exception as error:  # a damaged file can make the libraries raise anything; only this frame is lost
                self._note_damage(error)
                continue
            self.num_decoded += 1
            yield rgb
        if not self.num_decoded:
            if is_animated_webp(self._path):
                raise UnreadableVideoError(self._path, "FFmpeg doesn't read animated WebP; convert it to GIF or MP4")
            where = "" if span is None else f" from {span[0]:g} to {span[1]:g} s"
            large = f", or only ones of more than max_pixels={self._limits.max_pixels}" if self._size_is_unknown else ""
            raise UnreadableVideoError(self._path, f"it holds no frame that can be decoded{where}{large}")

    def _upright(self, rgb: np.ndarray, frame: Any) -> np.ndarray:
        """Rotate and mirror a frame as its display matrix says. Frames of a file with one rotation are mirrored alike."""
        # `frame.rotation` is the angle of the rows. If that of the columns differs, the frame was flipped before the rotation.
        turns = round(frame.rotation / 90) % 4  # counter-clockwise
        if turns not in self._mirrored:
            self._mirrored[turns] = is_mirrored(frame, self._encoded)
        return np.ascontiguousarray(np.rot90(rgb[::-1] if self._mirrored[turns] else rgb, turns))

    def _stored_size(self, frame: Any, size_of: Callable[[int, int], tuple[int, int]]) -> tuple[int, int]:
        """Return the (width, height) to which to scale a frame before it is turned upright."""
        width, height = frame.width, frame.height
        if self._pixel_aspect > 1:  # the side that players stretch
            width = round(width * self._pixel_aspect)
        else:
            height = round(height / self._pixel_aspect)
        turned = round(frame.rotation / 90) % 2 == 1
        width, height = size_of(height, width) if turned else size_of(width, height)
        return (height, width) if turned else (width, height)

    def count_packets(self) -> int:
        """Number of frames according to the packets, without decoding any."""
        return self._timeline.num_frames

    @property
    def count_is_certain(self) -> bool:
        """True if `count_packets` is the number of frames, unless some are damaged."""
        return self._timeline.certain

    @property
    def seconds(self) -> float | None:
        """Duration in seconds, by the timestamps."""
        return self._timeline.seconds

    def sound(self, begin: float = 0.0) -> Sound | None:
        """Open the sound that accompanies the frames from `begin` seconds on; None if there is none that can be decoded."""
        return open_sound(self._path, self._limits, self._timeline, begin, jumps_ahead=self._jumps_ahead)

    @property
    def times(self) -> Float[ndarray, "num_frames"]:
        """Presentation time of each frame, in seconds from the first; empty if frames can't be located by their times."""
        return self._timeline.times

    def entry_point(self, second: float) -> float:
        """Second at which `frames` starts decoding for a span that begins at `second`."""
        key = self._timeline.key_before(second)
        return 0.0 if key is None else key.time - self._timeline.first

    seek_cost = 16
    """Cost of a seek, as the approximate number of frames that could be decoded in the same time."""

    def _decoded(self, span: tuple[float, float] | None = None) -> Iterator[Any]:
        """Yield PyAV's frames within `span`, all by default."""
        key = None if span is None else self._timeline.key_before(span[0])
        frames = self._timed(key)
        timed = next(frames, None)
        if key is not None and span is not None:
            reached = max(span[0], key.time - self._timeline.first) + 1e-6
            if timed is None or timed[0] > reached:
                # The frames after the key frame weren't shown: it only begins a gradual refresh of the image, until whose end
                # the decoder needs earlier frames.
                self.num_damaged = 0
                frames = self._timed(None)
                timed = next(frames, None)
        while timed is not None:
            now, frame = timed
            if span is not None and now >= span[1] - 1e-6:
                return
            if span is None or now >= span[0] - 1e-6:
                self.shown = now
                yield frame
            timed = next(frames, None)

    def _timed(self, key: Key | None) -> Iterator[tuple[float, Any]]:
        """Decode from a key frame, or from the start, and yield presentation times and PyAV's frames."""
        packets = self._from_start() if key is None else self._from_key(key)
        clock, checked = Clock(self._timeline, self._jumps_ahead, self._by_dts), None
        for self._packet in packets:
            try:
                frames = self._stream.decode(self._packet)
            except Exception as error:
                self._note_damage(error)
                continue
            for frame in frames:
                self.num_damaged += bool(frame.is_corrupt)
                now = clock.time(frame)
                if (size := (frame.width, frame.height)) != checked:
                    self._limits.check_size(self._path, *size)
                    checked = size
                if now > self._limits.max_seconds:
                    self._limits.check_seconds(self._path, now)
                yield now, frame

    def _encoded(self) -> bytes:
        """Return the image file from which the latest frame was decoded, for codecs whose packets are image files."""
        return bytes(self._packet)

    def _from_start(self) -> Iterator[Any]:
        """Yield all packets and the empty one that flushes the decoder."""
        pts, dts, size = self._timeline.head
        if self._seek(pts if dts is None else dts):
            packets = self._packets(flush=True)
            first = next(packets, None)
            if first is not None and (first.pts, first.dts, first.size) == (pts, dts, size):
                yield first
                yield from packets
                return
        self._reopen()
        yield from self._packets(flush=True)

    def _from_key(self, key: Key) -> Iterator[Any]:
        """Yield the packets starting at a key frame, or all packets if seeking doesn't reach it."""
        packets = self._packets(flush=True) if self._seek(key.pts if key.dts is None else key.dts) else iter(())
        for packet in packets:  # seeking may land any distance before the key frame
            if packet.is_keyframe and packet.pts == key.pts:
                yield packet
                yield from packets
                return
            if packet.is_keyframe and (packet.pts is None or packet.pts > key.pts):
                break
        self._reopen()
        yield from self._packets(flush=True)

    def _seek(self, stamp: int | None) -> bool:
        """Seek to a timestamp of the stream, or before it; returns False if the file doesn't support it."""
        if stamp is None:
            return False
        try:
            self._container.seek(stamp, stream=self._stream)
        except Exception:  # whatever the demuxer raises, the file can still be read from its start
            return False
        return True

    def _reopen(self) -> None:
        self.close()
        self._open()

    def _packets(self, *, flush: bool = False) -> Iterator[Any]:
        """Yield the packets from here until the container ends or breaks off; `flush` adds the final empty one."""
        failures = num_bytes = 0
        while True:
            try:
                for packet in self._container.demux(self._stream):
                    failures = 0
                    num_bytes += packet.size
                    if num_bytes > self._limits.max_bytes:
                        self._limits.check_bytes(self._path, num_bytes)
                    if packet.size or flush:
                        yield packet
                return
            except IndexError:  # PyAV doesn't know streams that appear midway
                failures += 1
                if failures > MOST_FAILURES:
                    return
            except OverLimitError:
                raise
            except Exception as error:  # the container breaks off here; earlier packets stay valid
                self._note_damage(error)
                return

    def _note_damage(self, error: Exception, path: Path | None = None) -> None:
        """Count one damaged place in the file, or in `path`, one of its images.

        Raises:
            ReadError: If the system is at fault rather than the file.
        """
        check_disk(error, path or self._path)
        self.num_damaged += 1
        log.debug("%s: %s: %s", self._path, type(error).__name__, error)


WIDEST_PIXEL = 8.0
"""Largest width / height of a pixel to believe; damaged headers announce anything."""

MOST_FAILURES = 10_000
"""Consecutive unreadable packets after which the file is considered ended."""


PICTURE_FORMATS = re.compile("image2|apng|ico|tty|bin|xbin|adf|idf|.+_pipe")
"""FFmpeg formats of images and of text that it renders: not videos, although FFmpeg gives them a video stream."""


def has_video_stream(path: str | Path) -> bool:
    """Return True if the container's header announces a video; its frames may still turn out undecodable."""
    try:
        with open_container(path, DEFAULT_LIMITS) as container:
            names = container.format.name.split(",")
            stream = container.streams.best("video")
            if stream is None or stream.disposition & type(stream.disposition).attached_pic:
                return False
            return stream.width > 0 and not any(PICTURE_FORMATS.fullmatch(name) for name in names)
    except Exception as error:  # a damaged file can make the libraries raise anything
        check_disk(error, path)
        log.debug("%s: %s: %s", path, type(error).__name__, error)
        return False


def check_disk(error: Exception, path: str | Path) -> None:
    """Raise a `ReadError` if reading failed because file descriptors ran out or the disk can't be read.

    FFmpeg also uses the system's error numbers for damaged files. To tell these apart, the file is read to its end.
    """
    number = getattr(error, "errno", None)
    if type(error).__module__.startswith("av.") and number not in (errno.EMFILE, errno.ENFILE):
        if number not in NOT_THE_FILES:
            return
        try:
            with open(path, "rb", buffering=0) as file:
                while file.read(1 << 20):
                    pass
            return
        except OSError as own:
            error = own
    raise_if_not_the_files(error, path)
