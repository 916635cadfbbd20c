"""HTML page of a report, from the templates, styles and scripts in `page/`."""

import importlib.resources
import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from timesformer_jax.evaluation.confusion import ORDERS, confusion_data
from timesformer_jax.evaluation.figures import LineChart, Scatter, TimelineBar, line_chart, number_text, scatter, timeline_bars
from timesformer_jax.evaluation.pictures import CLIPS_BYTES, Clip, data_uri, encode_clips, thumbnail
from timesformer_jax.evaluation.report import (
    AVERAGE_TITLES,
    TITLES,
    Report,
    ShownVideo,
    best_and_worst,
    class_pictures,
    classes_of,
    confused_pairs,
)
from timesformer_jax.extras import needs
from timesformer_jax.palette import SERIES
from timesformer_jax.printable import printable

LOGARITHMIC = ("loss",)
"""Curves with a logarithmic axis."""
MOST_UNREADABLE = 100
"""Maximum number of unreadable videos to list, since a data set may name a million missing files."""
MOST_CELLS = 20
"""Maximum number of classes whose confusion matrix is a table with names and counts."""
MOST_CHANGES = 400
"""Maximum number of classes to list that differ between two runs."""
MOST_BYTES = 15 * 10**6
"""Size above which the clips, a page's largest part, are shrunk further."""

STYLES = ("base.css", "parts.css", "figures.css", "print.css")
SCRIPTS = ("tables.js", "players.js", "charts.js", "scatter.js", "confusion.js")

SECTIONS = {
    "overview": "Overview",
    "examples": "Examples",
    "classes": "Classes",
    "confusion": "Confusion",
    "comparison": "Comparison",
    "training": "Training",
    "features": "Features",
    "accuracy": "Accuracy",
    "cost": "Cost",
    "configuration": "Configuration",
}
"""Maps a template in `page/sections` to its title, in the order of the page."""


def render_report(report: Report) -> str:
    """Render the report as one self-contained HTML document, of less than 15 MB unless `report.points` are tens of thousands.

    Raises `InputError` if Jinja2 or Pillow is not installed.
    """
    with needs("jinja2", "A report"):
        import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_read),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_without_controls,
    )
    filters: dict[str, Any] = {"percent": _percent, "interval": _interval, "points": _points}
    filters |= {"point_interval": _point_interval, "data_uri": data_uri, "short": number_text, "enumerate": enumerate}
    environment.filters.update(filters)
    variables = {
        **_content(report),
        "styles": "\n".join([_palette(), *(_read(f"styles/{name}") for name in STYLES)]),
        "scripts": "\n".join(_read(f"scripts/{name}") for name in SCRIPTS),
    }
    template = environment.get_template("report.html")
    page = template.render(**variables, examples=_examples(report, CLIPS_BYTES))
    excess = len(page.encode()) - MOST_BYTES
    if excess > 0:  # everything else is unusually large
        page = template.render(**variables, examples=_examples(report, max(CLIPS_BYTES - excess, 1)))
    return page


def _palette() -> str:
    """The shared palette as variables of the page's styles, which make lighter and darker shades of them."""
    return ":root { " + " ".join(f"--palette-{i + 1}: {colour};" for i, colour in enumerate(SERIES)) + " }"


def _read(name: str) -> str:
    return importlib.resources.files("timesformer_jax.evaluation").joinpath("page", *name.split("/")).read_text("utf-8")


