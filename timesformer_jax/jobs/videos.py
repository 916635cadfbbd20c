"""Shared parts of the jobs over videos: arguments, finding files, and decoding ahead."""

import argparse
import contextlib
import dataclasses
import re
import sys
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from timesformer_jax.errors import InputError
from timesformer_jax.pretrained import Pretrained
from timesformer_jax.pretrained.fit_to_model import HEAD
from timesformer_jax.printable import printable
from timesformer_jax.video import PLACEMENT_NAMES, VIDEO_SUFFIXES, Clip, FolderContents, Limits, Preprocess
from timesformer_jax.video.finding import BROKEN_LINKS
from timesformer_jax.video.limits import DEFAULT_LIMITS

CHECKPOINT = "weights: a file, folder, workdir of a run, name listed by `timesformer zoo`, or hf:ORGANISATION/MODEL"
"""Help of `--checkpoint`."""


CLIPS_AHEAD = 2
"""Number of clips decoded ahead of the model. Only these are in memory, however long a video is."""

Item = TypeVar("Item")


def add_view_arguments(job: argparse.ArgumentParser) -> None:
    """Add arguments that select videos, weights and views."""
    job.add_argument("videos", nargs="+", metavar="VIDEO", help="video files, or folders to search for videos")
    job.add_argument("--checkpoint", required=True, metavar="PATH", help=CHECKPOINT)
    job.add_argument("--num-clips", type=int, default=1, help="number of clips spread over each video")
    job.add_argument(
        "--num-crops", type=int, default=3, choices=(1, 3), help="crops per clip: 3 along the long side, or 1 in the centre"
    )
    job.add_argument(
        "--placement", choices=PLACEMENT_NAMES, help="where the clips start (default: as in the checkpoint's evaluation)"
    )
    add_limit_arguments(job)


def add_limit_arguments(job: argparse.ArgumentParser, usual: Limits = DEFAULT_LIMITS) -> None:
    """Add arguments that limit the size of videos, by default to `usual`."""
    job.add_argument("--max-pixels", type=int, default=usual.max_pixels, help="reject videos with more pixels per frame")
    job.add_argument("--max-seconds", type=float, default=usual.max_seconds, help="reject longer videos")
    job.add_argument("--max-bytes", type=int, default=usual.max_bytes, help="reject larger video files")


def limits_of(arguments: argparse.Namespace) -> Limits:
    """Return the limits given by the arguments of `add_limit_arguments`; raises `InputError` if one isn't positive."""
    values = {field.name: getattr(arguments, field.name) for field in dataclasses.fields(Limits)}
    for name, value in values.items():
        if not value > 0:
            raise InputError(f"--{name.replace('_', '-')} must be above 0, got {value}.")
    return Limits(**values)


def check_at_least_1(arguments: argparse.Namespace, *names: str) -> None:
    """Raise `InputError` if one of the named arguments is given and below 1."""
    for name in names:
        value = getattr(arguments, name)
        if value is not None and value < 1:
            raise InputError(f"--{name.replace('_', '-')} must be at least 1, got {value}.")


def find_files(names: Iterable[str]) -> Iterator[Path]:
    """Yield the given files, and every video in the given folders, and say on stderr what else is in these.

    Links that lead nowhere are yielded as well, and a folder without videos itself: reading them says what is wrong.
    """
    for path in map(Path, names):
        if not path.is_dir():
            yield path
            continue
        contents = FolderContents(path)
        for note in contents.skipped.notes(without=[BROKEN_LINKS]):
            print(f"Note: {printable(path)}: {note}", file=sys.stderr)
        yield from sorted([*contents.videos, *(path / link for link in contents.broken_links)]) or [path]


def check_classifier(pretrained: Pretrained, source: str, purpose: str) -> None:
    """Raise `InputError` for weights without a trained classifier, and note untrained rows of one on stderr.

    Args:
        pretrained: The loaded weights.
        source: The weights, for the error.
        purpose: What needs the classifier, and what works without it.
    """
    if not pretrained.model.num_classes:
        raise InputError(
            f"{source} has no classifier {purpose}. Train one with main.py (mode train, or mode probe for the classifier "
            f"alone), starting from init_from={source}."
        )
    report = pretrained.report
    if report and any(re.fullmatch(HEAD, path) for path in report.initialised):
        raise InputError(
            f"{source} has no classifier of {pretrained.model.num_classes} classes {purpose}. A new one is untrained: train it "
            f"with main.py, starting from init_from={source}, or omit --num-classes for the weights' own classes."
        )
    if report and report.num_untrained:
        text = f"Note: rows of the classifier are untrained, and their labels mean nothing: {report.classifier}."
        print(printable(text), file=sys.stderr)


def place_clips(pretrained: Pretrained, placement: str | None) -> Pretrained:
    """Return the model with another placement of clips; unchanged if `placement` is None."""
    if not placement:
        return pretrained
    return dataclasses.replace(pretrained, preprocess=dataclasses.replace(pretrained.preprocess, placement=placement))


def prepared(
    preprocess: Preprocess, paths: Iterable[Path], *, num_clips: int, num_crops: int, limits: Limits
) -> Iterator[tuple[Path, Iterator[Clip]]]:
    """Yield every video with an iterator of its clips, while a thread decodes the next clips.

    The clips raise `InputError` if the video can't be read.

    Args:
        preprocess: Preprocessing of the model.
        paths: Video files. A folder raises the error that it holds no video.
        num_clips: Number of clips spread over each video.
        num_crops: Number of crops per clip.
        limits: Largest video to accept.
    """

    def events() -> Iterator[Clip | InputError | None]:
        for path in paths:
            try:
                if path.is_dir():
                    raise InputError(f"There is no video in the folder {path} ({', '.join(sorted(VIDEO_SUFFIXES))}).")
                yield from preprocess.clips(path, num_clips=num_clips, num_crops=num_crops, limits=limits)
            except InputError as error:
                yield error
            else:
                yield None

    def clips_of_one() -> Iterator[Clip]:
        while (event := next(coming)) is not None:
            if isinstance(event, InputError):
                raise event
            yield event

    paths = list(paths)
    with contextlib.closing(ahead(events())) as coming:
        for path in paths:
            clips = clips_of_one()
            yield path, clips
            for _ in clips:  # the caller may not have used all
                pass


@contextlib.contextmanager
def progress_percent() -> Iterator[Callable[[float], None]]:
    """Show a bar on a terminal, and yield a function that sets the share that is done."""
    from tqdm import tqdm

    with tqdm(total=100, unit="%", dynamic_ncols=True, disable=not sys.stderr.isatty(), leave=False) as bar:

        def show(done: float) -> None:
            bar.update(int(100 * done) - bar.n)

        yield show


def ahead(items: Iterator[Item], count: int = CLIPS_AHEAD) -> Generator[Item]:
    """Yield the items of an iterator, while a thread prepares the next `count` of them."""
    end: Any = object()
    pool = ThreadPoolExecutor(1)
    coming = deque(pool.submit(next, items, end) for _ in range(count))
    try:
        while (item := coming.popleft().result()) is not end:
            coming.append(pool.submit(next, items, end))
            yield item
    finally:
        pool.shutdown(cancel_futures=True)
