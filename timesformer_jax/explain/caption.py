"""Layout of drawn videos: panels side by side, each below its title, and a caption below them."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from timesformer_jax._typing import UInt8, ndarray
from timesformer_jax.explain.drawing import pillow
from timesformer_jax.explain.mapped_clip import MappedClip
from timesformer_jax.printable import printable

LARGEST = 7680
"""Maximum width and height of what is written (8K), which browsers still decode."""
LEAST_WIDTH = 320
"""Narrower panels with text are enlarged by a whole factor, so that the text is legible."""
INK, GREY, PAPER = (245, 245, 245), (178, 178, 184), (18, 18, 22)
"""Colours of titles, of captions and behind them."""


class MapPanel(NamedTuple):
    """Maps to draw in one panel.

    Attributes:
        title: Title above the panel, may be empty.
        clips: The maps and their places in the video.
    """

    title: str
    clips: Sequence[MappedClip]


class Page:
    """Arrangement of equally large panels with titles and a caption; without any text, a single panel is left as it is.

    Args:
        titles: Title of each panel.
        caption: Text below the panels.
    """

    def __init__(self, titles: Sequence[str], caption: str):
        self._titles, self._caption = [printable(title) for title in titles], printable(caption)
        self._canvas: np.ndarray | None = None
        self._corners: list[tuple[int, int]] = []

    def fit(self, width: int, height: int, most_side: int | None) -> tuple[int, int]:
        """Return the (width, height) of a panel for a video of this size, if no side may exceed `most_side`."""
        scale = min((most_side or LARGEST) / max(width, height), LARGEST / max(width * len(self._titles), height), 1.0)
        if scale == 1 and (self._caption or any(self._titles)):
            scale = -(-LEAST_WIDTH // width)
            if most_side is not None and scale * max(width, height) > most_side:
                scale = 1
        return max(round(width * scale), 1), max(round(height * scale), 1)

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the page, once composed."""
        return (0, 0) if self._canvas is None else (self._canvas.shape[1], self._canvas.shape[0])

    def compose(self, panels: Sequence[UInt8[ndarray, "H W 3"]]) -> UInt8[ndarray, "H2 W2 3"]:
        """Return the page with these frames, of even height and width. The next call overwrites it."""
        if self._canvas is None:
            self._canvas = self._lay_out(*panels[0].shape[:2])
        for panel, (top, left) in zip(panels, self._corners, strict=True):
            height, width = panel.shape[:2]
            bottom, right = self._canvas.shape[:2]
            # Encoders need even sizes: the last row and column are repeated if nothing else follows them.
            rows = height + (height % 2 if bottom == top + height + height % 2 else 0)
            columns = width + (width % 2 if right == left + width + width % 2 else 0)
            self._canvas[top : top + rows, left : left + columns] = np.pad(
                panel, ((0, rows - height), (0, columns - width), (0, 0)), mode="edge"
            )
        return self._canvas

    def _lay_out(self, height: int, width: int) -> np.ndarray:
        """Draw all text, and note the corners of the panels."""
        size = min(max(round(min(height, width) / 24), 13), 44)
        gap = max(2, size // 3) // 2 * 2
        across = width * len(self._titles) + gap * (len(self._titles) - 1)
        bands = [band(title, width, size, INK) for title in self._titles]
        top = max(title.shape[0] for title in bands)
        below = band(self._caption, across, max(round(size * 0.72), 11), GREY)
        shape = top + height + below.shape[0], across
        canvas = np.full((shape[0] + shape[0] % 2, shape[1] + shape[1] % 2, 3), PAPER, np.uint8)
        self._corners = [(top, number * (width + gap)) for number in range(len(bands))]
        for title, (_, left) in zip(bands, self._corners, strict=True):
            canvas[: title.shape[0], left : left + width] = title
        canvas[top + height : top + height + below.shape[0], :across] = below
        return canvas


Colour = tuple[int, int, int]
FINER = 4
"""Text is drawn this many times larger and then reduced, since small letters would be spaced by whole pixels."""


def band(text: str, width: int, size: int, ink: Colour, paper: Colour = PAPER) -> UInt8[ndarray, "H W 3"]:
    """Draw text of `size` pixels on a band as high as its lines need, which is 0 for an empty text."""
    if not text:
        return np.zeros((0, width, 3), np.uint8)
    from PIL import ImageDraw, ImageFont

    font, pad = ImageFont.load_default(FINER * size), FINER * max(round(size * 0.55), 5)
    lines = wrap(text, FINER * width - 2 * pad, font)
    step = round(1.32 * FINER * size)
    height = -(-(2 * pad + step * len(lines) - (step - FINER * size) // 2) // FINER)
    image = pillow().new("RGB", (FINER * width, FINER * height), paper)
    draw = ImageDraw.Draw(image)
    for number, line in enumerate(lines):
        draw.text((pad, pad + number * step), line, fill=ink, font=font)
    return np.asarray(image.reduce(FINER))


def wrap(text: str, width: int, font: Any) -> list[str]:
    """Break text into lines of at most `width` pixels, between words if possible."""
    lines, line = [], ""
    for word in text.split():
        longer = f"{line} {word}".strip()
        if line and font.getlength(longer) > width:
            lines.append(line)
            longer = word
        while len(longer) > 1 and font.getlength(longer) > width:
            count = max(sum(font.getlength(longer[:n]) <= width for n in range(1, len(longer))), 1)
            lines.append(longer[:count])
            longer = longer[count:]
        line = longer
    return [*lines, line] if line else lines
