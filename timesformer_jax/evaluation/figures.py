"""Figures of the report, as SVG strings."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from timesformer_jax._typing import Int, ndarray
from timesformer_jax.extras import MissingPackageError
from timesformer_jax.printable import printable

Curve = tuple[Sequence[int], Sequence[float]]
"""Steps, and the value at each step."""

MOST_NAMES = 30
"""Maximum number of classes for which a confusion matrix shows class names and counts."""


def draw_curves(panels: Mapping[str, Mapping[str, Curve]], *, logarithmic: Sequence[str] = ()) -> str:
    """Draw one panel per title, three in a row, with one line per name: `{"loss": {"training": (steps, values)}}`.

    Panels named in `logarithmic` have a logarithmic y axis.
    """
    figure = new_figure(11, 2.6 * -(-len(panels) // 3))
    for axis, (title, curves) in zip(_axes(figure, len(panels)), panels.items(), strict=True):
        for name, (steps, values) in curves.items():
            axis.plot(steps, values, label=name, marker="." if len(steps) < 10 else None)
        axis.set(title=title, xlabel="step", yscale="log" if title in logarithmic else "linear")
        if len(curves) > 1:
            axis.legend(fontsize=8)
    return to_svg(figure)


def draw_confusion(matrix: Int[ndarray, "classes classes"], names: Sequence[str]) -> str:
    """Draw a confusion matrix, with true labels in rows and colours by share of the row; cells show counts if they fit."""
    with _literal_text():
        return _draw_confusion(matrix, [printable(name) for name in names])


def _draw_confusion(matrix: Int[ndarray, "classes classes"], names: Sequence[str]) -> str:
    count = len(names)
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    side = min(max(3.0, 0.42 * count + 1.5), 9.0)
    figure = new_figure(side + 0.8, side)
    axis = figure.subplots()
    image = axis.imshow(shares, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    figure.colorbar(image, ax=axis, label="share of the label's videos", shrink=0.8)
    axis.set(xlabel="predicted label", ylabel="true label")
    axis.grid(False)
    if count <= MOST_NAMES:
        axis.set_xticks(range(count), names, rotation=90, fontsize=8)
        axis.set_yticks(range(count), names, fontsize=8)
        for row, column in np.argwhere(matrix):
            colour = "white" if shares[row, column] > 0.5 else "black"
            axis.text(column, row, str(matrix[row, column]), ha="center", va="center", fontsize=7, color=colour)
    return to_svg(figure)


def draw_accuracy_over_clips(by_num_clips: Mapping[str, Mapping[str, float]]) -> str:
    """Draw top-1 accuracy over the number of clips per video (the paper's Figure 6)."""
    figure = new_figure(4.5, 2.8)
    axis = figure.subplots()
    clips = [int(count) for count in by_num_clips]
    axis.plot(clips, [100 * found["top1"] for found in by_num_clips.values()], "o-")
    axis.set(xlabel="clips per video", ylabel="top-1 in %", xticks=clips)
    return to_svg(figure)


def _literal_text() -> Any:
    """Return a context in which matplotlib doesn't parse dollar signs as formulas."""
    try:
        from matplotlib import rc_context
    except ImportError as error:
        raise MissingPackageError("matplotlib", "A report") from error
    return rc_context({"text.parse_math": False})


def new_figure(width: float, height: float) -> Any:
    """Create a figure of the given size in inches.

    Raises `InputError` if matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingPackageError("matplotlib", "A report") from error
    return Figure(figsize=(width, height), layout="constrained")


def _axes(figure: Any, count: int) -> list[Any]:
    rows = -(-count // 3)
    axes = list(figure.subplots(rows, 3, squeeze=False).flat)
    for axis in axes[count:]:
        axis.remove()
    for axis in axes[:count]:
        axis.grid(alpha=0.3)
    return axes[:count]


def to_svg(figure: Any) -> str:
    """Convert a figure to SVG, with text kept as text. The result is deterministic: no date, no random ids."""
    from matplotlib import rc_context

    file = io.StringIO()
    nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "timesformer_jax", "font.family": "sans-serif"}):
        figure.savefig(file, format="svg", metadata=nothing)
    text = file.getvalue()
    return text[text.index("<svg") :]
