"""Encoders of drawn videos, which write each picture as soon as it is there: MP4 with sound, and GIF."""

import abc
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from timesformer_jax._typing import UInt8, ndarray
from timesformer_jax.errors import InputError
from timesformer_jax.explain.drawing import pillow
from timesformer_jax.explain.soundtrack import Soundtrack
from timesformer_jax.extras import needs
from timesformer_jax.video.decoding import VideoFile

ENCODING = {"crf": "20", "preset": "veryfast", "rc-lookahead": "10"}
"""Options of x264. Few frames of lookahead, since a raw 4K frame has 12 MB."""


class Encoder(abc.ABC):
    """Writer of a video, used as a context manager.

    Args:
        path: File to write.
        source: The video whose sound accompanies the pictures.
        begin: Second of the source at which the first stretch begins.

    Attributes:
        max_side: Usual maximum of width and height; None for none.
        max_fps: Usual maximum rate; None for none.
        has_sound: Whether sound is written.
    """

    max_side: int | None = None
    max_fps: float | None = None
    has_sound = False
    _format: str
    _codec: str
    _clock: int
    """Ticks a second of the timestamps."""
    _options: dict[str, str]
    _encoding: dict[str, str]
    _sound: Soundtrack | None = None

    def __init__(self, path: Path, source: VideoFile, begin: float):
        with needs("av", "Writing videos"):
            import av
        self._container: Any = av.open(str(path), "w", format=self._format, options=self._options)
        rate = Fraction(source.fps).limit_denominator(1001)
        self._stream: Any = self._container.add_stream(self._codec, rate=rate, options=self._encoding)
        self._last: int | None = None

    def __enter__(self) -> "Encoder":
        return self

    def __exit__(self, kind: Any, *rest: Any) -> None:
        try:
            if kind is None:
                self._container.mux(self._stream.encode(None))
                if self._sound is not None:
                    self._sound.close()
        finally:
            self._container.close()

    def begin(self, second: float, at: float) -> None:
        """Begin a stretch: `second` of the source is shown at second `at` of the output."""
        if self._sound is not None:
            self._sound.begin(second, at)

    def add(self, picture: UInt8[ndarray, "H W 3"], at: float) -> None:
        """Show a picture, of even height and width, from second `at` of the output on."""
        ticks = round(at * self._clock)
        if self._last is None:
            context = self._stream.codec_context
            context.height, context.width = picture.shape[:2]
            context.time_base = Fraction(1, self._clock)
            self._set_up(context)
            self._open(context)
        else:
            ticks = max(ticks, self._last + 1)  # pictures may be closer than a tick
        self._last = ticks
        frame = self._frame(picture)
        frame.pts, frame.time_base = ticks, Fraction(1, self._clock)
        self._container.mux(self._stream.encode(frame))
        self.end(at)

    def _open(self, context: Any) -> None:
        from av.error import FFmpegError

        try:
            context.open(strict=False)
        except FFmpegError as error:
            raise InputError(
                f"The codec {self._codec} can't encode pictures of {context.width} x {context.height} pixels: choose a smaller "
                "max_side (--max-side), or write a .gif or .png."
            ) from error

    def end(self, at: float) -> None:
        """Write the sound up to second `at` of the output."""
        if self._sound is not None:
            self._sound.write(until=at)

    @abc.abstractmethod
    def _set_up(self, context: Any) -> None:
        """Set the pixel format and colours."""

    @abc.abstractmethod
    def _frame(self, picture: np.ndarray) -> Any:
        """Convert a picture to the encoder's pixel format."""


class Mp4(Encoder):
    """H.264 and AAC, with the index first, so that browsers play it while it loads."""

    _format, _codec, _clock = "mp4", "libx264", 90_000
    _options, _encoding = {"movflags": "+faststart"}, ENCODING

    def __init__(self, path: Path, source: VideoFile, begin: float):
        super().__init__(path, source, begin)
        self._sound = Soundtrack(self._container, source, begin)
        self.has_sound = self._sound.rate > 0

    def _set_up(self, context: Any) -> None:
        from av.video.reformatter import ColorRange

        context.pix_fmt, context.color_range = "yuv420p", ColorRange.MPEG
        context.color_primaries = context.color_trc = context.colorspace = 1  # BT.709

    def _frame(self, picture: np.ndarray) -> Any:
        from av import VideoFrame
        from av.video.reformatter import ColorRange, Colorspace

        frame = VideoFrame.from_ndarray(picture, format="rgb24")
        return frame.reformat(format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG)


class Gif(Encoder):
    """Images with a palette of 256 colours each, repeated forever."""

    max_side, max_fps = 400, 10.0
    _format, _codec, _clock = "gif", "gif", 100
    _options, _encoding = {"loop": "0"}, {}

    def _set_up(self, context: Any) -> None:
        context.pix_fmt = "pal8"

    def _frame(self, picture: np.ndarray) -> Any:
        from av import VideoFrame

        rgb, octree = pillow().fromarray(picture), pillow().Quantize.FASTOCTREE  # keeps rare colours, such as the map's
        image = rgb.quantize(palette=rgb.quantize(256, octree))  # the first only finds the palette, the second dithers
        palette = np.full((256, 4), 255, np.uint8)  # alpha, red, green, blue
        colours = np.array(image.getpalette("RGB"), np.uint8).reshape(-1, 3)
        palette[: len(colours), 1:] = colours
        pair: Any = np.asarray(image), palette
        return VideoFrame.from_ndarray(pair, format="pal8")


ENCODERS: dict[str, type[Encoder]] = {".mp4": Mp4, ".gif": Gif}
"""Maps a file extension to its encoder."""
