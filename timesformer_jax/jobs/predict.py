"""The best labels of videos, files or whole folders of them.

timesformer predict clip.mp4 --checkpoint=timesformer-base-k400
timesformer predict FOLDER --checkpoint=runs/mine --json > predictions.jsonl
"""

import argparse
import dataclasses
import json
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from timesformer_jax.errors import InputError
from timesformer_jax.jobs.convert import add_load_arguments, load_options
from timesformer_jax.pretrained import Pretrained, load
from timesformer_jax.video import PLACEMENT_NAMES, VIDEO_SUFFIXES, find_videos


def add_arguments(job: argparse.ArgumentParser) -> None:
    """The job's arguments."""
    job.add_argument("videos", nargs="+", metavar="VIDEO", help="video files, or folders that are searched for such")
    job.add_argument("--checkpoint", required=True, help="a file, folder, run, name of the zoo, or hf:ORGANISATION/MODEL")
    job.add_argument("--top-k", type=int, default=5, help="how many labels")
    job.add_argument("--num-clips", type=int, default=1, help="clips over the length of each video")
    job.add_argument("--num-crops", type=int, default=3, choices=(1, 3), help="along the long side, or one in the centre")
    job.add_argument(
        "--placement", choices=PLACEMENT_NAMES, help="where the clips begin (default: as the checkpoint was tested)"
    )
    job.add_argument("--json", action="store_true", help="one JSON object a line instead of tables")
    add_load_arguments(job)


def run(arguments: argparse.Namespace) -> int:
    """Prints the labels of every video; one that can't be read is a line on stderr, and makes the exit code 1."""
    for name in ("top_k", "num_clips"):
        if getattr(arguments, name) < 1:
            raise InputError(f"--{name.replace('_', '-')} must be at least 1, got {getattr(arguments, name)}.")
    try:
        from tqdm import tqdm
    except ImportError as error:
        raise InputError("Reading videos needs PyAV and tqdm: pip install timesformer_jax[video].") from error

    paths = list(_find(arguments.videos))
    pretrained = load(arguments.checkpoint, **load_options(arguments))
    if arguments.placement:
        prepared = dataclasses.replace(pretrained.preprocess, placement=arguments.placement)
        pretrained = dataclasses.replace(pretrained, preprocess=prepared)
    for note in pretrained.report.notes if pretrained.report else []:
        print(f"Note: {note}.", file=sys.stderr)
    failed = 0
    bar = tqdm(total=len(paths), unit="video", dynamic_ncols=True, disable=len(paths) < 2 or not sys.stderr.isatty())
    with bar:
        for path, views in _prepared(pretrained, paths, arguments):
            if isinstance(views, InputError):
                failed += 1
                tqdm.write(f"Error: {views}", file=sys.stderr)
            else:
                best = pretrained.best(pretrained.view_scores(views), arguments.top_k)
                if arguments.json:
                    line = {"video": str(path), "best": [[label, round(p, 6)] for label, p in best], "views": len(views)}
                    tqdm.write(json.dumps(line, ensure_ascii=False), file=sys.stdout)
                else:
                    rows = "".join(f"\n  {p:7.2%}  {label}" for label, p in best)
                    tqdm.write(f"{path}{rows}", file=sys.stdout)
                sys.stdout.flush()
            bar.update()
    if failed:
        print(f"{failed} of {len(paths)} video(s) could not be read.", file=sys.stderr)
    return 1 if failed else 0


def _find(names: Iterable[str]) -> Iterator[Path]:
    """The files themselves, and every video in the folders, in order; a folder without any stands for itself."""
    for name in names:
        path = Path(name)
        yield from (find_videos(path) or [path]) if path.is_dir() else [path]


def _prepared(
    pretrained: Pretrained, paths: list[Path], arguments: argparse.Namespace
) -> Iterator[tuple[Path, np.ndarray | InputError]]:
    """Every video's views, or why there are none; while one is looked at, the next is decoded."""

    def prepare(path: Path) -> np.ndarray | InputError:
        if path.is_dir():
            return InputError(f"There is no video in the folder {path} ({', '.join(sorted(VIDEO_SUFFIXES))}).")
        try:
            return pretrained.preprocess(path, num_clips=arguments.num_clips, num_crops=arguments.num_crops)
        except InputError as error:
            return error

    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(prepare, paths[0])
        for path, following in zip(paths, [*paths[1:], None], strict=True):
            views = coming.result()
            if following is not None:
                coming = pool.submit(prepare, following)
            yield path, views
