"""Check that every video of a data set can be read.

timesformer check FOLDER
timesformer check FOLDER --dataset=kinetics400 --json > report.json
timesformer check --dataset=video_list --train=train.csv --val=val.csv
"""

import argparse
import functools
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from timesformer_jax.datasets import (
    EXPECTED_CLASSES,
    LAYOUTS,
    Entry,
    Listing,
    VideoFacts,
    describe_duplicates,
    inspect_video,
    map_in_processes,
)
from timesformer_jax.errors import InputError
from timesformer_jax.jobs.videos import add_limit_arguments, limits_of
from timesformer_jax.printable import as_utf8, printable, stdout_encoding, to_json
from timesformer_jax.video import FolderContents
from timesformer_jax.video.finding import BROKEN_LINKS

NOWHERE = "it is a link that leads nowhere"


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
    """Prints what is there, each video that can't be read, and each kind of file that was skipped (to stderr with --json).

    Returns 1 if a video can't be read or a link leads nowhere, else 0.
    """
    from tqdm import tqdm

    inspect = functools.partial(inspect_video, limits=limits_of(arguments))
    listing, splits, missing, notes = _entries(arguments)
    report: dict[str, Any] = {}
    total = sum(map(len, splits.values()))
    with tqdm(total=total, unit="video", dynamic_ncols=True, disable=not sys.stderr.isatty()) as bar:
        for split, entries in splits.items():
            facts: dict[str, VideoFacts] = {}
            unreadable = dict(missing.get(split, {}))
            for entry, found in map_in_processes(inspect, entries, num_workers=arguments.num_workers):
                if isinstance(found, InputError):
                    unreadable[entry.name] = getattr(found, "reason", str(found))
                else:
                    facts[entry.name] = found
                bar.update()
            report[split] = {"videos": facts, "unreadable": unreadable, "labels": _labels(entries, unreadable)}
    if arguments.json:
        print(to_json(_as_json(report), encoding=stdout_encoding(), indent=1))
    else:
        _print(report, listing, arguments.dataset)
    for note in notes:
        print(printable(note), file=sys.stderr if arguments.json else sys.stdout)
    amiss = any(split["unreadable"] for split in report.values()) or any(BROKEN_LINKS in note for note in notes)
    return 1 if amiss else 0


class _Found(NamedTuple):
    """The videos to check: those of a listing, or, without lists, every video of the folder."""

    listing: Listing | None
    splits: Mapping[str, Sequence[Entry]]
    missing: Mapping[str, Mapping[str, str]]
    notes: Sequence[str]


def _entries(arguments: argparse.Namespace) -> _Found:
    name, folder = arguments.dataset, arguments.folder
    if name == "video_list":
        if arguments.train is None or arguments.val is None:
            raise InputError("The lists are not given: --train=FILE.csv --val=FILE.csv.")
        return _of(LAYOUTS[name](arguments.train, arguments.val, root=folder))
    if folder is None or not folder.is_dir():
        raise InputError(
            f"There is no folder {folder}: give the one that holds the videos." if folder else "No folder is given."
        )
    if name is None:
        contents = FolderContents(folder)
        found = [Entry(name=as_utf8(contents.name(path)), path=path, labels=()) for path in contents.videos]
        missing = {as_utf8(link): NOWHERE for link in contents.broken_links}
        if not found and not missing:
            raise InputError(" ".join([f"There is no video in the folder {folder}.", *contents.notes]))
        notes = [note for note in contents.notes if BROKEN_LINKS not in note]
        return _Found(None, {"all": found}, {"all": missing}, notes)
    return _of(LAYOUTS[name](folder, **({} if arguments.fold is None else {"fold": arguments.fold})))


def _of(listing: Listing) -> _Found:
    return _Found(listing, listing.splits, listing.missing, [*listing.notes, *describe_duplicates(listing)])


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
                print(f"  damaged in {where} place(s), to be used all the same: {printable(video)}")
        for video, reason in found["unreadable"].items():
            print(f"  can't be read: {printable(video)}: {printable(reason)}")
        if listing is not None:
            lacking = [label for label in listing.label_names if not found["labels"][label]]
            if lacking:
                more = f" and {len(lacking) - 10} more" if len(lacking) > 10 else ""
                print(f"  labels without a video: {printable(', '.join(lacking[:10]))}{more}")
    if listing is not None and name is not None and EXPECTED_CLASSES[name] not in (None, len(listing.label_names)):
        print(f"{len(listing.label_names)} labels; the whole data set has {EXPECTED_CLASSES[name]}.")
