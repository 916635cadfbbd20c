"""Video files -> RGB frames, by PyAV (any container and codec that FFmpeg reads)."""

import errno
import logging
import math
import re
from collections.abc import Container, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from timesformer_jax._typing import Float, UInt8, ndarray
from timesformer_jax.os_errors import NOT_THE_FILES, raise_if_not_the_files
from timesformer_jax.video.containers import open_container
from timesformer_jax.video.limits import DEFAULT_LIMITS, Limits, OverLimitError, UnreadableVideoError
from timesformer_jax.video.timeline import JUMPING_FORMATS, Clock, Key, read_timeline

log = logging.getLogger("timesformer_jax")


class VideoFile:
    """An open video: `fps`, the frames one after the other, and how many places turned out damaged on the way."""

    def __init__(self, path: str | Path, limits: Limits = DEFAULT_LIMITS):
        self._path, self._limits = path, limits
        self.num_damaged = 0
        limits.check_bytes(path, Path(path).stat().st_size)
        self._open()
        self._jumps_ahead = any(name in self._container.format.name.split(",") for name in JUMPING_FORMATS)
        self._timeline = read_timeline(self._packets(), self._stream, jumps_ahead=self._jumps_ahead)
        limits.check_seconds(path, self._timeline.seconds)
        self.fps = self._timeline.fps
        self.num_damaged = 0  # what is damaged is met again
        """Damaged packets and frames met so far by the latest `frames`. Damage costs those places only; the rest is kept."""
        self.num_decoded = 0
        """Good frames met so far by the latest `frames`."""
        self.shown = 0.0
        """When the latest decoded frame is shown, in seconds from the first."""

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
                self._path, "it has no video stream" if stream is None else "its only picture is a cover"
            )
        if stream.codec_context is None:
            container.close()
            raise UnreadableVideoError(self._path, "FFmpeg doesn't know its codec")
        stream.thread_type = "SLICE"  # threads over frames would swallow the errors of damaged ones
        self._container, self._stream = container, stream
        self._size_is_unknown = not stream.codec_context.width

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
    ) -> Iterator[UInt8[ndarray, "H W 3"]]:
        """Every frame in order, RGB uint8; frames with a short side above `max_short_side` are shrunk to it.

        `only`: the indices of those that are wanted (all by default); the others are decoded, since frames build on each
        other, but not converted. `span`: first second and the second where it ends; indices count from its first frame.
        `even`: height and width are rounded down to even ones.

        All have the first frame's size, also where the stream changes its own midway, and stand upright where a phone was held
        sideways, or has mirrored them, and says so.

        Raises `UnreadableVideoError` where not one frame can be decoded.
        """
        from av.video.reformatter import Interpolation, VideoReformatter

        self.num_decoded = self.num_damaged = 0
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
                rgb = _upright(rgb, frame)
            except Exception as error:  # a file may make any of the libraries raise anything; it costs this frame
                self._note_damage(error)
                continue
            self.num_decoded += 1
            yield rgb
        if not self.num_decoded:
            where = "" if span is None else f" from {span[0]:g} to {span[1]:g} s"
            large = f", or only ones of more than max_pixels={self._limits.max_pixels}" if self._size_is_unknown else ""
            raise UnreadableVideoError(self._path, f"it holds no frame that can be decoded{where}{large}")

    def count_packets(self) -> int:
        """How many frames the packets promise, without decoding any."""
        return self._timeline.num_frames

    @property
    def count_is_certain(self) -> bool:
        """Whether `count_packets` is the number of frames, unless some are damaged."""
        return self._timeline.certain

    @property
    def seconds(self) -> float | None:
        """How long the video is, by its timestamps."""
        return self._timeline.seconds

    @property
    def times(self) -> Float[ndarray, "num_frames"]:
        """When each frame is shown, in seconds from the first; empty unless frames can be found by their times."""
        return self._timeline.times

    def entry_point(self, second: float) -> float:
        """Second from which `frames` decodes for a span that begins at `second`."""
        key = self._timeline.key_before(second)
        return 0.0 if key is None else key.time - self._timeline.first

    seek_cost = 16
    """Frames that are decoded in the time that a seek takes, roughly."""

    def _decoded(self, span: tuple[float, float] | None = None) -> Iterator[Any]:
        """The frames of `span`, or all."""
        key = None if span is None else self._timeline.key_before(span[0])
        packets = self._from_start() if key is None else self._from_key(key)
        clock, checked = Clock(self._timeline, self._jumps_ahead), None
        for packet in packets:
            try:
                frames = self._stream.decode(packet)
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
                if span is not None and now >= span[1] - 1e-6:
                    return
                if span is None or now >= span[0] - 1e-6:
                    self.shown = now
                    yield frame

    def _from_start(self) -> Iterator[Any]:
        """All packets, and the empty one that ends the decoder's delay."""
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
        """The packets from a key frame on; all packets if seeking doesn't get there."""
        packets = self._packets(flush=True) if self._seek(key.pts if key.dts is None else key.dts) else iter(())
        for packet in packets:  # seeking may land before it, by any distance
            if packet.is_keyframe and packet.pts == key.pts:
                yield packet
                yield from packets
                return
            if packet.is_keyframe and (packet.pts is None or packet.pts > key.pts):
                break
        self._reopen()
        yield from self._packets(flush=True)

    def _seek(self, stamp: int | None) -> bool:
        """Go to a timestamp of the stream, or before it; False if the file can't."""
        if stamp is None:
            return False
        try:
            self._container.seek(stamp, stream=self._stream)
        except Exception:  # whatever the demuxer says, the file can still be read from its start
            return False
        return True

    def _reopen(self) -> None:
        self.close()
        self._open()

    def _packets(self, *, flush: bool = False) -> Iterator[Any]:
        """The stream's packets from here to where the container ends or breaks off; with `flush` the empty one at the end."""
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
            except IndexError:  # another stream has appeared midway, which PyAV doesn't know
                failures += 1
                if failures > MOST_FAILURES:
                    return
            except OverLimitError:
                raise
            except Exception as error:  # the container breaks off here: what came before stays
                self._note_damage(error)
                return

    def _note_damage(self, error: Exception, path: Path | None = None) -> None:
        """Count a damaged place of the file, or of `path`, one of its pictures; raises a `ReadError` if none is damaged."""
        check_disk(error, path or self._path)
        self.num_damaged += 1
        log.debug("%s: %s: %s", self._path, type(error).__name__, error)


