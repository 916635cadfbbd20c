"""Explain a prediction: draw the parts of a video that matter for its best label, or for any other.

timesformer explain clip.mp4 --checkpoint=timesformer-base-k400 --output=clip.gif
timesformer explain clip.mp4 --checkpoint=runs/mine --label=running --label=walking --output=clip.png
timesformer explain clip.mp4 --checkpoint=runs/mine --method=rollout --output=clip.mp4
"""

import argparse
import functools
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from timesformer_jax.atomic_write import write_whole
from timesformer_jax.cnn3d import ConvNet
from timesformer_jax.devices import print_devices
from timesformer_jax.errors import InputError, did_you_mean
from timesformer_jax.explain import attention_rollout, class_relevance, grad_cam
from timesformer_jax.explain.drawing import WRITERS, Panel, overlay
from timesformer_jax.jobs.convert import add_load_arguments, load_options
from timesformer_jax.jobs.videos import (
    CHECKPOINT,
    add_limit_arguments,
    check_at_least_1,
    check_classifier,
    limits_of,
    place_clips,
)
from timesformer_jax.os_errors import sentence
from timesformer_jax.pretrained import Pretrained, load
from timesformer_jax.printable import printable
from timesformer_jax.video import PLACEMENT_NAMES, Clip

METHODS = ("relevance", "rollout")
MOST_DRAWN = 32
"""Maximum number of clips to draw, and therefore to hold in memory."""


def add_arguments(job: argparse.ArgumentParser) -> None:
    """Add the job's arguments."""
    job.add_argument("video", metavar="VIDEO", help="video file")
    job.add_argument("--checkpoint", required=True, metavar="PATH", help=CHECKPOINT)
    job.add_argument(
        "--output", required=True, metavar="FILE", help=f"file to write: {', '.join(WRITERS)} (a sheet of at most 8 frames)"
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
        "--placement", choices=PLACEMENT_NAMES, help="where the clips start (default: as in the checkpoint's evaluation)"
    )
    job.add_argument("--fps", type=float, default=4.0, help="frames per second of an animation")
    job.add_argument("--top-k", type=int, default=5, help="number of labels to print")
    add_limit_arguments(job)
    add_load_arguments(job)


def run(arguments: argparse.Namespace) -> int:
    """Print the best labels of the video (one centre crop per clip), and draw at most `MOST_DRAWN` of its clips."""
    output = Path(arguments.output)
    _check(arguments, output)
    limits = limits_of(arguments)
    print_devices()
    pretrained = place_clips(load(arguments.checkpoint, headless=True, **load_options(arguments)), arguments.placement)
    if arguments.method == "relevance":
        check_classifier(pretrained, arguments.checkpoint, "to explain a label of; --method=rollout needs none")
    labels = [_number(label, pretrained) for label in arguments.label]
    for note in pretrained.report.notes if pretrained.report else []:
        print(f"Note: {printable(note)}.", file=sys.stderr)
    views = {"num_clips": arguments.num_clips, "num_crops": 1, "limits": limits}
    drawn: list[Clip] = []
    scores, num_clips = pretrained.clip_scores(_keep(pretrained.preprocess.clips(arguments.video, **views), drawn))
    if len(drawn) < num_clips:
        print(
            f"Note: {len(drawn)} of {num_clips} clips are drawn, evenly spread; the scores are the mean of all.",
            file=sys.stderr,
        )
    clips = np.concatenate([clip.views for clip in drawn])
    best = pretrained.best(scores, arguments.top_k)
    print(printable(arguments.video) + "".join(f"\n  {p:7.2%}  {printable(label)}" for label, p in best))
    panels = explain(pretrained, clips, scores, labels, title=Path(arguments.video).name, method=arguments.method)
    try:
        write_whole(output, WRITERS[output.suffix.lower()](panels, arguments.fps))
    except OSError as error:
        raise InputError(sentence(error, f"Can't write {output}")) from error
    print(f"Written: {printable(output)}")
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


def explain(
    pretrained: Pretrained, clips: np.ndarray, scores: np.ndarray, labels: Sequence[int], *, title: str, method: str
) -> list[Panel]:
    """Return panels of the clips' frames: plain, and overlaid with the map of each label.

    Args:
        pretrained: The model.
        clips: Normalised clips `[clips, T, H, W, 3]`.
        scores: Probabilities of the video.
        labels: Classes to explain; the best one by default.
        title: Title of the plain panel.
        method: An element of `METHODS`.
    """
    frames = np.concatenate([pretrained.preprocess.pictures(clip) for clip in clips])
    model, params = pretrained.model, pretrained.variables["params"]

    def panel(title: str, maps_of: Callable[[jax.Array], jax.Array]) -> Panel:
        return Panel(title, overlay(frames, np.concatenate([maps_of(jnp.asarray(clip[None]))[0] for clip in clips])))

    if method == "rollout":
        return [Panel(title, frames), panel("attention rollout", lambda clip: attention_rollout(model, params, clip))]
    return [
        Panel(title, frames),
        *(
            panel(
                f"{pretrained.label(label)} {scores[label]:.1%}",
                functools.partial(_relevance, pretrained, label),
            )
            for label in labels or [int(scores.argmax())]
        ),
    ]


def _relevance(pretrained: Pretrained, label: int, clip: jax.Array) -> jax.Array:
    if isinstance(pretrained.model, ConvNet):
        return grad_cam(pretrained.model, pretrained.variables, clip, np.array([label]))
    return class_relevance(pretrained.model, pretrained.variables["params"], clip, np.array([label]))


def _check(arguments: argparse.Namespace, output: Path) -> None:
    """Raise `InputError` for invalid arguments, before anything is loaded."""
    check_at_least_1(arguments, "num_clips", "top_k")
    if not 0 < arguments.fps < math.inf:
        raise InputError(f"--fps must be above 0, got {arguments.fps}.")
    if output.suffix.lower() not in WRITERS:
        raise InputError(f"--output must end in {', '.join(WRITERS)}, got {output}.")
    if not output.parent.is_dir():
        raise InputError(f"There is no folder {output.parent} to write {output.name} to.")
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
