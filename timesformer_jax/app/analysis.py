"""What the page computes for an uploaded video, step by step, for each of its checkpoints."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypeVar

import numpy as np

from timesformer_jax._typing import UInt8, ndarray
from timesformer_jax.app.checkpoint import Checkpoint, Seen
from timesformer_jax.app.store import Upload
from timesformer_jax.errors import InputError
from timesformer_jax.explain.drawing import mp4_bytes, overlay
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
    strength: float = 0.65
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


Result = TypeVar("Result")
Progress = Iterator[Step]


class Analysis:
    """The columns of one video on one page.

    Args:
        upload: The video.
        checkpoints: The checkpoints to compare.
        limits: Largest video to accept.
    """

    def __init__(self, upload: Upload, checkpoints: Sequence[Checkpoint], limits: Limits):
        self.upload, self.limits = upload, limits
        self.columns = [Column(checkpoint) for checkpoint in checkpoints]
        self._seen: list[Seen] = []

    def predict(self) -> Progress:
        """Predict with every checkpoint."""
        self._seen = []
        for number, column in enumerate(self.columns):
            yield self._step(number / len(self.columns), f"{column.checkpoint.name} is looking at the video")
            seen = column.checkpoint.see(self.upload.video, self.limits)
            self._seen.append(seen)
            column.best, column.seconds = column.checkpoint.best(seen, BEST), seen.seconds
            frames = column.checkpoint.frames(seen)
            shown = np.unique(np.linspace(0, len(frames) - 1, min(len(frames), MOST_FRAMES)).round().astype(int))
            column.num_frames = len(frames)
            column.frames = [self.upload.serve(".jpg", _jpeg(frames[index]))[1] for index in shown.tolist()]

    def explain(self, choice: Choice) -> Progress:
        """Draw where every checkpoint looks."""
        for number, column in enumerate(self.columns):
            yield self._step(number / len(self.columns), f"Drawing where {column.checkpoint.name} looks")
            try:
                column.drawn, column.explained, column.note = *self._draw(number, choice), ""
            except InputError as error:
                self.upload.check()
                column.drawn, column.explained, column.note = None, None, str(error)

    def _draw(self, number: int, choice: Choice) -> tuple[str, Prediction | None]:
        """Draw the map of one checkpoint; return the video's address and the label that it explains."""
        checkpoint, seen = self.columns[number].checkpoint, self._seen[number]
        label = None if choice.method == "rollout" else checkpoint.number(choice.label, seen)
        maps = checkpoint.maps(seen, label or 0, choice.method)
        frames = overlay(checkpoint.frames(seen), maps)
        _, address = self.upload.serve(".mp4", mp4_bytes(frames, 4))
        explained = None if label is None else Prediction(checkpoint.labels[label], float(seen.scores[label]))
        return address, explained

    def _step(self, done: float, text: str) -> Step:
        self.upload.check()
        return Step(done, text)


def _jpeg(frame: UInt8[ndarray, "H W 3"]) -> bytes:
    return encode_jpeg([frame], quality=90)[0]
