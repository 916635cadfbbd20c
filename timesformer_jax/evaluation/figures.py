"""Figures of the report, as the coordinates of SVG drawings; the page's templates draw them and its styles colour them."""

import itertools
import math
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from timesformer_jax._typing import Bool, Float, Int, ndarray
from timesformer_jax.palette import SERIES

Curve = tuple[Sequence[int], Sequence[float]]
"""Steps, and the value at each step."""

WIDTH, HEIGHT = 380, 230
"""Size of a line chart in pixels."""
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 10, 26
"""Margins of a line chart's plot."""
MOST_POINTS = 400
"""Number of points above which a line is thinned, two points per pixel or so."""
MOST_DOTS = 12
"""Number of points up to which a line's points are marked."""
MOST_TICKS = 7
"""Maximum number of ticks of a logarithmic axis."""
COLOURS = tuple(f"series-{i + 1}" for i in range(len(SERIES)))
"""Classes of the page's styles with a colour that colour-blind people can tell apart."""

Tick = tuple[float, str]
"""Position, as a value or in pixels, and label."""


class Line(NamedTuple):
    """One line of a chart; points with values that are not finite, or not positive on a logarithmic axis, are missing.

    Attributes:
        name: Name of the line.
        path: SVG path.
        steps: Steps of the drawn points.
        values: Their values.
        x: Their horizontal positions in pixels.
        y: Their vertical positions in pixels.
    """

    name: str
    path: str
    steps: list[int]
    values: list[float]
    x: list[float]
    y: list[float]


class LineChart(NamedTuple):
    """Lines over steps.

    Attributes:
        title: Title of the chart.
        axis: Name of the horizontal axis.
        lines: Its lines.
        x_ticks: Ticks of the horizontal axis.
        y_ticks: Ticks of the vertical axis.
        dots: Whether to mark each point.
    """

    title: str
    axis: str
    lines: list[Line]
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    dots: bool


def line_chart(title: str, curves: Mapping[str, Curve], *, axis: str = "step", logarithmic: bool = False) -> LineChart | None:
    """Lay out a line chart; None if no curve has a value that can be drawn."""
    kept = {name: _thinned(*_drawable(curve, logarithmic)) for name, curve in curves.items()}
    kept = {name: curve for name, curve in kept.items() if len(curve[0])}
    if not kept:
        return None
    scale = np.log10 if logarithmic else np.asarray
    steps = np.concatenate([curve[0] for curve in kept.values()])
    values = scale(np.concatenate([curve[1] for curve in kept.values()]))
    horizontal = linear_ticks(float(steps.min()), float(steps.max()), count=5, whole=True)
    vertical = (log_ticks if logarithmic else linear_ticks)(float(values.min()), float(values.max()))
    across = float(steps.min()), max(float(steps.max()), float(steps.min()) + 1), LEFT, WIDTH - RIGHT
    down = vertical.low, vertical.high, HEIGHT - BOTTOM, TOP
    lines = []
    for name, (at, found) in kept.items():
        x, y = _placed(at, *across).tolist(), _placed(scale(found), *down).tolist()
        path = "M" + "L".join(f"{a:g},{b:g}" for a, b in zip(x, y, strict=True))
        lines.append(Line(name, path, at.tolist(), [float(f"{value:.4g}") for value in found], x, y))
    x_ticks = _tick_places([tick for tick in horizontal.ticks if across[0] <= tick[0] <= across[1]], *across)
    y_ticks = _tick_places(vertical.ticks, *down)
    return LineChart(title, axis, lines, x_ticks, y_ticks, max(len(line.x) for line in lines) <= MOST_DOTS)


def _placed(values: np.ndarray, low: float, high: float, begin: float, end: float) -> np.ndarray:
    """Map values from `low` to `high` to pixels from `begin` to `end`."""
    return (begin + (end - begin) * (values - low) / (high - low)).round(1)


def _tick_places(ticks: Sequence[Tick], *ends: float) -> list[Tick]:
    places = _placed(np.array([value for value, _ in ticks]), *ends).tolist()
    return [(place, text) for place, (_, text) in zip(places, ticks, strict=True)]


def _drawable(curve: Curve, logarithmic: bool) -> tuple[np.ndarray, np.ndarray]:
    steps, values = np.asarray(curve[0], np.int64), np.asarray(curve[1], float)
    there = np.isfinite(values) & ((values > 0) | (not logarithmic))
    return steps[there], values[there]


