"""How much one video may ask for, so that no file takes a machine's memory or days of its time."""

import dataclasses
import math
from pathlib import Path

from timesformer_jax.errors import InputError
from timesformer_jax.printable import printable


class UnreadableVideoError(InputError):
    """A file from which not one frame can be had; `reason` says why in a few words."""

    def __init__(self, path: str | Path, reason: str):
        super().__init__(path, reason)
        self.path, self.reason = path, printable(reason)

    def __str__(self) -> str:
        return f"Can't read {printable(self.path)} as a video: {self.reason}."


class OverLimitError(UnreadableVideoError):
    """A file that asks for more than its `Limits` allow."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    """What a video may have at most; a file with more is refused before it is decoded, or as soon as decoding shows it.

    Attributes:
        max_pixels: Pixels of a frame. No side may be longer than two sides of the square with this many pixels, either. The
            default is a 8K panorama (8192 x 8192, sides up to 16384); decoding it takes some hundred MiB.
        max_seconds: Duration, by the timestamps. The default is a day.
        max_bytes: Size of the file, or of all pictures of a folder. The default is 64 GiB, two hours of a film in a master's
            quality.

    Raises `InputError` for a value that isn't above 0.
    """

    max_pixels: int = 8192 * 8192
    max_seconds: float = 24 * 3600.0
    max_bytes: int = 64 << 30

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if not getattr(self, field.name) > 0:
                raise InputError(f"{field.name} must be above 0, got {getattr(self, field.name)}.")

    def check_size(self, path: str | Path, width: int, height: int) -> None:
        """Raises `OverLimitError` for frames that are too large."""
        if width * height > self.max_pixels or max(width, height) > 2 * math.sqrt(self.max_pixels):
            side = math.isqrt(4 * self.max_pixels)
            raise OverLimitError(
                path,
                f"its frames have {width} x {height} pixels, and max_pixels={self.max_pixels} allows that many in all and "
                f"{side} along a side",
            )

    def check_seconds(self, path: str | Path, seconds: float) -> None:
        """Raises `OverLimitError` for a video that is too long."""
        if seconds > self.max_seconds:
            raise OverLimitError(path, f"it lasts {seconds:.0f} s or more, and max_seconds={self.max_seconds:g}")

    def check_bytes(self, path: str | Path, num_bytes: int) -> None:
        """Raises `OverLimitError` for a file that is too large."""
        if num_bytes > self.max_bytes:
            raise OverLimitError(path, f"it has {num_bytes} bytes or more, and max_bytes={self.max_bytes}")


DEFAULT_LIMITS = Limits()
