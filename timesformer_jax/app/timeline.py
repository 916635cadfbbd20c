"""Labels over time as HTML: bars of the best labels above curves of their probabilities."""

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from timesformer_jax.app.escape import percent, text
from timesformer_jax.explain.timeline_plot import labels_over_time
from timesformer_jax.palette import OTHER, SERIES, ink_on
from timesformer_jax.pretrained import WindowScores

LEAST_NAMED = 0.12
"""Fraction of the video from which on a bar has room for its label's name."""
HEIGHT = 100
"""Height of the curves in units of the drawing; the width is 1000."""


def colours(columns: Sequence[tuple[WindowScores, Sequence[str]]]) -> list[dict[str, str]]:
    """Return the colours of the labels that each of several timelines shows. A label has the same one in all of them.

    Args:
        columns: The scores of each timeline, and the names of its model's classes.
    """
    shown = [
        dict.fromkeys(str(labels[number]) for number in labels_over_time(scores.edges, scores.probabilities))
        for scores, labels in columns
    ]
    counts = Counter(itertools.chain.from_iterable(shown))
    shared = dict(zip((name for name, count in counts.items() if count > 1), SERIES, strict=False))
    found = []
    for names in shown:
        free = (colour for colour in SERIES if colour not in shared.values())
        own = dict(zip((name for name in names if name not in shared), free, strict=False))
        found.append({name: {**shared, **own}[name] for name in names if name in shared or name in own})
    return found


def draw(
    scores: WindowScores, labels: Sequence[str], colours: Mapping[str, str], *, clip: tuple[float, float], window: float
) -> str:
    """Return the timeline of a video.

    Args:
        scores: Probabilities of the video's windows.
        labels: Names of all classes.
        colours: Maps labels to their colours; all others are grey.
        clip: Seconds at which the clip that the model looks at begins and ends, which is marked.
        window: Seconds that a clip around another moment covers.
    """
    edges = scores.edges
    shown = {labels.index(name): name for name in colours if name in labels}
    legend = "".join(f'<li><span style="background:{colours[name]}"></span>{text(name)}</li>' for name in shown.values())
    start, end = (float(np.interp(second, edges[[0, -1]], [0, 100])) for second in clip)
    about = f"The model looks at {_clock(clip[0])} to {_clock(clip[1])}"
    return (
        f'<div class="moments" data-begin="{edges[0]:.3f}" data-end="{edges[-1]:.3f}" data-window="{window:.3f}">'
        f'<div class="bars">{_bars(scores, labels, colours)}</div><div class="clip" role="img" aria-label="{about}" '
        f'title="{about}"><span style="left:{start:.3f}%;width:{end - start:.3f}%"></span></div>'
        f'<svg viewBox="0 0 1000 {HEIGHT}" preserveAspectRatio="none" role="img" aria-label="Probabilities over time">'
        f"{_curves(scores, shown, colours)}</svg></div>"
        f'<div class="axis" aria-hidden="true"><span>0 s</span><span>{_clock((edges[0] + edges[-1]) / 2)}</span>'
        f'<span>{_clock(edges[-1])}</span></div><ul class="legend">{legend}</ul>'
    )


def _bars(scores: WindowScores, labels: Sequence[str], colours: Mapping[str, str]) -> str:
    """Draw a bar per stretch of time with the same best label."""
    begin, whole = scores.edges[0], scores.edges[-1] - scores.edges[0]
    bars = []
    for start, end, label, probability in scores.stretches():
        share, fill, name = (end - start) / whole, colours.get(labels[label], OTHER), text(labels[label])
        about = f"{name}, {_clock(start)} to {_clock(end)}, {percent(probability)}"
        shown = name if share > LEAST_NAMED else ""
        bars.append(
            f'<span role="img" aria-label="{about}" title="{about}" style="left:{100 * (start - begin) / whole:.3f}%;'
            f'width:{100 * share:.3f}%;background:{fill};color:{ink_on(fill)}">{shown}</span>'
        )
    return "".join(bars)


def _curves(scores: WindowScores, shown: Mapping[int, str], colours: Mapping[str, str]) -> str:
    """Draw a curve per label that has a colour; the most important ones come last, on top."""
    edges = scores.edges
    middles = np.concatenate([edges[:1], (edges[:-1] + edges[1:]) / 2, edges[-1:]])
    across = 1000 * (middles - edges[0]) / (edges[-1] - edges[0])
    lines = "".join(f'<path class="grid" d="M0 {HEIGHT * share}H1000"/>' for share in (0.0, 0.5, 1.0))
    for number, name in reversed(list(shown.items())):
        down = HEIGHT * (1 - np.pad(scores.probabilities[:, number], 1, mode="edge"))
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(across, down, strict=True))
        lines += f'<polyline points="{points}" stroke="{colours[name]}"/>'
    return lines


def _clock(seconds: float) -> str:
    """Format a time as "12.5 s" or "1:05"."""
    if seconds < 90:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02}"
