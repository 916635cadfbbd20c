"""Example videos that the app draws itself: handwritten digits in motion, as in the demo's data set."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from timesformer_jax._typing import UInt8, ndarray
from timesformer_jax.app.store import Store
from timesformer_jax.datasets.drawn_digits import draw_clip
from timesformer_jax.explain.drawing import mp4_bytes, png_bytes

FPS = 30.0
ENLARGED = 10
"""Factor by which the frames of 32 x 32 pixels are enlarged."""


class Example(NamedTuple):
    """One example video."""

    title: str
    """Title on the page."""
    clips: Sequence[int]
    """Clips of the validation split, one after the other."""


EXAMPLES = (
    Example("8 moves right", (40,)),
    Example("4 moves up", (43,)),
    Example("5 moves down right", (36,)),
    Example("Twelve motions", (16, 18, 17, 19, 20, 22, 21, 23, 40, 43, 36, 34)),
)


def draw(example: Example) -> UInt8[ndarray, "T H W 3"]:
    """Draw the frames of an example."""
    frames = np.concatenate([draw_clip("val", clip)[0] for clip in example.clips])
    return frames.repeat(ENLARGED, axis=1).repeat(ENLARGED, axis=2)


class Examples:
    """The example videos, written into a folder.

    Args:
        folder: Folder to make.
    """

    def __init__(self, folder: Path):
        folder.mkdir()
        self.thumbnails: dict[str, bytes] = {}
        """Maps a title to a PNG."""
        self._files: list[Path] = []
        for number, example in enumerate(EXAMPLES):
            frames = draw(example)
            path = folder / f"{number}.mp4"
            path.write_bytes(mp4_bytes(frames, FPS))
            self._files.append(path)
            self.thumbnails[example.title] = png_bytes(frames[len(frames) // 2, ::2, ::2])

    def add(self, number: Any, store: Store) -> str | None:
        """Copy an example to a store, as if it were uploaded, and return its token; None if there is no such example."""
        if number not in range(len(EXAMPLES)):
            return None
        upload = store.add(f"{EXAMPLES[number].title}.mp4")
        shutil.copy(self._files[number], upload.video)
        return upload.token
