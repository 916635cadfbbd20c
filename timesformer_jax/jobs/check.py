"""Check that every video of a data set can be read.

timesformer check FOLDER
timesformer check FOLDER --dataset=kinetics400 --json > report.json
timesformer check --dataset=video_list --train=train.csv --val=val.csv
"""

import argparse
import functools
import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from timesformer_jax.datasets import EXPECTED_CLASSES, LAYOUTS, Entry, Listing, VideoFacts, inspect_video, map_in_processes
from timesformer_jax.errors import InputError
from timesformer_jax.jobs.videos import add_limit_arguments, limits_of
from timesformer_jax.video import find_videos, printable


def add_arguments(job: argparse.ArgumentParser) -> None:
    """The job's arguments."""
    job.add_argument("folder", nargs="?", type=Path, metavar="FOLDER", help="the videos and their lists")
    names = ", ".join(LAYOUTS)
    job.add_argument(
        "--dataset", choices=LAYOUTS, metavar="NAME", help=f"read the lists of {names} (default: every video of the folder)"
    )
    job.add_argument("--train", type=Path, metavar="FILE", help="video_list: the training list")
    job.add_argument("--val", type=Path, metavar="FILE", help="video_list: the validation list")
    job.add_argument("--fold", type=int, help="ucf101 and hmdb51: number of the official split (default: 1)")
    job.add_argument("--num-workers", type=int, default=0, help="processes that read videos (default: one per core)")
    add_limit_arguments(job)
    job.add_argument("--json", action="store_true", help="print the report as JSON, with the figures of every video")


def run(arguments: argparse.Namespace) -> int:
    """Prints what is there and what can't be read, one line a video; the exit code is 1 where anything is amiss."""
    from tqdm import tqdm

    inspect = functools.partial(inspect_video, limits=limits_of(arguments))
    listing, splits = _entries(arguments)
    report: dict[str, Any] = {}
    total = sum(map(len, splits.values()))
    with tqdm(total=total, unit="video", dynamic_ncols=True, disable=not sys.stderr.isatty()) as bar:
        for split, entries in splits.items():
            facts: dict[str, VideoFacts] = {}
            unreadable = dict(listing.missing.get(split, {})) if listing else {}
            for entry, found in map_in_processes(inspect, entries, num_workers=arguments.num_workers):
                if isinstance(found, InputError):
                    unreadable[entry.name] = getattr(found, "reason", str(found))
                else:
                    facts[entry.name] = found
                bar.update()
            report[split] = {"videos": facts, "unreadable": unreadable, "labels": _labels(entries, unreadable)}
    if arguments.json:
        print(json.dumps(_as_json(report), ensure_ascii=False, indent=1))
    else:
        _print(report, listing, arguments.dataset)
    return 1 if any(split["unreadable"] for split in report.values()) else 0


def _entries(arguments: argparse.Namespace) -> tuple[Listing | None, Mapping[str, Sequence[Entry]]]:
    """What the lists say; without lists, every video of the folder."""
    name, folder = arguments.dataset, arguments.folder
    if name == "video_list":
        if arguments.train is None or arguments.val is None:
            raise InputError("The lists are not given: --train=FILE.csv --val=FILE.csv.")
        listing = LAYOUTS[name](arguments.train, arguments.val, root=folder)
        return listing, listing.splits
    if folder is None or not folder.is_dir():
        raise InputError(
            f"There is no folder {folder}: give the one that holds the videos." if folder else "No folder is given."
        )
    if name is None:
        paths = find_videos(folder)
        found = [Entry(name=printable(path.relative_to(folder).as_posix()), path=path, labels=()) for path in paths]
        if not found:
            raise InputError(f"There is no video in the folder {folder}.")
        return None, {"all": found}
    listing = LAYOUTS[name](folder, **({} if arguments.fold is None else {"fold": arguments.fold}))
    return listing, listing.splits


def _labels(entries: Sequence[Entry], unreadable: Mapping[str, str]) -> Counter[str]:
    """How many readable videos each label has."""
    return Counter(label for entry in entries if entry.name not in unreadable for label in entry.labels)


def _as_json(report: Mapping[str, Any]) -> dict[str, Any]:
    videos = {split: {name: facts._asdict() for name, facts in found["videos"].items()} for split, found in report.items()}
    return {split: {**found, "videos": videos[split]} for split, found in report.items()}


def _print(report: Mapping[str, Any], listing: Listing | None, name: str | None) -> None:
    for split, found in report.items():
        facts: list[VideoFacts] = list(found["videos"].values())
        print(f"{split}: {len(facts)} of {len(facts) + len(found['unreadable'])} videos can be read.")
        if facts:
            for what, values in (
                ("seconds", sorted(round(video.num_frames / video.fps, 1) for video in facts)),
                ("frames a second", sorted(round(video.fps, 2) for video in facts)),
                ("short side in pixels", sorted(min(video.height, video.width) for video in facts)),
            ):
                print(f"  {what}: {values[0]} to {values[-1]}, median {values[len(values) // 2]}")
        for video, where in ((name, facts.num_damaged) for name, facts in found["videos"].items()):
            if where:
                print(f"  damaged in {where} place(s), to be used all the same: {video}")
        for video, reason in found["unreadable"].items():
            print(f"  can't be read: {video}: {reason}")
        if listing is not None:
            lacking = [label for label in listing.label_names if not found["labels"][label]]
            if lacking:
                more = f" and {len(lacking) - 10} more" if len(lacking) > 10 else ""
                print(f"  labels without a video: {', '.join(lacking[:10])}{more}")
    if listing is not None and name is not None and EXPECTED_CLASSES[name] not in (None, len(listing.label_names)):
        print(f"{len(listing.label_names)} labels; the whole data set has {EXPECTED_CLASSES[name]}.")
