"""Explain a prediction: draw the parts of a video that matter for its best label, or for any other.

timesformer explain clip.mp4 --checkpoint=timesformer-base-k400 --output=clip.gif
timesformer explain clip.mp4 --checkpoint=runs/mine --label=running --label=walking --output=clip.png
timesformer explain clip.mp4 --checkpoint=runs/mine --method=rollout --output=clip.mp4
timesformer explain long.mp4 --checkpoint=runs/mine --start=62.5 --output=long.mp4
"""

import argparse
import functools
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from timesformer_jax.atomic_write import write_whole
from timesformer_jax.cnn3d import ConvNet
from timesformer_jax.devices import print_devices
from timesformer_jax.errors import InputError, did_you_mean
from timesformer_jax.explain import MappedClip, attention_rollout, class_relevance, grad_cam
from timesformer_jax.explain.caption import MapPanel
from timesformer_jax.explain.drawing import STRENGTH, WRITERS, Panel, overlay, png_bytes
from timesformer_jax.explain.encoders import Gif
from timesformer_jax.explain.film import check_output, draw_panels
from timesformer_jax.explain.video_sheet import SHEET_SIDE, draw_sheet
from timesformer_jax.jobs.convert import add_load_arguments, load_options
from timesformer_jax.jobs.videos import (
    CHECKPOINT,
    add_limit_arguments,
    check_at_least_1,
    check_classifier,
    limits_of,
    place_clips,
    progress_percent,
)
from timesformer_jax.os_errors import sentence
from timesformer_jax.pretrained import Pretrained, load
from timesformer_jax.printable import printable
from timesformer_jax.video import PLACEMENT_NAMES, Clip, clip_at

METHODS = ("relevance", "rollout")
MOST_DRAWN = 32
"""Maximum number of clips to draw, and therefore to hold in memory."""
SURFACES = ("video", "input")
"""Values of `--draw-on`: the original video, or the cropped and scaled frames that the model receives."""
INPUT_FPS = 4.0
"""Usual frames per second of an animation of the model's input."""
MEANINGS = {
    "rollout": "The brighter a patch, the more of it reaches the class token through attention, whatever the label.",
    "relevance": "The brighter a patch, the more it raises the label's score through attention.",
    "grad_cam": "The brighter a place, the more it raises the label's score (Grad-CAM).",
}
FILM = (
    "The model received {count} frames per clip; in between, maps are interpolated. Dimmed parts and moments were not received."
)
SHEET = "These are frames that the model received; dimmed parts were not received."
WARNING = "The map of a training video that the model has memorised means nothing."
"""Captions of drawings on the original video, after one of `MEANINGS`."""


def add_arguments(job: argparse.ArgumentParser) -> None:
    """Add the job's arguments."""
    job.add_argument("video", metavar="VIDEO", help="video file")
    job.add_argument("--checkpoint", required=True, metavar="PATH", help=CHECKPOINT)
    job.add_argument(
        "--output",
        required=True,
        metavar="FILE",
        help="file to write: .mp4 (with the video's sound), .gif, .png (a sheet of at most 8 frames)",
    )
    job.add_argument(
        "--method",
        choices=METHODS,
        default="relevance",
        help="relevance of the patches for a label, or the paper's attention rollout",
    )
    job.add_argument(
        "--label",
        action="append",
        default=[],
        help="name or number of a label to explain; may be repeated (default: the best label)",
    )
    job.add_argument("--num-clips", type=int, default=1, help="number of clips spread over the video")
    job.add_argument(
        "--start", type=float, metavar="SECONDS", help="explain the clip that begins here (default: as in the evaluation)"
    )
    job.add_argument(
        "--num-crops", type=int, default=1, choices=(1, 3), help="crops per clip: 3 along the long side, or 1 in the centre"
    )
    job.add_argument(
        "--placement", choices=PLACEMENT_NAMES, help="where the clips start (default: as in the checkpoint's evaluation)"
    )
    job.add_argument(
        "--draw-on",
        choices=SURFACES,
        default="video",
        help="draw on the original video, or on the cropped and scaled frames that the model receives",
    )
    job.add_argument("--strength", type=float, default=STRENGTH, help="opacity of the brightest colour, from 0 to 1")
    job.add_argument(
        "--max-side",
        type=int,
        help=f"maximum width and height of a panel (default: the video's own; .gif {Gif.max_side}; .png {SHEET_SIDE})",
    )
    job.add_argument(
        "--fps",
        type=float,
        help=f"maximum frames per second (default: the video's own; .gif {Gif.max_fps:g}; with --draw-on=input {INPUT_FPS:g})",
    )
    job.add_argument("--top-k", type=int, default=5, help="number of labels to print")
    add_limit_arguments(job)
    add_load_arguments(job)


