"""Predict the labels of videos.

timesformer predict clip.mp4 --checkpoint=timesformer-base-k400
timesformer predict FOLDER --checkpoint=runs/mine --json > predictions.jsonl
"""

import argparse
import sys

from timesformer_jax.devices import print_devices
from timesformer_jax.errors import InputError
from timesformer_jax.jobs.convert import add_load_arguments, load_options
from timesformer_jax.jobs.videos import (
    add_view_arguments,
    check_at_least_1,
    check_classifier,
    find_files,
    limits_of,
    place_clips,
    prepared,
)
from timesformer_jax.pretrained import load
from timesformer_jax.printable import as_utf8, printable, stdout_encoding, to_json


def add_arguments(job: argparse.ArgumentParser) -> None:
    """Add the job's arguments."""
    add_view_arguments(job)
    job.add_argument("--top-k", type=int, default=5, help="number of labels to print")
    job.add_argument("--json", action="store_true", help="print one JSON object per video instead of tables")
    add_load_arguments(job)


def run(arguments: argparse.Namespace) -> int:
    """Print the labels of every video. Unreadable videos are reported on stderr, and make the exit code 1."""
    from tqdm import tqdm

    check_at_least_1(arguments, "top_k", "num_clips")
    limits = limits_of(arguments)
    paths = list(find_files(arguments.videos))
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
            except InputError as error:
                failed += 1
                tqdm.write(f"Error: {error}", file=sys.stderr)
            else:
                best = pretrained.best(scores, arguments.top_k)
                if arguments.json:
                    line = {"video": as_utf8(path), "best": [[label, round(p, 6)] for label, p in best], "views": num_views}
                    tqdm.write(to_json(line, encoding=stdout_encoding()), file=sys.stdout)
                else:
                    rows = "".join(f"\n  {p:7.2%}  {printable(label)}" for label, p in best)
                    tqdm.write(f"{printable(path)}{rows}", file=sys.stdout)
                sys.stdout.flush()
            bar.update()
    if failed:
        print(f"{failed} of {len(paths)} video(s) could not be read.", file=sys.stderr)
    return 1 if failed else 0
