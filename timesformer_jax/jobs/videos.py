"""What the jobs over videos have in common: which files, which views of them, and decoding ahead."""

import argparse
import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from timesformer_jax.errors import InputError
from timesformer_jax.pretrained import Pretrained
from timesformer_jax.video import PLACEMENT_NAMES, VIDEO_SUFFIXES, Limits, Preprocess, find_videos

CHECKPOINT = "weights: a file, folder, workdir of a run, name listed by `timesformer zoo`, or hf:ORGANISATION/MODEL"
"""Help of `--checkpoint`."""


class Views(NamedTuple):
    """A video as the model gets it: `clips` `[clips, crops, T, S, S, 3]`, and the second at which each clip begins."""

    clips: np.ndarray
    seconds: np.ndarray


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


def place_clips(pretrained: Pretrained, placement: str | None) -> Pretrained:
    """With clips that begin where the user wants them, if anywhere."""
    if not placement:
        return pretrained
    return dataclasses.replace(pretrained, preprocess=dataclasses.replace(pretrained.preprocess, placement=placement))


def prepared(
    preprocess: Preprocess, paths: Sequence[Path], *, num_clips: int, num_crops: int, limits: Limits
) -> Iterator[tuple[Path, Views | InputError]]:
    """Every video's views, or why there are none; while one is looked at, the next is decoded."""

    def prepare(path: Path) -> Views | InputError:
        if path.is_dir():
            return InputError(f"There is no video in the folder {path} ({', '.join(sorted(VIDEO_SUFFIXES))}).")
        try:
            views, seconds = preprocess.timed(path, num_clips=num_clips, num_crops=num_crops, limits=limits)
        except InputError as error:
            return error
        return Views(views.reshape(len(seconds), -1, *views.shape[1:]), seconds)

    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(prepare, paths[0])
        for path, following in zip(paths, [*paths[1:], None], strict=True):
            views = coming.result()
            if following is not None:
                coming = pool.submit(prepare, following)
            yield path, views
