"""Probabilities of a long video's windows, and the stretches of its best labels."""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np

from timesformer_jax._typing import Array, Float, ndarray
from timesformer_jax.video.preprocess import Window

AT_ONCE = 4
"""Maximum number of views computed at a time, as in `Pretrained.clip_scores`."""


class Stretch(NamedTuple):
    """Part of a video in which one label is the best.

    Attributes:
        start: First second.
        end: Last second; the next stretch starts there.
        label: Index of the label.
        probability: Its mean probability over the windows.
    """

    start: float
    end: float
    label: int
    probability: float


class WindowScores(NamedTuple):
    """Probabilities of the windows of a video, in order of time. Neighbouring windows usually overlap.

    Attributes:
        starts: Presentation time of each window's first frame, in seconds from the video's first frame.
        ends: Time at which each window's last frame ends.
        probabilities: Probability of each class in each window.
    """

    starts: Float[ndarray, "windows"]
    ends: Float[ndarray, "windows"]
    probabilities: Float[ndarray, "windows classes"]

    @property
    def centres(self) -> Float[ndarray, "windows"]:
        """Second in the middle of each window."""
        return (self.starts + self.ends) / 2

    @property
    def edges(self) -> Float[ndarray, "edges"]:
        """Bounds of the part of the video that each window stands for: midway between centres, and the video's two ends."""
        centres = self.centres
        return np.concatenate([self.starts[:1], (centres[:-1] + centres[1:]) / 2, self.ends[-1:]])

    def stretches(self) -> list[Stretch]:
        """Join neighbouring windows with the same best label."""
        best, edges = self.probabilities.argmax(axis=1), self.edges
        firsts = [0, *(np.flatnonzero(np.diff(best)) + 1).tolist()]
        return [
            Stretch(
                float(edges[first]),
                float(edges[end]),
                int(best[first]),
                float(self.probabilities[first:end, best[first]].mean()),
            )
            for first, end in zip(firsts, [*firsts[1:], len(best)], strict=True)
        ]


def score_windows(
    windows: Iterable[Window],
    score: Callable[[np.ndarray], Array],
    progress: Callable[[float], object] | None = None,
) -> WindowScores:
    """Compute the probabilities of windows in batches, each averaged over its crops.

    Args:
        windows: The windows. If the first one comes again, the earlier ones are dropped.
        score: Computes the probabilities of views.
        progress: Called with the share that is done.
    """
    found: list[np.ndarray] = []
    bounds: list[tuple[float, float]] = []
    running: tuple[Array, int] | None = None

    def finish(scores: Array, count: int) -> None:
        found.append(np.asarray(scores).reshape(-1, crops, scores.shape[-1]).mean(axis=1)[:count])

    for batch in _batches(windows):
        crops, number, num_windows = len(batch[0].clip.views), batch[0].clip.number, batch[0].clip.num_clips
        if not number:
            found, bounds, running = [], [], None
        at_once = max(min(AT_ONCE // crops, num_windows), 1)
        views = np.concatenate([window.clip.views for window in batch])
        scores = score(np.pad(views, [(0, at_once * crops - len(views)), *[(0, 0)] * (views.ndim - 1)]))  # a single shape
        if running is not None:  # computed while the next windows were decoded
            finish(*running)
        running = scores, len(batch)
        bounds += [(window.start, window.end) for window in batch]
        if progress is not None:
            progress((number + len(batch)) / num_windows)
    assert running is not None  # a video without frames raises
    finish(*running)
    starts, ends = np.array(bounds).T
    return WindowScores(starts, ends, np.concatenate(found))


def _batches(windows: Iterable[Window]) -> Iterator[list[Window]]:
    """Group windows, without mixing those before and after a new beginning."""
    batch: list[Window] = []
    for window in windows:
        if not window.clip.number:
            batch = []
        batch.append(window)
        if len(batch) * len(window.clip.views) + len(window.clip.views) > AT_ONCE:
            yield batch
            batch = []
    if batch:
        yield batch
