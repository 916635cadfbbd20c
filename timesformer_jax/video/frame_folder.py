"""Videos stored as a folder of images, one per frame."""

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from timesformer_jax._typing import Float, ndarray
from timesformer_jax.video.containers import open_container
from timesformer_jax.video.decoding import VideoFile
from timesformer_jax.video.files import PICTURE_SUFFIXES
from timesformer_jax.video.frame_names import check_names
from timesformer_jax.video.limits import DEFAULT_LIMITS, Limits, OverLimitError


class FrameFolder(VideoFile):
    """A video stored as a folder of images, in the natural order of their names (frame9 before frame10).

    Raises:
        UnreadableVideoError: If there are no images, their names are of several videos, or they exceed `limits`.
    """

    def __init__(self, path: Path, fps: float, limits: Limits = DEFAULT_LIMITS):
        self._path, self._limits, self._size_is_unknown = path, limits, False
        pictures = (
            file for file in path.iterdir() if file.suffix.lower() in PICTURE_SUFFIXES and not file.name.startswith(".")
        )
        self._pictures = sorted(pictures, key=_natural)
        check_names(path, self._pictures)
        self.fps = fps
        self.num_damaged = self.num_decoded = 0
        self.shown, self._pixel_aspect = 0.0, 1.0
        limits.check_seconds(path, self.seconds)
        limits.check_bytes(path, sum(picture.stat().st_size for picture in self._pictures if picture.is_file()))

    @property
    def seconds(self) -> float:
        return len(self._pictures) / self.fps

    def count_packets(self) -> int:
        return len(self._pictures)

    @property
    def count_is_certain(self) -> bool:
        return True

    @property
    def times(self) -> Float[ndarray, "num_frames"]:
        return np.arange(len(self._pictures)) / self.fps

    def sound(self, begin: float = 0.0) -> None:
        return None

    def entry_point(self, second: float) -> float:
        return second

    seek_cost = 0

    def close(self) -> None:
        pass

    def _picture_at(self, second: float) -> int:
        """Index of the first image shown at `second` or later."""
        return len(self._pictures) if second == math.inf else math.ceil((second - 1e-6) * self.fps)

    def _decoded(self, span: tuple[float, float] | None = None) -> Iterator[Any]:
        first, last = (0, None) if span is None else (self._picture_at(second) for second in span)
        for number, picture in enumerate(self._pictures[first:last], first):
            self._picture, self.shown, self._mirrored = picture, number / self.fps, {}
            try:
                with open_container(picture, self._limits, picture=True) as container:
                    self._size_is_unknown |= not container.streams.video[0].codec_context.width
                    frame = next(container.decode(video=0))
            except OverLimitError:
                raise
            except Exception as error:  # whatever is wrong with the image, only this frame is lost
                self._note_damage(error, picture)
                continue
            yield frame

    def _encoded(self) -> bytes:
        return self._picture.read_bytes()


def _natural(path: Path) -> list[tuple[int, str]]:
    """Sort key that orders the numbers in names by value."""
    return [(int(part), part) if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", path.name)]
