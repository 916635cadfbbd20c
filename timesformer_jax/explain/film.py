"""Maps drawn on the original video: an MP4 with its sound, or a GIF, written frame by frame in bounded memory."""

import math
from collections.abc import Callable, Container, Sequence
from pathlib import Path
from typing import NamedTuple

from timesformer_jax.atomic_write import replacing
from timesformer_jax.errors import InputError
from timesformer_jax.explain.caption import MapPanel, Page
from timesformer_jax.explain.drawing import STRENGTH
from timesformer_jax.explain.encoders import ENCODERS
from timesformer_jax.explain.mapped_clip import MappedClip, Overlay
from timesformer_jax.video.decoding import VideoFile
from timesformer_jax.video.limits import DEFAULT_LIMITS, Limits
from timesformer_jax.video.opening import open_video

MARGIN = 1.0
"""Seconds drawn before the first sampled frame of a clip and after its last one; longer gaps between clips are cut."""


class Film(NamedTuple):
    """Facts of a written video.

    Attributes:
        seconds: Duration.
        width: Width in pixels.
        height: Height in pixels.
        has_sound: Whether it has sound.
    """

    seconds: float
    width: int
    height: int
    has_sound: bool


def draw_on_video(
    video: str | Path,
    output: str | Path,
    clips: Sequence[MappedClip],
    *,
    strength: float = STRENGTH,
    max_side: int | None = None,
    limits: Limits = DEFAULT_LIMITS,
    progress: Callable[[float], object] | None = None,
) -> Film:
    """Draw maps on the video that they explain, and write an MP4 with its sound (H.264 and AAC; plays in browsers) or a GIF.

    ```python
    clip = tsf.video.clip_at(pretrained.preprocess, "video.mp4", start=0.0)
    maps = tsf.explain.class_relevance(model, params, clip.views, labels=[17])[0]
    tsf.explain.draw_on_video("video.mp4", "drawn.mp4", [tsf.explain.MappedClip(clip.times, maps, clip.boxes[0])])
    ```

    Frames are drawn as players show them: upright, with square pixels, at the video's own rate even if it varies. Maps are
    interpolated between sampled frames and between patches. What the model did not receive (outside the crop, or before the
    first and after the last sampled frame of a clip) is dimmed. The stretches of the clips are drawn, with `MARGIN` seconds on
    both sides; what lies between distant clips is cut. One frame is in memory at a time, and the few that an encoder holds.

    Args:
        video: A video file, or a folder of images.
        output: File to write, .mp4 or .gif; replaced only once it is complete.
        clips: Maps with their times and crops. Clips may overlap in time and space.
        strength: Opacity of the colour at the maps' maximum, from 0 (none) to 1.
        max_side: Maximum of width and height in pixels; None for the video's own size (400 for a GIF).
        limits: Largest frame, duration and file size to accept.
        progress: Called now and then with the share that is done, from 0 to 1. An exception that it raises ends the drawing.

    Returns:
        The facts of the written video.

    Raises:
        InputError: If an argument is invalid, or matplotlib, Pillow or PyAV is not installed.
        UnreadableVideoError: An `InputError`, if the video can't be read or exceeds `limits`.
        WriteError: An `InputError`, if `output` can't be written.
    """
    panels = [MapPanel("", clips)]
    return draw_panels(video, output, panels, strength=strength, max_side=max_side, limits=limits, progress=progress)


