"""Predict the labels of videos.

timesformer predict clip.mp4 --checkpoint=timesformer-base-k400
timesformer predict FOLDER --checkpoint=runs/mine --json > predictions.jsonl
timesformer predict long.mp4 --checkpoint=runs/mine --plot=timeline.png
"""

import argparse
import importlib.util
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from timesformer_jax.atomic_write import write_whole
from timesformer_jax.devices import print_devices
from timesformer_jax.errors import InputError
from timesformer_jax.explain.timeline_plot import FORMATS, draw_timeline
from timesformer_jax.extras import MissingPackageError
from timesformer_jax.jobs.convert import add_load_arguments, load_options
from timesformer_jax.jobs.videos import (
    add_view_arguments,
    check_at_least_1,
    check_classifier,
    find_files,
    limits_of,
    place_clips,
    prepared,
    progress_percent,
)
from timesformer_jax.os_errors import sentence
from timesformer_jax.pretrained import Prediction, Pretrained, WindowScores, load
from timesformer_jax.printable import as_utf8, printable, stdout_encoding, to_json
from timesformer_jax.video import Limits


def add_arguments(job: argparse.ArgumentParser) -> None:
    """Add the job's arguments."""
    add_view_arguments(job)
    job.add_argument("--top-k", type=int, default=5, help="number of labels to print")
    job.add_argument("--json", action="store_true", help="print one JSON object per video instead of tables")
    job.add_argument(
        "--plot", metavar="FILE", help=f"draw the labels of one video over time: {', '.join(f'.{each}' for each in FORMATS)}"
    )
    job.add_argument(
        "--window",
        type=float,
        help="also predict overlapping windows of this many seconds (default: what a clip of the model covers)",
    )
    job.add_argument(
        "--stride", type=float, help="seconds from the start of one window to that of the next (default: half a window)"
    )
    add_load_arguments(job)


def run(arguments: argparse.Namespace) -> int:
    """Print the labels of every video. Unreadable videos are reported on stderr, and make the exit code 1."""
    from tqdm import tqdm

    check_at_least_1(arguments, "top_k", "num_clips")
    limits = limits_of(arguments)
    paths = list(find_files(arguments.videos))
    _check_windows(arguments, paths)
    print_devices()
    pretrained = place_clips(load(arguments.checkpoint, headless=True, **load_options(arguments)), arguments.placement)
    check_classifier(pretrained, arguments.checkpoint, "to predict with; `timesformer features` needs none")
    for note in pretrained.report.notes if pretrained.report else []:
        print(f"Note: {printable(note)}.", file=sys.stderr)
    failed = 0
    bar = tqdm(total=len(paths), unit="video", dynamic_ncols=True, disable=len(paths) < 2 or not sys.stderr.isatty())
    with bar:
        views_of = {"num_clips": arguments.num_clips, "num_crops": arguments.num_crops, "limits": limits}
        for path, clips in prepared(pretrained.preprocess, paths, **views_of):
            try:
                scores, num_views = pretrained.clip_scores(clips)
                windows = _windows(arguments, pretrained, path, limits)
            except InputError as error:
                failed += 1
                tqdm.write(f"Error: {error}", file=sys.stderr)
            else:
                if arguments.json:
                    best = _rounded(pretrained.best(scores, arguments.top_k))
                    line: dict[str, Any] = {"video": as_utf8(path), "best": best, "views": num_views}
                    if windows is not None:
                        line["windows"] = _window_entries(pretrained, windows, arguments.top_k)
                    tqdm.write(to_json(line, encoding=stdout_encoding()), file=sys.stdout)
                else:
                    rows = [f"  {p:7.2%}  {printable(label)}" for label, p in pretrained.best(scores, arguments.top_k)]
                    rows += [] if windows is None else _stretch_lines(pretrained, windows)
                    tqdm.write("\n".join([printable(path), *rows]), file=sys.stdout)
                sys.stdout.flush()
                if arguments.plot and windows is not None:
                    _plot(Path(arguments.plot), pretrained, windows, path.name)
            bar.update()
    if failed:
        print(f"{failed} of {len(paths)} video(s) could not be read.", file=sys.stderr)
    return 1 if failed else 0


def _check_windows(arguments: argparse.Namespace, paths: Sequence[Path]) -> None:
    """Raise `InputError` for invalid arguments of the windows and their plot, before anything is loaded."""
    for name in ("window", "stride"):
        value = getattr(arguments, name)
        if value is not None and not 0 < value < math.inf:
            raise InputError(f"--{name} must be above 0 seconds, got {value}.")
    if not arguments.plot:
        return
    plot = Path(arguments.plot)
    if plot.suffix.lower().removeprefix(".") not in FORMATS:
        raise InputError(f"--plot must end in {', '.join(f'.{each}' for each in FORMATS)}, got {plot}.")
    if not plot.parent.is_dir():
        raise InputError(f"There is no folder {plot.parent} to write {plot.name} to.")
    if len(paths) != 1:
        raise InputError(f"--plot draws a single video, got {len(paths)}: give one, or use --stride with --json for all.")
    if importlib.util.find_spec("matplotlib") is None:
        raise MissingPackageError("matplotlib", "Drawing")


def _windows(arguments: argparse.Namespace, pretrained: Pretrained, path: Path, limits: Limits) -> WindowScores | None:
    """Compute the probabilities of the video's windows; None if no argument asks for them."""
    if not arguments.plot and arguments.window is None and arguments.stride is None:
        return None
    with progress_percent() as progress:
        return pretrained.window_scores(
            path, window=arguments.window, stride=arguments.stride, limits=limits, progress=progress
        )


def _rounded(best: Sequence[Prediction]) -> list[list[Any]]:
    return [[label, round(p, 6)] for label, p in best]


def _window_entries(pretrained: Pretrained, windows: WindowScores, top_k: int) -> list[dict[str, Any]]:
    return [
        {"start": round(start, 3), "end": round(end, 3), "best": _rounded(pretrained.best(scores, top_k))}
        for start, end, scores in zip(windows.starts.tolist(), windows.ends.tolist(), windows.probabilities, strict=True)
    ]


def _stretch_lines(pretrained: Pretrained, windows: WindowScores) -> list[str]:
    """Return a line per stretch of the video with the same best label."""
    width = len(f"{windows.ends[-1]:.1f}")
    return [
        f"  {start:{width}.1f} to {end:{width}.1f} s  {probability:7.2%}  {printable(pretrained.label(label))}"
        for start, end, label, probability in windows.stretches()
    ]


def _plot(path: Path, pretrained: Pretrained, windows: WindowScores, title: str) -> None:
    names = [pretrained.label(number) for number in range(windows.probabilities.shape[1])]
    length = np.median(windows.ends - windows.starts)
    apart = f", one every {np.median(np.diff(windows.starts)):.1f} s" if len(windows.starts) > 1 else ""
    note = f"Predictions of windows of {length:.1f} s{apart}. Bars: the best label. Curves: probabilities."
    picture = draw_timeline(
        windows.edges, windows.probabilities, names, title=title, note=note, format=path.suffix.lower().removeprefix(".")
    )
    try:
        write_whole(path, picture)
    except OSError as error:
        raise InputError(sentence(error, f"Can't write {path}")) from error
    print(f"Drawn: {printable(path)}", file=sys.stderr)
