"""HTML of the page's results. All text from labels, files and checkpoints is escaped."""

import base64
from collections.abc import Iterable, Mapping, Sequence

from timesformer_jax.app import timeline
from timesformer_jax.app.analysis import Column, Step
from timesformer_jax.app.checkpoint import METHODS, Checkpoint
from timesformer_jax.app.escape import percent, text

MOST_ACROSS = 8
"""Maximum number of frames in a row."""


def progress(step: Step | None) -> str:
    """Return the progress bar; empty if nothing is being done."""
    if step is None:
        return ""
    done = round(100 * step.done)
    return (
        f'<div class="working"><p>{text(step.text)} …</p>'
        f'<progress max="100" value="{done}" aria-label="{text(step.text)}">{done} %</progress></div>'
    )


def problem(message: str) -> str:
    """Return a message about what went wrong."""
    return f'<p class="problem" role="alert">{text(message)}</p>'


def welcome(checkpoints: Iterable[Checkpoint]) -> str:
    """Return what is shown before a video is chosen: the models that will look at it."""
    models = "".join(f"<li><strong>{text(one.name)}</strong><span>{text(one.about)}</span></li>" for one in checkpoints)
    return (
        '<section class="welcome"><h2>What does the model see?</h2><p>Choose a video. You get the best labels, the frames that '
        f"the model saw, and where in them it looked.</p><ul>{models}</ul></section>"
    )


def results(columns: Sequence[Column], *, busy: bool) -> str:
    """Return the results of all checkpoints, side by side; `busy` while some are still missing."""
    followed = [(column.scores, column.checkpoint.labels) for column in columns if column.scores is not None]
    colours = iter(timeline.colours(followed))
    shown = "".join(_column(column, {} if column.scores is None else next(colours)) for column in columns)
    kind = "columns ready" if all(column.best for column in columns) else "columns"
    return f'{SPEEDS}<div class="{kind}" aria-busy="{str(busy).lower()}">{shown}</div><p class="footnote">{FOOTNOTE}</p>'


FOOTNOTE = (
    "Each model received one clip of the video, cropped at the centre. A map of a video that a model was trained on says "
    "little about how it sees others."
)


SPEEDS = (
    '<fieldset class="speed"><legend>Speed</legend>'
    '<label><input type="radio" name="speed" value="0.25">¼&times;</label>'
    '<label><input type="radio" name="speed" value="0.5">½&times;</label>'
    '<label><input type="radio" name="speed" value="1" checked>1&times;</label></fieldset>'
)
"""Choice of the speed at which the videos play; the browser alone handles it."""


def _column(column: Column, colours: Mapping[str, str]) -> str:
    title = f'<header><h2>{text(column.checkpoint.name)}</h2><p class="about">{text(column.checkpoint.about)}</p></header>'
    parts = [title, _labels(column), _drawn(column), _frames(column), _timeline(column, colours)]
    return f'<article class="model" aria-label="{text(column.checkpoint.name)}">{"".join(parts)}</article>'


def _labels(column: Column) -> str:
    explained = column.explained.label if column.explained else None
    shown = list(column.best)
    if column.explained and explained not in [label for label, _ in shown]:
        shown.append(column.explained)
    rows = "".join(
        f'<li class="{"explained" if label == explained else "other"}"><span class="label">{text(label)}</span>'
        f'<span class="share">{percent(share)}</span>'
        f'<span class="bar" style="--share:{share:.4f}" aria-hidden="true"></span></li>'
        for label, share in shown
    )
    return f'<ol class="labels" aria-label="Best labels">{rows}</ol>'


def _drawn(column: Column) -> str:
    if column.note:
        return f'<p class="note">{text(column.note)}</p>'
    if column.drawn is None:
        return '<div class="drawn waiting" aria-hidden="true"></div>'
    what = METHODS[column.method].lower() if column.explained is None else f"what supports “{column.explained.label}”"
    return (
        f'<figure class="drawn"><video src="{column.drawn}" controls loop muted playsinline autoplay '
        f'aria-label="The video with {text(what)}"></video><figcaption>Bright: {text(what)}. Grey: not received by the model.'
        "</figcaption></figure>"
    )


def _frames(column: Column) -> str:
    if not column.frames:
        return "<div></div>"
    count = len(column.frames)
    which = f"{count} of {column.num_frames} frames" if count < column.num_frames else f"{count} frames"
    pictures = "".join(
        f'<img src="{address}" alt="Frame {number + 1} of {count}" loading="lazy">'
        for number, address in enumerate(column.frames)
    )
    return (
        f'<section class="frames"><h3>The {which} that it saw, from {column.seconds:.1f} s on</h3>'
        f'<div class="strip" style="--across:{min(count, MOST_ACROSS)}">{pictures}</div></section>'
    )


def example_buttons(thumbnails: Mapping[str, bytes]) -> str:
    """Return a button per example, with its picture (a PNG)."""
    return "".join(
        f'<button type="button" data-number="{number}" aria-pressed="false">'
        f'<img src="data:image/png;base64,{base64.b64encode(picture).decode()}" alt=""><span>{text(title)}</span></button>'
        for number, (title, picture) in enumerate(thumbnails.items())
    )


def _timeline(column: Column, colours: Mapping[str, str]) -> str:
    if column.scores is None or column.moments is None:
        return "<div></div>"
    clip, window = (column.seconds, column.until), column.moments.window
    drawn = timeline.draw(column.scores, column.checkpoint.labels, colours, clip=clip, window=window)
    return (
        f'<section class="timeline"><h3>The best label over time</h3>{drawn}<p class="hint">The line marks the clip '
        "above. Click another moment to explain the clip around it.</p></section>"
    )