def draw_panels(
    video: str | Path,
    output: str | Path,
    panels: Sequence[MapPanel],
    *,
    caption: str = "",
    strength: float = STRENGTH,
    max_side: int | None = None,
    fps: float | None = None,
    limits: Limits = DEFAULT_LIMITS,
    progress: Callable[[float], object] | None = None,
) -> Film:
    """Draw several sets of maps side by side, as `draw_on_video` does for one.

    Args:
        video: A video file, or a folder of images.
        output: File to write, .mp4 or .gif.
        panels: Maps with a title each; a title may be empty.
        caption: Text below the panels.
        strength: Opacity of the colour at the maps' maximum, from 0 to 1.
        max_side: Maximum of width and height of a panel in pixels; None for the video's own size (400 for a GIF).
        fps: Maximum frames per second; None for the video's own rate (10 for a GIF).
        limits: Largest frame, duration and file size to accept.
        progress: Called with the share that is done.

    Returns:
        The facts of the written video.

    Raises:
        InputError: As for `draw_on_video`.
    """
    output = Path(output)
    encoder_of = ENCODERS.get(output.suffix.lower())
    if encoder_of is None:
        raise InputError(f"The name of a drawn video must end in {' or '.join(ENCODERS)}, got {output.name}.")
    for name, value in (("max_side", max_side), ("fps", fps)):
        if value is not None and not 0 < value < math.inf:
            raise InputError(f"{name} must be above 0, got {value}.")
    overlays = [Overlay(panel.clips, strength) for panel in panels]
    page = Page([panel.title for panel in panels], caption)
    stretches = join_stretches([span for overlay in overlays for span in overlay.spans])
    total, at = sum(end - begin for begin, end in stretches), 0.0
    most_side, most_fps = max_side or encoder_of.max_side, fps or encoder_of.max_fps
    size_of = of_first(lambda width, height: page.fit(width, height, most_side))
    with open_video(video, limits=limits) as source:
        check_output(output, video)
        with replacing(output) as part, encoder_of(part, source, stretches[0][0]) as encoder:
            for begin, end in stretches:
                shift, only = None, None if most_fps is None else _Due(source, most_fps)
                for frame in source.frames(span=(begin, end), only=only, size_of=size_of):
                    if shift is None:
                        shift = at - source.shown
                        encoder.begin(source.shown, at)
                    encoder.add(page.compose([overlay.draw(frame, source.shown) for overlay in overlays]), shift + source.shown)
                    at = shift + min(source.shown + 1 / source.fps, end)
                    if progress is not None:
                        progress(min(at / total, 1.0))
                encoder.end(at)
    return Film(at, *page.size, encoder.has_sound)


def check_output(output: Path, video: str | Path) -> None:
    """Raise `InputError` if a drawing has no folder to be written to, or would overwrite its own video."""
    if not output.parent.is_dir():
        raise InputError(f"There is no folder {output.parent} to write {output.name} to.")
    if output.exists() and Path(video).exists() and output.samefile(video):
        raise InputError(f"{output} is the video itself: choose another name for what is drawn.")


def of_first(size_of: Callable[[int, int], tuple[int, int]]) -> Callable[[int, int], tuple[int, int]]:
    """Return a function with one result, that of its first call, since frames of other sizes are drawn on the same page."""
    found: list[tuple[int, int]] = []

    def size(width: int, height: int) -> tuple[int, int]:
        if not found:
            found.append(size_of(width, height))
        return found[0]

    return size


class _Due(Container[object]):
    """Contains a frame if it is the time for one at a maximum rate, asked in order about the frames that a video shows.

    A frame may come a quarter of a period early, so that rounded timestamps make no difference.
    """

    def __init__(self, source: VideoFile, fps: float):
        self._source, self._period, self._next = source, 1 / fps, 0.0

    def __contains__(self, index: object) -> bool:
        late = self._source.shown - self._next
        if late < -self._period / 4:
            return False
        self._next += self._period if late < self._period else late + self._period  # a pause isn't made up for
        return True


def join_stretches(spans: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Widen each clip's first and last time by `MARGIN`, and join those that then overlap; ascending."""
    stretches: list[tuple[float, float]] = []
    for begin, end in sorted((max(begin - MARGIN, 0.0), end + MARGIN) for begin, end in spans):
        if stretches and begin <= stretches[-1][1]:
            stretches[-1] = stretches[-1][0], max(end, stretches[-1][1])
        else:
            stretches.append((begin, end))
    return stretches
