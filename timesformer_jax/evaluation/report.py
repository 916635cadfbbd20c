"""Content of the HTML report: videos, classes, confused pairs and the choice of examples. `render.py` makes the page of it."""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from timesformer_jax._typing import Float, Int, ndarray
from timesformer_jax.evaluation.comparison import Comparison
from timesformer_jax.evaluation.figures import Curve, Points, Timeline
from timesformer_jax.evaluation.metrics import wilson_interval
from timesformer_jax.evaluation.results import is_right, labels_of

Row = Mapping[str, Any]
"""Line of `predictions.jsonl`: a video with its labels and its best predictions."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShownVideo:
    """Evaluated video, with the model's predictions, frames and explanation.

    Attributes:
        name: Name of the video.
        labels: True labels.
        best: Predicted labels and scores, best first.
        frames: Frames of one clip, uint8 RGB `[T, H, W, 3]`.
        maps: Map of each frame, from 0 to 1; None for no maps.
        area: (top, left, height, width) of the region that the maps cover, as shares of the frame.
        timeline: Scores over time; None if the video is no longer than a clip.
    """

    name: str
    labels: Sequence[str]
    best: Sequence[tuple[str, float]]
    frames: np.ndarray
    maps: Float[ndarray, "T h w"] | None = None
    area: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)
    timeline: Timeline | None = None

    @property
    def right(self) -> bool:
        return self.best[0][0] in self.labels


class ClassRow(NamedTuple):
    """Accuracy and most frequent confusion of one class."""

    label: str
    """Name of the class."""
    videos: int
    """Number of evaluated videos of the class."""
    accuracy: float | None
    """Share of correct predictions; None if there are no videos."""
    taken_for: str
    """Wrong label that is predicted most often; empty if all predictions are correct."""
    taken_for_videos: int
    """Number of videos for which it is predicted."""


class ConfusedPair(NamedTuple):
    """Two classes that are mistaken for each other."""

    first: str
    """Class that is mistaken more often."""
    second: str
    """The other class."""
    times: int
    """Number of videos of `first` for which `second` is predicted."""
    back: int
    """Number of videos of `second` for which `first` is predicted."""
    videos: tuple[str, str]
    """Example of each class, a confused one if there is one; "" for none."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """Content of a report.

    Attributes:
        title: Title of the page.
        summary: One-sentence summary.
        configuration: Maps configuration fields to their values.
        results: Content of `results.json`.
        rows: Rows of `predictions.jsonl` of the readable videos.
        curves: Maps panels to lines to steps and values.
        label_names: Names of the classes.
        confusion: Confusion matrix of counts, with true labels in rows; None for multi-label data.
        examples: Videos to show, errors first.
        pictures: Maps names of videos to a frame each, uint8 RGB `[H, W, 3]`; see `pictured_videos`.
        map_name: Caption of the maps.
        points: The embedded features; None to omit them.
        points_caption: Caption of that figure.
        cost: Maps quantities, such as parameters, to figures.
        unreadable: Maps videos that couldn't be read to the reasons.
        validation: Sentence on how the evaluation differs from validation; empty to omit it.
        comparison: Comparison with another run; None for none.
    """

    title: str
    summary: str
    configuration: Mapping[str, str]
    results: Mapping[str, Any]
    rows: Sequence[Row]
    curves: Mapping[str, Mapping[str, Curve]]
    label_names: Sequence[str]
    confusion: Int[ndarray, "classes classes"] | None
    examples: Sequence[ShownVideo]
    pictures: Mapping[str, np.ndarray]
    map_name: str
    points: Points | None
    points_caption: str
    cost: Mapping[str, str]
    unreadable: Mapping[str, str]
    validation: str = ""
    comparison: Comparison | None = None


TITLES: dict[str, tuple[str, bool]] = {
    "top1": ("Top-1", True),
    "top5": ("Top-5", True),
    "mean_class_accuracy": ("Mean class accuracy", True),
    "map": ("Mean average precision", True),
    "calibration_error": ("Expected calibration error", False),
}
"""Maps a metric of `results.json` to its title and whether higher is better, in the order of the table."""

AVERAGE_TITLES = {
    "probabilities": "mean of the views' probabilities (the paper)",
    "logits": "mean of the views' logits (the official code)",
}
"""Average -> its title in the report."""

MOST_RANKED = 4
"""Number of best classes, and of worst classes, in the summary."""
MOST_PAIRS = 10
"""Number of confused pairs to list."""


def class_rows(confusion: Int[ndarray, "classes classes"], names: Sequence[str]) -> list[ClassRow]:
    """Return one row per class, in order."""
    rows = []
    for i, name in enumerate(names):
        wrong = np.where(np.arange(len(names)) == i, 0, confusion[i])
        most, videos = int(wrong.argmax()), int(confusion[i].sum())
        accuracy = float(confusion[i, i] / videos) if videos else None
        rows.append(ClassRow(name, videos, accuracy, names[most] if wrong[most] else "", int(wrong[most])))
    return rows


def label_rows(rows: Sequence[Row], names: Sequence[str]) -> list[ClassRow]:
    """Return one row per class of multi-label data; accuracies are shares of videos with the label among their best five."""
    videos, found = dict.fromkeys(names, 0), dict.fromkeys(names, 0)
    for row in rows:
        best = {label for label, _ in row["best"]}
        for label in labels_of(row):
            videos[label] += 1
            found[label] += label in best
    return [ClassRow(name, videos[name], found[name] / videos[name] if videos[name] else None, "", 0) for name in names]


def classes_of(report: Report) -> list[ClassRow]:
    """Return the rows of the table of classes."""
    if report.confusion is None:
        return label_rows(report.rows, report.label_names)
    return class_rows(report.confusion, report.label_names)


def best_and_worst(classes: Sequence[ClassRow], count: int = MOST_RANKED) -> tuple[list[ClassRow], list[ClassRow]]:
    """Rank the classes that have videos: at most `count` best and `count` worst ones, and no class twice.

    The best ones have the highest lower end of the accuracy's 95 % interval and the worst ones the lowest upper end, so that a
    class with one or two videos is not first by luck. Classes without errors are not among the worst, nor are those without
    hits among the best.
    """
    there = [(row, row.accuracy) for row in classes if row.accuracy is not None]
    count = min(count, len(there) // 2)
    ends = {row.label: wilson_interval(accuracy, row.videos) for row, accuracy in there}
    wrong, right = ([row for row, share in there if share < 1], [row for row, share in there if share > 0])
    worst = sorted(wrong, key=lambda row: (ends[row.label][1], row.label))[:count]
    best = sorted((row for row in right if row not in worst), key=lambda row: (-ends[row.label][0], row.label))[:count]
    return best, worst


def spread(rows: Sequence[Row], count: int) -> list[Row]:
    """Choose `count` rows, the most confident ones, from as many classes as possible."""
    seen: dict[str, int] = {}
    ranked = []
    for row in sorted(rows, key=lambda row: (-row["best"][0][1], row["video"])):
        label = next(iter(labels_of(row)), "")
        ranked.append((seen.get(label, 0), row))
        seen[label] = seen.get(label, 0) + 1
    return [row for _, row in sorted(ranked, key=lambda pair: pair[0])[:count]]


def pick_examples(rows: Sequence[Row], count: int) -> list[Row]:
    """Choose at most `count` wrong and `count` right predictions, wrong ones first, spread over the classes."""
    return [
        *spread([row for row in rows if not is_right(row)], count),
        *spread([row for row in rows if is_right(row)], count),
    ]


def confused_pairs(
    confusion: Int[ndarray, "classes classes"], names: Sequence[str], rows: Sequence[Row], count: int = MOST_PAIRS
) -> list[ConfusedPair]:
    """Return the pairs of classes that are mistaken for each other most often, in either direction."""
    both = np.triu(confusion + confusion.T, 1)
    pairs = sorted(np.argwhere(both).tolist(), key=lambda pair: (-both[tuple(pair)], pair))[:count]
    examples = _Examples(rows)
    found = []
    for i, j in pairs:
        a, b = (i, j) if confusion[i, j] >= confusion[j, i] else (j, i)
        videos = examples.of(names[a], names[b]), examples.of(names[b], names[a])
        found.append(ConfusedPair(names[a], names[b], int(confusion[a, b]), int(confusion[b, a]), videos))
    return found


class _Examples:
    """Most confident example of each pair of a true and a predicted label."""

    def __init__(self, rows: Sequence[Row]):
        self._best: dict[tuple[str, str], str] = {}
        for row in sorted(rows, key=lambda row: (-row["best"][0][1], row["video"])):
            for label in labels_of(row):
                self._best.setdefault((label, row["best"][0][0]), row["video"])

    def of(self, label: str, predicted: str) -> str:
        """A video of `label` predicted so, else one that is predicted correctly, else any; "" if the label has none."""
        keys = ((label, predicted), (label, label), *(key for key in self._best if key[0] == label))
        return next((self._best[key] for key in keys if key in self._best), "")


def class_pictures(ranked: tuple[Sequence[ClassRow], Sequence[ClassRow]], rows: Sequence[Row]) -> dict[str, str]:
    """Map each ranked class to a video: a correct prediction of the best ones, the most frequent error of the worst ones."""
    examples = _Examples(rows)
    best, worst = ranked
    wanted = [(row.label, row.label) for row in best] + [(row.label, row.taken_for or row.label) for row in worst]
    return {label: video for label, predicted in wanted if (video := examples.of(label, predicted))}


def pictured_videos(
    confusion: Int[ndarray, "classes classes"] | None, names: Sequence[str], rows: Sequence[Row]
) -> Collection[str]:
    """Names of the videos of which the report shows a single frame: of ranked classes and of confused pairs."""
    classes = label_rows(rows, names) if confusion is None else class_rows(confusion, names)
    pairs = [] if confusion is None else confused_pairs(confusion, names, rows)
    wanted = [*class_pictures(best_and_worst(classes), rows).values(), *(video for pair in pairs for video in pair.videos)]
    return list(dict.fromkeys(video for video in wanted if video))
