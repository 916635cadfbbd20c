"""Limits on a single video, so that no file exhausts a machine's memory or occupies it for days."""

import dataclasses
import math
from pathlib import Path

from timesformer_jax.errors import InputError
from timesformer_jax.printable import printable


class UnreadableVideoError(InputError):
    """Raised for a file without a single readable frame.

    Attributes:
        path: The file.
        reason: Short explanation, in printable form.
    """

    def __init__(self, path: str | Path, reason: str):
        super().__init__(path, reason)
        self.path, self.reason = path, printable(reason)

    def __str__(self) -> str:
        return f"Can't read {printable(self.path)} as a video: {self.reason}."


class OverLimitError(UnreadableVideoError):
    """Raised for a file that exceeds its `Limits`."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    """Largest frame, duration and file size to accept.

    A file that exceeds a limit is rejected before decoding, or as soon as decoding reveals it.

    Attributes:
        max_pixels: Pixels per frame. In addition, no side may be more than twice as long as that of a square with this many
            pixels. The default is an 8K panorama (8192 x 8192, sides up to 16384), which takes a few hundred MiB to decode.
        max_seconds: Duration by the timestamps. The default is a day.
        max_bytes: Size of the file, or of all images in a folder. The default is 64 GiB, two hours of film in master quality.

    Raises:
        InputError: If a value isn't above 0.
    """

    max_pixels: int = 8192 * 8192
    max_seconds: float = 24 * 3600.0
    max_bytes: int = 64 << 30

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if not getattr(self, field.name) > 0:
                raise InputError(f"{field.name} must be above 0, got {getattr(self, field.name)}.")

    def check_size(self, path: str | Path, width: int, height: int) -> None:
        """Raise `OverLimitError` if frames are too large."""
        if width * height > self.max_pixels or max(width, height) > 2 * math.sqrt(self.max_pixels):
            side = math.isqrt(int(4 * self.max_pixels))
            raise OverLimitError(
                path,
                f"its frames have {width} x {height} pixels, and max_pixels={self.max_pixels} allows that many in total and "
                f"{side} along a side",
            )

    def check_seconds(self, path: str | Path, seconds: float) -> None:
        """Raise `OverLimitError` if a video is too long."""
        if seconds > self.max_seconds:
            raise OverLimitError(path, f"it lasts {seconds:.0f} s or more, and max_seconds={self.max_seconds:g}")

    def check_bytes(self, path: str | Path, num_bytes: int) -> None:
        """Raise `OverLimitError` if a file is too large."""
        if num_bytes > self.max_bytes:
            raise OverLimitError(path, f"it has {num_bytes} bytes or more, and max_bytes={self.max_bytes}")


DEFAULT_LIMITS = Limits()
