"""What the page computes for an uploaded video, step by step, for each of its checkpoints."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

from timesformer_jax._typing import UInt8, ndarray
from timesformer_jax.app.checkpoint import Checkpoint, Moments, Seen
from timesformer_jax.app.stepwise import stepwise
from timesformer_jax.app.store import Upload
from timesformer_jax.errors import InputError
from timesformer_jax.explain import Film, MappedClip, draw_on_video
from timesformer_jax.explain.drawing import STRENGTH
from timesformer_jax.pretrained import Prediction, WindowScores
from timesformer_jax.spacing import evenly
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
    moment: float | None = None
    """Second at which the clip begins; None for the clip of each model's evaluation."""


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
        until: Second of its last frame.
        moments: Where else the model can look; None for videos that are hardly longer than a clip.
        explained: The explained label with its probability; None with a method that doesn't depend on a label.
        method: How it is explained, a key of `METHODS`.
        drawn: Address of the video with the map; None before it is drawn.
        note: Why nothing is drawn; empty if it is.
        scores: Probabilities over time; None for videos that are hardly longer than a clip, and before they are computed.
    """

    checkpoint: Checkpoint
    best: Sequence[Prediction] = ()
    frames: Sequence[str] = ()
    num_frames: int = 0
    seconds: float = 0.0
    until: float = 0.0
    moments: Moments | None = None
    explained: Prediction | None = None
    method: str = "relevance"
    drawn: str | None = None
    note: str = ""
    scores: WindowScores | None = None


Result = TypeVar("Result")
Progress = Iterator[Step]


class Analysis:
    """The columns of one video on one page.

    Args:
        upload: The video.
        checkpoints: The checkpoints to compare.
        limits: Largest video to accept.
        max_side: Maximum of width and height in pixels of drawn videos; None for the video's own size.

    Attributes:
        columns: What the page shows, kept up to date by the steps below.
        running: A mark for each of the page's events that has steps left.
        moment: The latest chosen moment, as in `Choice`.
    """

    def __init__(self, upload: Upload, checkpoints: Sequence[Checkpoint], limits: Limits, max_side: int | None = None):
        self.upload, self.limits, self.max_side = upload, limits, max_side
        self.columns = [Column(checkpoint) for checkpoint in checkpoints]
        self.running: set[object] = set()
        self.moment: float | None = None
        self._turn = 0
        self._seen: list[Seen] = []
        self._kept: dict[tuple[int, float | None, int | None, str], MappedClip] = {}

    @property
    def latest(self) -> float | None:
        """Latest second at which a clip of any model can begin; None if the video is hardly longer than their clips."""
        return max((column.moments.latest for column in self.columns if column.moments), default=None)

    def predict(self) -> Progress:
        """Predict with every checkpoint."""
        self._seen = []
        for number, column in enumerate(self.columns):
            yield self._step(number / len(self.columns), f"{column.checkpoint.name} is looking at the video")
            self._seen.append(column.checkpoint.see(self.upload.video, self.limits))
            self._show(number)
            column.moments = column.checkpoint.moments(self.upload.video, self.limits)

    def explain(self, choice: Choice) -> Progress:
        """Draw where every checkpoint looks, at another moment if that is the choice.

        If it is called again meanwhile, with another choice, the earlier call stops.
        """
        self._turn = turn = self._turn + 1
        for number, column in enumerate(self.columns):
            if self._seen[number].moment != choice.moment:
                yield self._step(number / len(self.columns), f"{column.checkpoint.name} is looking at another moment")
                seen = column.checkpoint.see(self.upload.video, self.limits, choice.moment)
                if self._turn != turn:
                    return
                self._seen[number] = seen
                self._show(number)
            text = f"Drawing where {column.checkpoint.name} looks"
            yield self._step(number / len(self.columns), text)
            address, note = None, ""
            try:
                explained, clip = self._maps(number, choice)
                path, address = self.upload.serve(".mp4")
                yield from self._shares(stepwise(functools.partial(self._draw, path, clip, choice.strength)), number, text)
            except InputError as error:
                self.upload.check()
                self.upload.drop(address)
                address, explained, note = None, None, self.upload.said(error)
            if self._turn != turn:
                self.upload.drop(address)
                return
            self.upload.drop(column.drawn)
            column.drawn, column.explained, column.note, column.method = address, explained, note, choice.method

    def follow(self) -> Progress:
        """Predict the labels over time, if the video is longer than a clip."""
        for number, column in enumerate(self.columns):
            checkpoint, text = column.checkpoint, f"{column.checkpoint.name} is following the whole video"
            if column.moments is None:
                continue
            yield self._step(number / len(self.columns), text)
            steps = stepwise(functools.partial(checkpoint.follow, self.upload.video, column.moments.stride, self.limits))
            column.scores = yield from self._shares(steps, number, text)

    def _show(self, number: int) -> None:
        """Show the labels and the frames of the clip that a checkpoint saw."""
        column, seen = self.columns[number], self._seen[number]
        frames = column.checkpoint.frames(seen)
        shown = evenly(len(frames), MOST_FRAMES)
        before = column.frames
        column.frames = [self.upload.serve(".jpg", _jpeg(frames[index]))[1] for index in shown.tolist()]
        column.best, column.num_frames = column.checkpoint.best(seen, BEST), len(frames)
        column.seconds, column.until = seen.clip.seconds, float(seen.clip.times[-1])
        for address in before:
            self.upload.drop(address)

    def _maps(self, number: int, choice: Choice) -> tuple[Prediction | None, MappedClip]:
        """Compute, or find, the maps of a checkpoint, and the label that they explain."""
        checkpoint, seen = self.columns[number].checkpoint, self._seen[number]
        label = None if choice.method == "rollout" else checkpoint.number(choice.label, seen)
        asked = number, seen.moment, label, choice.method
        if asked not in self._kept:
            self._kept[asked] = checkpoint.maps(seen, label or 0, choice.method)
        explained = None if label is None else Prediction(checkpoint.labels[label], float(seen.scores[label]))
        return explained, self._kept[asked]

    def _draw(self, path: Path, clip: MappedClip, strength: float, progress: Callable[[float], None]) -> Film:
        limits = {"max_side": self.max_side, "limits": self.limits}
        return draw_on_video(self.upload.video, path, [clip], strength=strength, progress=progress, **limits)

    def _shares(self, steps: Generator[float, None, Result], number: int, text: str) -> Generator[Step, None, Result]:
        """Turn shares of the work on one column into steps of the whole."""
        with contextlib.closing(steps):
            while True:
                try:
                    share = next(steps)
                except StopIteration as ended:
                    return ended.value
                yield self._step((number + share) / len(self.columns), text)

    def _step(self, done: float, text: str) -> Step:
        self.upload.check()
        return Step(done, text)


def _jpeg(frame: UInt8[ndarray, "H W 3"]) -> bytes:
    return encode_jpeg([frame], quality=90)[0]