def _thinned(steps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Keep the lowest and the highest value of each of `MOST_POINTS` / 2 groups, and both ends."""
    if len(steps) <= MOST_POINTS:
        return steps, values
    chosen = {0, len(steps) - 1}
    for group in np.array_split(np.arange(len(steps)), MOST_POINTS // 2):
        chosen |= {int(group[values[group].argmin()]), int(group[values[group].argmax()])}
    order = sorted(chosen)
    return steps[order], values[order]


class Axis(NamedTuple):
    """Ends of an axis, and its ticks as values and labels."""

    low: float
    high: float
    ticks: list[Tick]


def linear_ticks(low: float, high: float, count: int = 4, *, whole: bool = False) -> Axis:
    """Choose about `count` round ticks of an axis that holds the values from `low` to `high`."""
    if high <= low:
        low, high = (low, low + 1) if whole else (low - (abs(low) / 2 or 0.5), low + (abs(low) / 2 or 0.5))
    rough = (high - low) / count
    size = 10.0 ** math.floor(math.log10(rough))
    step = size * next(factor for factor in ((1, 2, 5, 10) if whole else (1, 2, 2.5, 5, 10)) if size * factor >= rough * 0.999)
    step = max(step, 1.0) if whole else step
    ticks = [n * step for n in range(math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9) + 1)]
    return Axis(ticks[0], ticks[-1], [(tick, number_text(tick)) for tick in ticks])


def log_ticks(low: float, high: float) -> Axis:
    """Choose ticks of a logarithmic axis; all values and positions are logarithms to base 10."""
    factors = next((each for each in ((1,), (1, 3)) if (high - low) * len(each) > 2.5), (1, 2, 5))
    powers = range(math.floor(low) - 1, math.ceil(high) + 2)
    ticks = [power + math.log10(factor) for power in powers for factor in factors]
    begin = max(tick for tick in ticks if tick <= low + 1e-9)
    end = min(tick for tick in ticks if tick >= high - 1e-9 and tick > begin)
    there = [tick for tick in ticks if begin <= tick <= end]
    return Axis(begin, end, [(tick, number_text(10**tick)) for tick in there[:: -(-len(there) // MOST_TICKS)]])


def number_text(value: float) -> str:
    """Format a number with three digits, or all digits of its integer part: 0.0512, 12,345, 2.5e-7."""
    value = float(f"{value:.3g}")
    if value and not 1e-3 <= abs(value) < 1e6:
        digits, _, power = f"{value:.2e}".partition("e")
        return f"{float(digits):g}e{int(power)}"
    return f"{value:,.0f}" if value == int(value) else f"{value:g}"


class Points(NamedTuple):
    """Videos' features in the plane.

    Attributes:
        points: Points `[N, 2]`.
        names: Names of the videos.
        labels: Index of each video's class `[N]`.
        right: Whether each video is predicted correctly `[N]`.
    """

    points: Float[ndarray, "N 2"]
    names: Sequence[str]
    labels: Int[ndarray, "N"]
    right: Bool[ndarray, "N"]


class Dot(NamedTuple):
    """A point of a scatter plot: its position in pixels, colour, class, name, and whether it is right."""

    x: float
    y: float
    colour: str
    label: int
    name: str
    right: bool


class Scatter(NamedTuple):
    """Scatter plot of `SCATTER` pixels."""

    dots: list[Dot]
    """Dots, wrong predictions last, so that these lie on top."""
    legend: list[tuple[str, str]]
    """Colours and their meanings: the classes if there are colours enough, else right and wrong."""


SCATTER = (720, 480)
"""Size of the scatter plot in pixels."""


def scatter(points: Points, label_names: Sequence[str]) -> Scatter:
    """Lay out a scatter plot, coloured by class if there are `COLOURS` enough, and by right and wrong otherwise."""
    values = np.asarray(points.points, float)
    low, span = values.min(axis=0), np.ptp(values, axis=0)
    pixels = 14 + (values - low) / np.where(span > 0, span, 1) * (np.array(SCATTER) - 28)
    by_class = len(label_names) <= len(COLOURS)
    dots = []
    for i in np.argsort(~points.right, kind="stable").tolist():
        label, right = int(points.labels[i]), bool(points.right[i])
        colour = COLOURS[label] if by_class else "right" if right else "wrong"
        x, y = pixels[i].round(1).tolist()
        dots.append(Dot(x, y, colour, label, str(points.names[i]), right))
    legend = list(zip(COLOURS, label_names, strict=False)) if by_class else [("right", "correct"), ("wrong", "wrong")]
    return Scatter(dots, legend)


class Timeline(NamedTuple):
    """Scores of a video's windows.

    Attributes:
        starts: Begin of each window in seconds `[windows]`.
        seconds: Duration of the video.
        labels: Best labels of the whole video.
        scores: Their scores `[windows, labels]`, from 0 to 1.
    """

    starts: Sequence[float]
    seconds: float
    labels: Sequence[str]
    scores: Float[ndarray, "windows labels"]


class Segment(NamedTuple):
    """A window of a timeline: its begin and width in pixels, its score, and when it is."""

    x: float
    width: float
    score: float
    when: str


class TimelineBar(NamedTuple):
    """A label's row of a timeline."""

    label: str
    colour: str
    segments: list[Segment]
    """Its windows."""
    path: str
    """SVG path of the label's curve."""


TIMELINE = (600, 86)
"""Size of a timeline's plot in pixels."""


def timeline_bars(timeline: Timeline, true: Collection[str]) -> list[TimelineBar]:
    """Lay out a timeline: a row per label, with a segment per window whose opacity is the score, and a curve.

    As everywhere on the page, true labels have the colour of right predictions.
    """
    width, height = TIMELINE
    edges = [*timeline.starts, timeline.seconds]
    scale = width / max(timeline.seconds, 1e-9)
    bars, others = [], itertools.chain(["wrong"], itertools.cycle(COLOURS[2:4]))
    for number, label in enumerate(timeline.labels):
        scores = [float(score) for score in timeline.scores[:, number]]
        segments = [
            Segment(
                round(begin * scale, 1), round(max(end - begin, 0) * scale, 1), round(score, 3), f"{begin:.1f} to {end:.1f} s"
            )
            for begin, end, score in zip(edges[:-1], edges[1:], scores, strict=True)
        ]
        path = "M0," + "V".join(f"{height * (1 - score):.1f}H{x + w:.1f}" for x, w, score, _ in segments)
        bars.append(TimelineBar(label, "right" if label in true else next(others), segments, path))
    return bars
