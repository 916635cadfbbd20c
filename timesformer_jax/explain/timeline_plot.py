"""Plot of a long video's labels over time: coloured bars of the best labels above curves of their probabilities."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from timesformer_jax._typing import Float, Int, ndarray
from timesformer_jax.palette import OTHER, SERIES, colour, ink_on
from timesformer_jax.plotting import encode_figure, new_figure
from timesformer_jax.printable import printable

FORMATS = ("png", "svg", "pdf")
"""Formats of `draw_timeline`."""
MOST_LABELS = len(SERIES)
"""Maximum number of labels with a colour."""
FEWEST_LABELS = 3
"""Number of labels to draw even if fewer are ever the best."""
INK, FAINT = "#222222", "#D9D9D9"


def labels_over_time(
    edges: Float[ndarray, "edges"], probabilities: Float[ndarray, "windows classes"]
) -> Int[ndarray, "labels"]:
    """Choose the labels to draw: those that are the best for the longest, then those with the highest probability.

    Args:
        edges: Bounds of the time that each window stands for, in seconds.
        probabilities: Probability of each class in each window.

    Returns:
        Indices of at most `MOST_LABELS` labels.
    """
    seconds = np.bincount(probabilities.argmax(axis=1), np.diff(edges), probabilities.shape[1])
    order = np.lexsort((-probabilities.max(axis=0), -seconds))
    return order[: min(max(int((seconds > 0).sum()), FEWEST_LABELS), MOST_LABELS)]


def draw_timeline(
    edges: Float[ndarray, "edges"],
    probabilities: Float[ndarray, "windows classes"],
    names: Sequence[str],
    *,
    title: str,
    note: str = "",
    format: str = "png",
    dpi: int = 150,
) -> bytes:
    """Draw the best labels of a video over time; the same values give the same bytes.

    Args:
        edges: Bounds of the time that each window stands for, in seconds (`WindowScores.edges`).
        probabilities: Probability of each class in each window.
        names: Name of each class.
        title: Title of the plot.
        note: Small text below it.
        format: One of `FORMATS`.
        dpi: Resolution of a PNG in dots per inch.

    Returns:
        The encoded image.

    Raises:
        InputError: If matplotlib is not installed.
    """
    chosen: list[int] = labels_over_time(edges, probabilities).tolist()
    colours = {label: colour(number) for number, label in enumerate(chosen)}
    shown = {label: _short(names[label], 32) for label in chosen}
    settings = {"font.size": 9, "text.color": INK, "xtick.color": INK, "ytick.color": INK}
    with new_figure(9, 3.6, **settings) as figure:
        bars, curves = figure.subplots(2, 1, sharex=True, height_ratios=(1, 6))
        _draw_bars(bars, edges, probabilities.argmax(axis=1), colours, shown)
        _draw_curves(curves, edges, probabilities, colours)
        bars.set_title(_short(title, 90), loc="left", fontsize=11, fontweight="bold", pad=8)
        handles = [_line(figure, colours[label]) for label in chosen]
        figure.legend(handles, list(shown.values()), loc="outside right upper", frameon=False, handlelength=1.4)
        if note:
            figure.supxlabel(note, x=0.01, ha="left", fontsize=7.5, color="#666666")
        return encode_figure(figure, format=format, dpi=dpi)


def _draw_bars(axis: Any, edges: np.ndarray, best: np.ndarray, colours: dict[int, str], shown: dict[int, str]) -> None:
    """Draw one bar per stretch with the same best label, with its name if that fits."""
    firsts = np.flatnonzero(np.diff(best, prepend=-1))
    starts, ends = edges[firsts], edges[[*firsts[1:], len(best)]]
    filled = [colours.get(label, OTHER) for label in best[firsts].tolist()]
    axis.barh(0, ends - starts, left=starts, height=1, color=filled, edgecolor="white", linewidth=0.8)
    per_letter = (edges[-1] - edges[0]) / 95  # seconds
    for label, start, end, fill in zip(best[firsts].tolist(), starts, ends, filled, strict=True):
        name = shown.get(label, "other")
        if len(name) * per_letter < end - start:
            axis.text((start + end) / 2, 0, name, ha="center", va="center", fontsize=8, color=ink_on(fill), clip_on=True)
    axis.set_ylim(-0.5, 0.5)
    axis.set_yticks([])
    axis.tick_params(bottom=False, labelbottom=False)
    axis.spines[:].set_visible(False)


def _draw_curves(axis: Any, edges: np.ndarray, probabilities: np.ndarray, colours: dict[int, str]) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

    middles = (edges[:-1] + edges[1:]) / 2
    seconds = np.concatenate([edges[:1], middles, edges[-1:]])
    for number, (label, line) in reversed(list(enumerate(colours.items()))):
        values = np.pad(probabilities[:, label], 1, mode="edge")
        axis.plot(
            seconds, values, color=line, linewidth=2, solid_capstyle="butt", solid_joinstyle="round", zorder=3 - number / 9
        )
        axis.fill_between(seconds, values, color=line, alpha=0.1, linewidth=0)
    axis.set_xlim(edges[0], edges[-1])
    axis.set_ylim(0, 1.02)
    axis.yaxis.set_major_formatter(PercentFormatter(1))
    axis.set_yticks([0, 0.25, 0.5, 0.75, 1])
    axis.xaxis.set_major_locator(MaxNLocator(9, steps=[1, 1.5, 2, 3, 6, 10] if edges[-1] > 90 else [1, 2, 2.5, 5, 10]))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda second, _: _clock(second, edges[-1])))
    axis.grid(axis="y", color=FAINT, linewidth=0.7)
    axis.set_axisbelow(True)
    axis.tick_params(length=0, pad=5)
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.spines["bottom"].set_color("#888888")


def _clock(second: float, longest: float) -> str:
    """Format a time as "12 s", "1:05" or "2:01:05"."""
    if longest <= 90:
        return f"{second:g} s"
    minutes, rest = divmod(round(second), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if longest >= 3600 else f"{minutes}:{rest:02}"


def _line(figure: Any, fill: str) -> Any:
    from matplotlib.lines import Line2D

    return Line2D([], [], color=fill, linewidth=4, solid_capstyle="butt", figure=figure)


def _short(text: str, most: int) -> str:
    text = printable(text)
    return text if len(text) <= most else f"{text[: most - 1]}…"