def _content(report: Report) -> dict[str, Any]:
    """Return the variables of the templates."""
    results, confusion, names = report.results, report.confusion, report.label_names
    classes = classes_of(report)
    ranked = best_and_worst(classes)
    pairs = [] if confusion is None else confused_pairs(confusion, names, report.rows)
    first = results["average"]  # of the headline, and of the table's first column
    curves = [
        chart
        for title, lines in report.curves.items()
        if (chart := line_chart(title, lines, logarithmic=title in LOGARITHMIC)) is not None
    ]
    over_clips = _over_clips(results.get("by_num_clips", {}))
    dots = None if report.points is None else scatter(report.points, names)
    is_small = len(names) <= MOST_CELLS
    comparison = report.comparison
    has = {
        "confusion": confusion is not None,
        "comparison": comparison is not None,
        "training": bool(curves),
        "features": dots is not None,
    }
    return {
        "report": report,
        "results": results,
        "sections": [(name, title) for name, title in SECTIONS.items() if has.get(name, True)],
        "metrics": {name: shown for name, shown in TITLES.items() if name in results},
        "averages": AVERAGE_TITLES,
        "by_average": {first: results["by_average"][first], **results["by_average"]},
        "unreadable": dict(itertools.islice(report.unreadable.items(), MOST_UNREADABLE)),
        "classes": classes,
        "totals": {row.label: row.videos for row in classes},
        "ranked": ranked,
        "class_pictures": class_pictures(ranked, report.rows),
        "pairs": pairs,
        "pictures": {name: data_uri(thumbnail(frame)) for name, frame in report.pictures.items()},
        "curves": curves,
        "over_clips": over_clips,
        "confusion": None if confusion is None else confusion.tolist(),
        "is_small": is_small,
        "orders": ORDERS,
        "comparison": comparison,
        "changes": [each for each in comparison.changes if each.difference][:MOST_CHANGES] if comparison else [],
        "scatter": dots,
        "data": script_json(
            {
                "charts": [_chart_data(chart) for chart in (*curves, *([over_clips] if over_clips else []))],
                "scatter": _scatter_data(dots, names),
                "confusion": None if confusion is None or is_small else confusion_data(confusion, names),
            }
        ),
    }


class Example(NamedTuple):
    """A video to show, its encoded clip, and the bars of its timeline, if it has one."""

    video: ShownVideo
    clip: Clip
    bars: list[TimelineBar] | None


def _examples(report: Report, most_bytes: int) -> list[Example]:
    bars = [each.timeline and timeline_bars(each.timeline, each.labels) for each in report.examples]
    return [Example(*each) for each in zip(report.examples, encode_clips(report.examples, most_bytes), bars, strict=True)]


def _over_clips(by_num_clips: Mapping[str, Mapping[str, float]]) -> LineChart | None:
    """Chart of top-1 over the number of clips per video (the paper's Figure 6); None for a single number."""
    if len(by_num_clips) < 2:
        return None
    curve = [int(count) for count in by_num_clips], [100 * found["top1"] for found in by_num_clips.values()]
    return line_chart("top-1 in %", {"top-1": curve}, axis="clip")


def _chart_data(chart: LineChart) -> dict[str, Any]:
    lines = [{"name": line.name, "steps": line.steps, "values": line.values, "x": line.x, "y": line.y} for line in chart.lines]
    return {"axis": chart.axis, "lines": lines}


def _scatter_data(dots: Scatter | None, names: Sequence[str]) -> dict[str, Any] | None:
    if dots is None:
        return None
    return {"names": list(names), "dots": [[dot.x, dot.y, dot.label, dot.name, int(dot.right)] for dot in dots.dots]}


def script_json(value: Any) -> str:
    """Encode as JSON for a <script> element, in which text can neither end the element nor start a comment."""
    text = json.dumps(_printable(value), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("&", r"\u0026").replace("<", r"\u003c").replace(">", r"\u003e")


def _printable(value: Any) -> Any:
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, Mapping):
        return {name: _printable(each) for name, each in value.items()}
    return [_printable(each) for each in value] if isinstance(value, Iterable) else value


def _without_controls(value: Any) -> Any:
    return printable(value) if type(value) is str else value  # not the template's own markup


def _percent(share: float | None, digits: int = 1) -> str:
    return "" if share is None else f"{100 * share:.{digits}f} %"


def _interval(ends: Sequence[float] | None, digits: int = 1) -> str:
    return "n/a" if ends is None else f"{100 * ends[0]:.{digits}f} to {100 * ends[1]:.{digits}f} %"


def _points(difference: float) -> str:
    """Format a difference of shares in percentage points, with its sign."""
    text = f"{100 * difference:+.1f}"
    return "±0.0" if text in ("+0.0", "-0.0") else text.replace("-", "\N{MINUS SIGN}")


def _point_interval(ends: Sequence[float]) -> str:
    return f"{_points(ends[0])} to {_points(ends[1])}"