MOST_FAILURES = 10_000
"""Packets in a row that can't be read, after which a file counts as ended."""


def _upright(rgb: np.ndarray, frame: Any) -> np.ndarray:
    """The pixels of a frame turned and mirrored as its display matrix says: (x, y) is shown at (a x + c y, b x + d y)."""
    try:
        matrix = frame.side_data.get("DISPLAYMATRIX")
    except ValueError:  # PyAV 18 doesn't know all kinds, such as EXIF's, and then gives none of them
        return np.ascontiguousarray(np.rot90(rgb, round(frame.rotation / 90) % 4))
    if matrix is None:
        return rgb
    a, b, _, c, d, *_ = memoryview(matrix).cast("B").cast("i").tolist()
    # The angle is that of the rows. Where it isn't the columns' too, they were upside down before the turn.
    mirrored = a * d - b * c < 0
    return np.ascontiguousarray(np.rot90(rgb[::-1] if mirrored else rgb, round(frame.rotation / 90) % 4))  # counter-clockwise


PICTURE_FORMATS = re.compile("image2|apng|ico|tty|bin|xbin|adf|idf|.+_pipe")
"""FFmpeg's formats of images and of text that it draws: files that hold no video, though it gives them a video stream."""


def has_video_stream(path: str | Path) -> bool:
    """Whether a file is a video, by its container's header: no frame of it is promised."""
    try:
        with open_container(path, DEFAULT_LIMITS) as container:
            names = container.format.name.split(",")
            stream = container.streams.best("video")
            if stream is None or stream.disposition & type(stream.disposition).attached_pic:
                return False
            return stream.width > 0 and not any(PICTURE_FORMATS.fullmatch(name) for name in names)
    except Exception as error:  # a file may make the libraries raise anything
        check_disk(error, path)
        log.debug("%s: %s: %s", path, type(error).__name__, error)
        return False


def check_disk(error: Exception, path: str | Path) -> None:
    """Raise a `ReadError` if reading failed for want of descriptors, or since the disk can't be read.

    FFmpeg also uses the system's numbers for damage: then the file itself can be read.
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
