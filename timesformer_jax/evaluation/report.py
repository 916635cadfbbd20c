"""One page about a run: what it was, how it went, how good it is, where it errs, and what it looks at."""

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
    """A video of the test with what the model says, and a GIF of what it looks at."""

    name: str
    labels: Sequence[str]
    best: Sequence[tuple[str, float]]
    """Labels and scores, best first."""
    animation: bytes

    @property
    def right(self) -> bool:
        return self.best[0][0] in self.labels


class ClassRow(NamedTuple):
    """How well one class is told."""

    label: str
    videos: int
    accuracy: float | None
    """None where the test has none of its videos."""
    taken_for: str
    """The other label that the model gives to its videos most often; empty where it never does."""
    taken_for_videos: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """What a report is made of.

    `title` and `summary`, a sentence; `validation`, another one, on how the test differs from validation, or empty.
    `configuration`: field -> value. `results`: those of `results.json`. `curves`: panel ->
    line -> steps and values. `label_names` and `confusion`: counts, true labels in rows; None where videos have several
    labels. `best`, `worst`: videos that the model is surest of, rightly and wrongly. `map_name`: what the maps over them are.
    `points`: an SVG or PNG of the embedded features, and its caption. `cost`: quantity -> figure. `unreadable`: video -> why.
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
    "mean_class_accuracy": ("Mean accuracy of the classes", True),
    "map": ("Mean average precision", True),
    "calibration_error": ("Expected calibration error", False),
}
"""Figure of `results.json` -> its name, and whether more is better; in the table's order."""

AVERAGE_TITLES = {
    "probabilities": "mean of the views' probabilities (the paper)",
    "logits": "mean of the views' logits (the official code)",
}
"""Average -> its title in the report."""

LOGARITHMIC = ("loss",)
MOST_UNREADABLE = 100
"""Videos that can't be read of which so many are named: a list may have a million that aren't there."""


def class_rows(confusion: Int[ndarray, "classes classes"], names: Sequence[str]) -> list[ClassRow]:
    """One row for each class, in their order."""
    rows = []
    for i, name in enumerate(names):
        wrong = np.where(np.arange(len(names)) == i, 0, confusion[i])
        most, videos = int(wrong.argmax()), int(confusion[i].sum())
        accuracy = float(confusion[i, i] / videos) if videos else None
        rows.append(ClassRow(name, videos, accuracy, names[most] if wrong[most] else "", int(wrong[most])))
    return rows


def render_report(report: Report) -> str:
    """The page: one HTML document that asks for nothing else, with its figures and animations inside.

    Raises `InputError` where Jinja2 or matplotlib isn't installed.
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
        shown=(("Surest and right", report.best), ("Surest and wrong", report.worst)),
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
