"""Drawing of maps over frames, as panels in an animation, a video or a contact sheet."""

import io
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

from timesformer_jax._typing import Array, Float, Shaped, UInt8, ndarray
from timesformer_jax.extras import needs
from timesformer_jax.interpolation import linear
from timesformer_jax.printable import printable
from timesformer_jax.spacing import evenly

STRENGTH = 0.65
"""Opacity of the colour at the map's maximum."""
LEAST_SIDE = 224
"""Frames with a shorter side are enlarged to at least this many pixels, so that titles are legible."""
TITLE_HEIGHT = 22
MOST_COLUMNS = 8


class Panel(NamedTuple):
    """Frames with a title."""

    title: str
    """Title above the frames."""
    frames: UInt8[ndarray, "T H W 3"]
    """RGB frames."""


def overlay(frames: UInt8[ndarray, "T H W 3"], maps: Shaped[Array | ndarray, "T h w"]) -> UInt8[ndarray, "T H W 3"]:
    """Overlay a map on each frame, from transparent at the clip's minimum to bright at its maximum.

    Maps are upsampled bilinearly. The colour scale is shared by the whole clip, so that frames can be compared. It ends at the
    99th percentile, because a single peak would otherwise leave everything else dark.

    Raises `InputError` if matplotlib is not installed.
    """
    _, height, width, _ = frames.shape
    rows, columns = linear(maps.shape[1], height), linear(maps.shape[2], width)
    heat = scaled(np.einsum("yh,thw,xw->tyx", rows, np.asarray(maps, np.float64), columns))
    share = STRENGTH * heat[..., None]
    return np.rint((1 - share) * frames + share * 255 * colour_of(heat)).astype(np.uint8)


def scaled(heat: Float[ndarray, "T h w"]) -> Float[ndarray, "T h w"]:
    """Scale the maps of a clip from 0 at their minimum to 1 at their 99th percentile; uniform maps become 0."""
    low, high = heat.min(), np.quantile(heat, 0.99)
    spread = high - low if high > low else heat.max() - low
    # A smaller spread is rounding error, not signal.
    return ((heat - low) / spread).clip(0, 1) if spread > 1e-6 * abs(heat).max() else np.zeros_like(heat)


def colour_of(heat: Float[ndarray, "*axes"]) -> Float[ndarray, "*axes 3"]:
    """Return the RGB colour of each value, both from 0 to 1.

    Raises `InputError` if matplotlib is not installed.
    """
    with needs("matplotlib", "Drawing"):
        from matplotlib import colormaps
    return colormaps["inferno"](heat)[..., :3]


def side_by_side(panels: Sequence[Panel]) -> UInt8[ndarray, "T H W 3"]:
    """Arrange the panels' frames in one row, each with its title."""
    return np.concatenate([_titled(panel) for panel in panels], axis=2)


def sheet(panels: Sequence[Panel]) -> UInt8[ndarray, "H W 3"]:
    """Arrange the panels in rows, each with all of its frames from left to right, or 8 evenly spaced ones if it has more."""
    count = len(panels[0].frames)
    chosen = evenly(count, MOST_COLUMNS)
    rows = []
    for panel in panels:
        frames = _enlarged(panel.frames[chosen])
        strip = np.concatenate([np.pad(frame, ((0, 0), (0, 4), (0, 0)), constant_values=255) for frame in frames], axis=1)
        rows.append(_with_title(strip, panel.title))
    return np.concatenate(rows)


def gif_bytes(frames: UInt8[ndarray, "T H W 3"], fps: float) -> bytes:
    """Encode frames as a GIF that loops forever."""
    pictures = [pillow().fromarray(frame) for frame in frames]
    file = io.BytesIO()
    pictures[0].save(file, "GIF", save_all=True, append_images=pictures[1:], duration=round(1000 / fps), loop=0)
    return file.getvalue()


def mp4_bytes(frames: UInt8[ndarray, "T H W 3"], fps: float) -> bytes:
    """Encode frames as an MP4 (H.264), which browsers can play.

    Raises `InputError` if PyAV is not installed.
    """
    with needs("av", "Writing .mp4"):
        import av

    file = io.BytesIO()
    _, height, width, _ = frames.shape
    even = np.pad(frames, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    with av.open(file, "w", format="mp4") as container:
        stream: Any = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1000))
        stream.height, stream.width, stream.pix_fmt = even.shape[1], even.shape[2], "yuv420p"
        for frame in even:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    return file.getvalue()


def png_bytes(picture: UInt8[ndarray, "H W 3"]) -> bytes:
    """Encode an image as a PNG."""
    file = io.BytesIO()
    pillow().fromarray(picture).save(file, "PNG")
    return file.getvalue()


WRITERS: dict[str, Callable[[Sequence[Panel], float], bytes]] = {
    ".gif": lambda panels, fps: gif_bytes(side_by_side(panels), fps),
    ".mp4": lambda panels, fps: mp4_bytes(side_by_side(panels), fps),
    ".png": lambda panels, fps: png_bytes(sheet(panels)),
}
"""Maps a file extension to its encoder: (panels, frames per second) -> bytes."""


def pillow() -> Any:
    """Return Pillow's module of images; raises `InputError` if it is not installed."""
    with needs("PIL", "Drawing"):
        from PIL import Image
    return Image


def _enlarged(frames: UInt8[ndarray, "T H W 3"]) -> UInt8[ndarray, "T H2 W2 3"]:
    """Enlarge small frames by a whole factor."""
    factor = -(-LEAST_SIDE // min(frames.shape[1:3]))
    image, size = pillow(), (frames.shape[2] * factor, frames.shape[1] * factor)
    return frames if factor == 1 else np.stack([np.asarray(image.fromarray(frame).resize(size)) for frame in frames])


def _titled(panel: Panel) -> UInt8[ndarray, "T H W 3"]:
    return np.stack([_with_title(frame, panel.title) for frame in _enlarged(panel.frames)])


def _with_title(picture: UInt8[ndarray, "H W 3"], title: str) -> UInt8[ndarray, "H2 W 3"]:
    """Add a white band with the title above the image; titles that are too long are truncated."""
    from PIL import ImageDraw, ImageFont

    band = pillow().new("RGB", (picture.shape[1], TITLE_HEIGHT), "white")
    draw, font = ImageDraw.Draw(band), ImageFont.load_default(14)
    text = title = printable(title)
    while text and draw.textlength(text + ("" if text == title else "…"), font=font) > picture.shape[1] - 6:
        text = text[:-1]
    draw.text((3, 3), text + ("" if text == title else "…"), fill="black", font=font)
    return np.concatenate([np.asarray(band), picture])
