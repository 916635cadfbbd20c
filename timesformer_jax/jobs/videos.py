"""What the jobs over videos have in common: which files, which views of them, and decoding ahead."""

import argparse
import contextlib
import dataclasses
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from timesformer_jax.errors import InputError
from timesformer_jax.pretrained import Pretrained
from timesformer_jax.video import PLACEMENT_NAMES, VIDEO_SUFFIXES, Clip, Limits, Preprocess, find_videos

CHECKPOINT = "weights: a file, folder, workdir of a run, name listed by `timesformer zoo`, or hf:ORGANISATION/MODEL"
"""Help of `--checkpoint`."""


CLIPS_AHEAD = 2
"""Clips that are decoded while others are looked at: their memory is all that a video takes, however long it is."""

Item = TypeVar("Item")


def add_view_arguments(job: argparse.ArgumentParser) -> None:
    """Which videos, and which clips of them."""
    job.add_argument("videos", nargs="+", metavar="VIDEO", help="video files, or folders to search for them")
    job.add_argument("--checkpoint", required=True, metavar="PATH", help=CHECKPOINT)
    job.add_argument("--num-clips", type=int, default=1, help="clips spread over each video")
    job.add_argument(
        "--num-crops", type=int, default=3, choices=(1, 3), help="crops of each clip: three along the long side, or the centre"
    )
    job.add_argument(
        "--placement", choices=PLACEMENT_NAMES, help="where the clips begin (default: as the checkpoint was evaluated)"
    )
    add_limit_arguments(job)


def add_limit_arguments(job: argparse.ArgumentParser) -> None:
    """How much a video may ask for."""
    usual = Limits()
    job.add_argument("--max-pixels", type=int, default=usual.max_pixels, help="pixels that a video's frame may have")
    job.add_argument("--max-seconds", type=float, default=usual.max_seconds, help="seconds that a video may last")
    job.add_argument("--max-bytes", type=int, default=usual.max_bytes, help="bytes that a video file may have")


def limits_of(arguments: argparse.Namespace) -> Limits:
    """The arguments of `add_limit_arguments`; raises `InputError` for one that can't be."""
    values = {field.name: getattr(arguments, field.name) for field in dataclasses.fields(Limits)}
    for name, value in values.items():
        if not value > 0:
            raise InputError(f"--{name.replace('_', '-')} must be above 0, got {value}.")
    return Limits(**values)


def check_at_least_1(arguments: argparse.Namespace, *names: str) -> None:
    """Raises `InputError` for a number below 1; one that isn't given is none."""
    for name in names:
        value = getattr(arguments, name)
        if value is not None and value < 1:
            raise InputError(f"--{name.replace('_', '-')} must be at least 1, got {value}.")


def find_files(names: Iterable[str]) -> Iterator[Path]:
    """The files themselves, and every video in the folders, in order; a folder without any stands for itself."""
    for name in names:
        path = Path(name)
        yield from (find_videos(path) or [path]) if path.is_dir() else [path]


def check_classifier(pretrained: Pretrained, source: str, purpose: str) -> None:
    """Raise `InputError` for weights without a classifier; `purpose`: what it is needed for, and what works without."""
    if not pretrained.model.num_classes:
        raise InputError(
            f"{source} has no classifier {purpose}. Train one: main.py --mode=train, or --mode=probe for the classifier alone, "
            f"with --config.init_from={source}."
        )


def place_clips(pretrained: Pretrained, placement: str | None) -> Pretrained:
    """With clips that begin where the user wants them, if anywhere."""
    if not placement:
        return pretrained
    return dataclasses.replace(pretrained, preprocess=dataclasses.replace(pretrained.preprocess, placement=placement))


def prepared(
    preprocess: Preprocess, paths: Iterable[Path], *, num_clips: int, num_crops: int, limits: Limits
) -> Iterator[tuple[Path, Iterator[Clip]]]:
    """Every video with its clips, which raise `InputError` where it can't be read; meanwhile the next ones are decoded."""

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
            for _ in clips:  # where they aren't all asked for
                pass


def ahead(items: Iterator[Item], count: int = CLIPS_AHEAD) -> Generator[Item]:
    """The items of an iterator; a thread keeps the next `count` of them ready."""
    end: Any = object()
    pool = ThreadPoolExecutor(1)
    coming = deque(pool.submit(next, items, end) for _ in range(count))
    try:
        while (item := coming.popleft().result()) is not end:
            coming.append(pool.submit(next, items, end))
            yield item
    finally:
        pool.shutdown(cancel_futures=True)