def run(arguments: argparse.Namespace) -> int:
    """Print the best labels of the video, and draw at most `MOST_DRAWN` of its clips."""
    output = Path(arguments.output)
    _check(arguments, output)
    views = {"num_crops": arguments.num_crops, "limits": limits_of(arguments)}
    print_devices()
    pretrained = place_clips(load(arguments.checkpoint, headless=True, **load_options(arguments)), arguments.placement)
    if arguments.method == "relevance":
        check_classifier(pretrained, arguments.checkpoint, "to explain a label of; --method=rollout needs none")
    labels = [_number(label, pretrained) for label in arguments.label]
    for note in pretrained.report.notes if pretrained.report else []:
        print(f"Note: {printable(note)}.", file=sys.stderr)
    drawn: list[Clip] = []
    if arguments.start is None:
        clips = pretrained.preprocess.clips(arguments.video, num_clips=arguments.num_clips, **views)
    else:
        clips = [clip_at(pretrained.preprocess, arguments.video, arguments.start, **views)]
    scores, num_views = pretrained.clip_scores(_keep(clips, drawn))
    num_clips = num_views // arguments.num_crops
    if len(drawn) < num_clips:
        print(
            f"Note: {len(drawn)} of {num_clips} clips are drawn, evenly spread; the scores are the mean of all.",
            file=sys.stderr,
        )
    best = pretrained.best(scores, arguments.top_k)
    print(printable(arguments.video) + "".join(f"\n  {p:7.2%}  {printable(label)}" for label, p in best))
    explained = explain(pretrained, drawn, scores, labels, method=arguments.method)
    try:
        draw = _draw_on_video if arguments.draw_on == "video" else _draw_on_input
        facts = draw(arguments, output, pretrained, drawn, explained)
    except OSError as error:
        raise InputError(sentence(error, f"Can't write {output}")) from error
    print(f"Written: {printable(output)}{facts}")
    return 0


def _keep(clips: Iterable[Clip], kept: list[Clip]) -> Iterator[Clip]:
    """Yield the clips, and collect at most `MOST_DRAWN` of them, evenly spread, in `kept`."""
    for clip in clips:
        if not clip.number:
            kept.clear()
        wanted = min(clip.num_clips, MOST_DRAWN)
        if clip.number == len(kept) * clip.num_clips // wanted:
            kept.append(clip)
        yield clip


class Explained(NamedTuple):
    """Maps of all drawn views.

    Attributes:
        title: What the maps are of, with the label's probability.
        meaning: Key of `MEANINGS`.
        maps: Maps `[T, h, w]` of each crop of each clip, in order.
    """

    title: str
    meaning: str
    maps: list[np.ndarray]


def explain(
    pretrained: Pretrained, clips: Sequence[Clip], scores: np.ndarray, labels: Sequence[int], *, method: str
) -> list[Explained]:
    """Return the maps of the clips' views: for each label, or once for rollout.

    Args:
        pretrained: The model.
        clips: The clips to explain.
        scores: Probabilities of the video.
        labels: Classes to explain; the best one by default.
        method: An element of `METHODS`.
    """
    model, params = pretrained.model, pretrained.variables["params"]

    def maps_of(compute: Callable[[jax.Array], jax.Array]) -> list[np.ndarray]:
        return [np.asarray(compute(jnp.asarray(view[None]))[0]) for clip in clips for view in clip.views]

    if method == "rollout":
        return [Explained("attention rollout", method, maps_of(lambda clip: attention_rollout(model, params, clip)))]
    meaning = "grad_cam" if isinstance(model, ConvNet) else method
    return [
        Explained(
            f"{pretrained.label(label)} {scores[label]:.1%}",
            meaning,
            maps_of(functools.partial(_relevance, pretrained, label)),
        )
        for label in labels or [int(scores.argmax())]
    ]


