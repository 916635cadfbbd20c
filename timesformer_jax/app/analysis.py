"""What the page computes for an uploaded video, step by step, for each of its checkpoints."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from timesformer_jax._typing import UInt8, ndarray
from timesformer_jax.app.checkpoint import Checkpoint, Seen
from timesformer_jax.app.stepwise import stepwise
from timesformer_jax.app.store import Upload
from timesformer_jax.errors import InputError
from timesformer_jax.explain import Film, MappedClip, draw_on_video
from timesformer_jax.explain.drawing import STRENGTH
from timesformer_jax.pretrained import Prediction
from timesformer_jax.video import Limits
from timesformer_jax.video.encoding import encode_jpeg

BEST = 5
"""Number of labels with their probabilities."""
MOST_FRAMES = 32
"""Maximum number of frames to show, evenly spread."""


class Choice(NamedTuple):
    """What the user chose to see."""

    label: str | None = None
    """Label to explain; None for the best label of each model."""
    method: str = "relevance"
    """A key of `METHODS`."""
    strength: float = STRENGTH
    """Opacity of the map where it is highest, from 0 to 1."""


class Step(NamedTuple):
    """Progress."""

    done: float
    """Fraction that is done."""
    text: str
    """What is done now."""


@dataclasses.dataclass
class Column:
    """What the page shows of one checkpoint.

    Attributes:
        checkpoint: The checkpoint.
        best: The best labels with their probabilities.
        frames: Addresses of the frames that the model saw.
        num_frames: Number of frames that it saw, of which `frames` may be only some.
        seconds: Second at which the clip begins.
        explained: The explained label with its probability; None with a method that doesn't depend on a label.
        drawn: Address of the video with the map; None before it is drawn.
        note: Why nothing is drawn; empty if it is.
    """

    checkpoint: Checkpoint
    best: Sequence[Prediction] = ()
    frames: Sequence[str] = ()
    num_frames: int = 0
    seconds: float = 0.0
    explained: Prediction | None = None
    drawn: str | None = None
    note: str = ""


Progress = Iterator[Step]


class Analysis:
    """The columns of one video on one page.

    Args:
        upload: The video.
        checkpoints: The checkpoints to compare.
        limits: Largest video to accept.
        max_side: Maximum of width and height in pixels of drawn videos; None for the video's own size.
    """

    def __init__(self, upload: Upload, checkpoints: Sequence[Checkpoint], limits: Limits, max_side: int | None = None):
        self.upload, self.limits, self.max_side = upload, limits, max_side
        self.columns = [Column(checkpoint) for checkpoint in checkpoints]
        self._seen: list[Seen] = []
        self._kept: dict[tuple[int, int | None, str], MappedClip] = {}

    def predict(self) -> Progress:
        """Predict with every checkpoint."""
        self._seen = []
        for number, column in enumerate(self.columns):
            yield self._step(number / len(self.columns), f"{column.checkpoint.name} is looking at the video")
            seen = column.checkpoint.see(self.upload.video, self.limits)
            self._seen.append(seen)
            column.best, column.seconds = column.checkpoint.best(seen, BEST), seen.clip.seconds
            frames = column.checkpoint.frames(seen)
            shown = np.unique(np.linspace(0, len(frames) - 1, min(len(frames), MOST_FRAMES)).round().astype(int))
            column.num_frames = len(frames)
            column.frames = [self.upload.serve(".jpg", _jpeg(frames[index]))[1] for index in shown.tolist()]

    def explain(self, choice: Choice) -> Progress:
        """Draw where every checkpoint looks."""
        for number, column in enumerate(self.columns):
            text = f"Drawing where {column.checkpoint.name} looks"
            yield self._step(number / len(self.columns), text)
            address = None
            try:
                explained, clip = self._maps(number, choice)
                path, address = self.upload.serve(".mp4")
                for share in stepwise(functools.partial(self._draw, path, clip, choice.strength)):
                    yield self._step((number + share) / len(self.columns), text)
            except InputError as error:
                self.upload.check()
                self.upload.drop(address)
                column.explained, column.note, address = None, self.upload.said(error), None
            else:
                column.explained, column.note = explained, ""
            self.upload.drop(column.drawn)
            column.drawn = address

    def _maps(self, number: int, choice: Choice) -> tuple[Prediction | None, MappedClip]:
        """Compute, or find, the maps of a checkpoint, and the label that they explain."""
        checkpoint, seen = self.columns[number].checkpoint, self._seen[number]
        label = None if choice.method == "rollout" else checkpoint.number(choice.label, seen)
        asked = number, label, choice.method
        if asked not in self._kept:
            self._kept[asked] = checkpoint.maps(seen, label or 0, choice.method)
        explained = None if label is None else Prediction(checkpoint.labels[label], float(seen.scores[label]))
        return explained, self._kept[asked]

    def _draw(self, path: Path, clip: MappedClip, strength: float, progress: Callable[[float], None]) -> Film:
        limits = {"max_side": self.max_side, "limits": self.limits}
        return draw_on_video(self.upload.video, path, [clip], strength=strength, progress=progress, **limits)

    def _step(self, done: float, text: str) -> Step:
        self.upload.check()
        return Step(done, text)


def _jpeg(frame: UInt8[ndarray, "H W 3"]) -> bytes:
    return encode_jpeg([frame], quality=90)[0]
