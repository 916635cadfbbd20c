"""HTML report of a run: configuration, curves, metrics, errors and explained videos."""

import base64
import dataclasses
import importlib.resources
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from timesformer_jax._typing import Int, ndarray
from timesformer_jax.evaluation.figures import Curve, draw_accuracy_over_clips, draw_confusion, draw_curves
from timesformer_jax.extras import MissingPackageError
from timesformer_jax.printable import printable


class ShownVideo(NamedTuple):
    """Evaluated video, with the model's predictions and explanation."""

    name: str
    """Name of the video."""
    labels: Sequence[str]
    """True labels."""
    best: Sequence[tuple[str, float]]
    """Predicted labels and scores, best first."""
    animation: bytes
    """GIF of the explanation."""

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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """Content of a report.

    Attributes:
        title: Title of the page.
        summary: One-sentence summary.
        configuration: Maps configuration fields to their values.
        results: Content of `results.json`.
        curves: Maps panels to lines to steps and values.
        label_names: Names of the classes.
        confusion: Confusion matrix of counts, with true labels in rows; None for multi-label data.
        best: Correct predictions with the highest confidence.
        worst: Wrong predictions with the highest confidence.
        map_name: Name of the maps drawn over these videos.
        points: SVG or PNG of the embedded features; None to omit it.
        points_caption: Caption of that image.
        cost: Maps quantities, such as parameters, to figures.
        unreadable: Maps videos that couldn't be read to the reasons.
        validation: Sentence on how the evaluation differs from validation; empty to omit it.
    """

    title: str
    summary: str
    configuration: Mapping[str, str]
    results: Mapping[str, Any]
    curves: Mapping[str, Mapping[str, Curve]]
    label_names: Sequence[str]
    confusion: Int[ndarray, "classes classes"] | None
    best: Sequence[ShownVideo]
    worst: Sequence[ShownVideo]
    map_name: str
    points: bytes | None
    points_caption: str
    cost: Mapping[str, str]
    unreadable: Mapping[str, str]
    validation: str = ""


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

LOGARITHMIC = ("loss",)
MOST_UNREADABLE = 100
"""Maximum number of unreadable videos to list, since a data set may name a million missing files."""


def class_rows(confusion: Int[ndarray, "classes classes"], names: Sequence[str]) -> list[ClassRow]:
    """Return one row per class, in order."""
    rows = []
    for i, name in enumerate(names):
        wrong = np.where(np.arange(len(names)) == i, 0, confusion[i])
        most, videos = int(wrong.argmax()), int(confusion[i].sum())
        accuracy = float(confusion[i, i] / videos) if videos else None
        rows.append(ClassRow(name, videos, accuracy, names[most] if wrong[most] else "", int(wrong[most])))
    return rows


def render_report(report: Report) -> str:
    """Render the report as one self-contained HTML document.

    Raises `InputError` if Jinja2 or matplotlib is not installed.
    """
    try:
        import jinja2
    except ImportError as error:
        raise MissingPackageError("jinja2", "A report") from error

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=_without_controls
    )
    environment.filters.update(percent=_percent, interval=_interval, data_uri=_data_uri)
    template = importlib.resources.files("timesformer_jax.evaluation").joinpath("report.html").read_text()
    results, confusion = report.results, report.confusion
    by_clips = results.get("by_num_clips", {})
    first = results["average"]  # of the headline, and of the table's first column
    by_average = {first: results["by_average"][first], **results["by_average"]}
    return environment.from_string(template).render(
        report=report,
        unreadable=dict(itertools.islice(report.unreadable.items(), MOST_UNREADABLE)),
        results=results,
        metrics={name: shown for name, shown in TITLES.items() if name in results},
        averages=AVERAGE_TITLES,
        by_average=by_average,
        curves=_image(draw_curves(report.curves, logarithmic=LOGARITHMIC)) if report.curves else None,
        over_clips=_image(draw_accuracy_over_clips(by_clips)) if len(by_clips) > 1 else None,
        confusion=None if confusion is None else _image(draw_confusion(confusion, report.label_names)),
        classes=[] if confusion is None else class_rows(confusion, report.label_names),
        points=None if report.points is None else _data_uri(report.points),
        shown=(("Most confident, right", report.best), ("Most confident, wrong", report.worst)),
    )


def _without_controls(value: Any) -> Any:
    return printable(value) if type(value) is str else value  # not the template's own markup


def _percent(share: float | None, digits: int = 1) -> str:
    return "" if share is None else f"{100 * share:.{digits}f} %"


def _interval(ends: Sequence[float] | None, digits: int = 1) -> str:
    return "[n/a]" if ends is None else f"[{_percent(ends[0], digits)}, {_percent(ends[1], digits)}]"


KINDS = {b"GIF8": "image/gif", b"\x89PNG": "image/png", b"<svg": "image/svg+xml", b"<?xm": "image/svg+xml"}


def _data_uri(content: bytes) -> str:
    return f"data:{KINDS[content[:4]]};base64,{base64.b64encode(content).decode()}"


def _image(svg: str) -> str:
    return _data_uri(svg.encode())