def _draw_on_video(
    arguments: argparse.Namespace,
    output: Path,
    pretrained: Pretrained,
    clips: Sequence[Clip],
    explained: Sequence[Explained],
) -> str:
    """Draw on the original video, and return what is worth saying about the file."""
    places = [(clip.times, box) for clip in clips for box in clip.boxes]
    panels = [
        MapPanel(each.title, [MappedClip(times, maps, box) for (times, box), maps in zip(places, each.maps, strict=True)])
        for each in explained
    ]
    is_sheet = output.suffix.lower() == ".png"
    drawing = SHEET if is_sheet else FILM.format(count=pretrained.preprocess.num_frames)
    caption = f"{MEANINGS[explained[0].meaning]} {drawing} {WARNING}"
    options = {"strength": arguments.strength, "max_side": arguments.max_side, "caption": caption}
    options["limits"] = limits_of(arguments)
    if is_sheet:
        title = Path(arguments.video).name
        write_whole(output, png_bytes(draw_sheet(arguments.video, panels, title=title, **options)))
        return ""
    with progress_percent() as progress:
        film = draw_panels(arguments.video, output, panels, fps=arguments.fps, progress=progress, **options)
    return f" ({film.width} x {film.height}, {film.seconds:.1f} s{', with sound' if film.has_sound else ''})"


def _draw_on_input(
    arguments: argparse.Namespace,
    output: Path,
    pretrained: Pretrained,
    clips: Sequence[Clip],
    explained: Sequence[Explained],
) -> str:
    """Draw the frames that the model received, plain and with each map."""
    frames = np.concatenate([pretrained.preprocess.pictures(view) for clip in clips for view in clip.views])
    panels = [Panel(Path(arguments.video).name, frames)]
    panels += [Panel(each.title, overlay(frames, np.concatenate(each.maps))) for each in explained]
    write_whole(output, WRITERS[output.suffix.lower()](panels, arguments.fps or INPUT_FPS))
    return ""


def _relevance(pretrained: Pretrained, label: int, clip: jax.Array) -> jax.Array:
    if isinstance(pretrained.model, ConvNet):
        return grad_cam(pretrained.model, pretrained.variables, clip, np.array([label]))
    return class_relevance(pretrained.model, pretrained.variables["params"], clip, np.array([label]))


def _check(arguments: argparse.Namespace, output: Path) -> None:
    """Raise `InputError` for invalid arguments, before anything is loaded."""
    check_at_least_1(arguments, "num_clips", "top_k", "max_side")
    if arguments.start is not None and (arguments.num_clips, arguments.placement) != (1, None):
        raise InputError("--start places a single clip: omit --num-clips and --placement.")
    if arguments.start is not None and not 0 <= arguments.start < math.inf:
        raise InputError(f"--start must be at least 0 seconds, got {arguments.start}.")
    if arguments.fps is not None and not 0 < arguments.fps < math.inf:
        raise InputError(f"--fps must be above 0, got {arguments.fps}.")
    if not 0 <= arguments.strength <= 1:
        raise InputError(f"--strength must be from 0 to 1, got {arguments.strength}.")
    if arguments.draw_on == "input" and (arguments.max_side, arguments.strength) != (None, STRENGTH):
        raise InputError("--strength and --max-side are for drawing on the video: omit them, or --draw-on=input.")
    if output.suffix.lower() not in WRITERS:
        raise InputError(f"--output must end in {', '.join(WRITERS)}, got {output}.")
    check_output(output, arguments.video)
    if arguments.method == "rollout" and arguments.label:
        raise InputError("Rollout is the same for all labels: omit --label, or use --method=relevance.")


def _number(label: str, pretrained: Pretrained) -> int:
    """Return the index of a class given by its name or number."""
    names = list(pretrained.labels or [])
    if label in names:
        return names.index(label)
    if label.isdecimal() and int(label) < pretrained.model.num_classes:
        return int(label)
    hint = did_you_mean(label, names, count=3, cutoff=0.4)
    raise InputError(f"The model has no label {label!r}: give a name, or a number below {pretrained.model.num_classes}.{hint}")
