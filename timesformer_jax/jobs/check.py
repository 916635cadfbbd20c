"""Check that every video of a data set can be read.

timesformer check FOLDER
timesformer check FOLDER --dataset=kinetics400 --json > report.json
timesformer check --dataset=video_list --train=train.csv --val=val.csv
"""

import argparse
import functools
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
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
from timesformer_jax.datasets.fingerprints import facts_of_all
from timesformer_jax.errors import InputError
from timesformer_jax.jobs.journal import Journal, keys_of
from timesformer_jax.jobs.videos import add_limit_arguments, limits_of
from timesformer_jax.printable import as_utf8, printable, stdout_encoding, to_json
from timesformer_jax.progress import Progress
from timesformer_jax.version import VERSION
from timesformer_jax.video import FolderContents
from timesformer_jax.video.finding import BROKEN_LINKS

EXAMPLES = 10
"""Number of missing videos to name per split."""
NOWHERE = "it is a broken link"
FLAGS = {"train": ("video_list",), "val": ("video_list",), "fold": ("ucf101", "hmdb51")}
"""Maps arguments to the data sets that have them."""


def add_arguments(job: argparse.ArgumentParser) -> None:
    """Add the job's arguments."""
    job.add_argument("folder", nargs="?", type=Path, metavar="FOLDER", help="folder of the videos and their lists")
    names = ", ".join(LAYOUTS)
    job.add_argument(
        "--dataset",
        choices=LAYOUTS,
        metavar="NAME",
        help=f"check the videos in the lists of a data set: {names} (default: check every video of the folder)",
    )
    job.add_argument("--train", type=Path, metavar="FILE", help="video_list: the training list")
    job.add_argument("--val", type=Path, metavar="FILE", help="video_list: the validation list")
    job.add_argument("--fold", type=int, help="ucf101 and hmdb51: number of the official split (default: 1)")
    job.add_argument("--num-workers", type=int, default=0, help="number of processes that read videos (default: one per core)")
    add_limit_arguments(job)
    job.add_argument("--restart", action="store_true", help="start over instead of continuing an interrupted check")
    job.add_argument("--json", action="store_true", help="print the report as JSON, with the properties of every video")


def run(arguments: argparse.Namespace) -> int:
    """Print each unreadable video as soon as it is found, then a summary of the videos and of skipped files.

    With --json, everything but the report goes to stderr. Running the same command again continues an interrupted check.
    Returns 1 if a video can't be read or a link is broken, else 0.
    """
    listing, splits, missing, notes = _entries(arguments)
    limits = limits_of(arguments)
    where = [path and path.absolute() for path in (arguments.folder, arguments.train, arguments.val)]
    journal = Journal("check", (VERSION, where, arguments.dataset, arguments.fold, limits))
    known = {} if arguments.restart else {key: found for key, found in journal.read().items() if _is_finding(found)}
    journal.begin(anew=not known)
    check = _Check(functools.partial(inspect_video, limits=limits), journal, known, arguments)
    report: dict[str, Any] = {}
    try:
        for split, entries in splits.items():
            facts, unreadable = check.look(split if len(splits) > 1 else "", entries)
            absent = missing.get(split, {})
            labels = _labels(entries, unreadable)
            report[split] = {"videos": facts, "unreadable": {**absent, **unreadable}, "labels": labels, "absent": absent}
    except BaseException:
        journal.close(complete=False)
        how = "run it again without --restart" if arguments.restart else "run the same command"
        print(f"The check was stopped; {how} to continue it.", file=sys.stderr)
        raise
    journal.close(complete=True)
    if arguments.json:
        print(to_json(_as_json(report), encoding=stdout_encoding(), indent=1))
    else:
        _print(report, listing, arguments.dataset)
    for note in notes:
        print(printable(note), file=sys.stderr if arguments.json else sys.stdout)
    amiss = any(split["unreadable"] for split in report.values()) or any(BROKEN_LINKS in note for note in notes)
    return 1 if amiss else 0


class _Check:
    """Reader of videos that prints problems as they are found, and records every finding in the journal.

    Args:
        inspect: Function that reads a video and returns its facts.
        journal: Receives every finding.
        known: Findings of an interrupted check, by key.
        arguments: Arguments of the job.
    """

    def __init__(
        self, inspect: Callable[[Entry], Any], journal: Journal, known: Mapping[str, Any], arguments: argparse.Namespace
    ):
        self._inspect, self._journal, self._known, self._arguments = inspect, journal, known, arguments
        self._facts: dict[str, VideoFacts] = {}
        self._unreadable: dict[str, str] = {}

    def look(self, split: str, entries: Sequence[Entry]) -> tuple[dict[str, VideoFacts], dict[str, str]]:
        """Return the facts of readable videos, and the reasons why the others can't be read, in the order of the entries."""
        self._facts, self._unreadable = {}, {}
        keys = dict(zip((entry.name for entry in entries), keys_of(facts_of_all(entries)), strict=True))
        known = [entry for entry in entries if keys[entry.name] in self._known]
        rest = [entry for entry in entries if keys[entry.name] not in self._known]
        if known:
            print(f"{len(known):,} of {len(entries):,} videos were already checked.", file=sys.stderr)
        with Progress(len(entries), split, initial=len(known), remark=self._remark, say=_say) as progress:
            for entry in known:
                self._take(split, entry.name, self._known[keys[entry.name]])
            for entry, found in map_in_processes(self._inspect, rest, num_workers=self._arguments.num_workers):
                finding = getattr(found, "reason", str(found)) if isinstance(found, InputError) else list(found)
                self._journal.add(keys[entry.name], finding)
                self._take(split, entry.name, finding)
                progress.update()
        facts, unreadable = self._facts, self._unreadable
        names = [entry.name for entry in entries]
        return {name: facts[name] for name in names if name in facts}, {
            name: unreadable[name] for name in names if name in unreadable
        }

    def _take(self, split: str, name: str, finding: str | list[Any]) -> None:
        """Record a finding, which is a video's facts or the reason why it can't be read, and print any problem."""
        if isinstance(finding, str):
            self._unreadable[name] = finding
            self._tell(f"{split and split + ': '}can't be read: {printable(name)}: {printable(finding)}")
            return
        self._facts[name] = facts = VideoFacts(*finding)
        if facts.num_damaged:
            where = f"damaged in {facts.num_damaged} place(s), but usable"
            self._tell(f"{split and split + ': '}{where}: {printable(name)}")

    def _tell(self, line: str) -> None:
        from tqdm import tqdm

        tqdm.write(line, file=sys.stderr if self._arguments.json else sys.stdout)
        sys.stdout.flush()

    def _remark(self) -> str:
        return f"{len(self._unreadable)} unreadable so far"


def _is_finding(value: Any) -> bool:
    return isinstance(value, str) or (
        isinstance(value, list) and len(value) == len(VideoFacts._fields) and all(isinstance(n, int | float) for n in value)
    )


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


class _Found(NamedTuple):
    """Videos to check: those of a listing, or every video of a folder without lists."""

    listing: Listing | None
    """The listing; None without lists."""
    splits: Mapping[str, Sequence[Entry]]
    """Split -> videos."""
    missing: Mapping[str, Mapping[str, str]]
    """Split -> missing video -> reason."""
    notes: Sequence[str]
    """Lines about skipped files and duplicates."""


def _entries(arguments: argparse.Namespace) -> _Found:
    name, folder = arguments.dataset, arguments.folder
    for flag, datasets in FLAGS.items():
        if getattr(arguments, flag) is not None and name not in datasets:
            needed = " or ".join(f"--dataset={each}" for each in datasets)
            raise InputError(f"--{flag} is for {needed}, got {f'--dataset={name}' if name else 'no --dataset'}.")
    if name == "video_list":
        if arguments.train is None or arguments.val is None:
            raise InputError("--dataset=video_list needs two lists: --train=FILE.csv --val=FILE.csv.")
        return _of(LAYOUTS[name](arguments.train, arguments.val, root=folder))
    if folder is None or not folder.is_dir():
        raise InputError(
            f"There is no folder {folder}: give the one that holds the videos." if folder else "No FOLDER was given."
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
    """Count the readable videos of each label."""
    return Counter(label for entry in entries if entry.name not in unreadable for label in entry.labels)


def _as_json(report: Mapping[str, Any]) -> dict[str, Any]:
    videos = {split: {name: facts._asdict() for name, facts in found["videos"].items()} for split, found in report.items()}
    return {
        split: {"videos": videos[split], "unreadable": found["unreadable"], "labels": found["labels"]}
        for split, found in report.items()
    }


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
        for video, reason in list(found["absent"].items())[:EXAMPLES]:
            print(f"  can't be read: {printable(video)}: {printable(reason)}")
        if len(found["absent"]) > EXAMPLES:
            print(f"  and {len(found['absent']) - EXAMPLES:,} more listed videos that are missing; --json names all of them")
        if listing is not None:
            lacking = [label for label in listing.label_names if not found["labels"][label]]
            if lacking:
                more = f" and {len(lacking) - 10} more" if len(lacking) > 10 else ""
                print(f"  labels without a video: {printable(', '.join(lacking[:10]))}{more}")
    if listing is not None and name is not None and EXPECTED_CLASSES[name] not in (None, len(listing.label_names)):
        print(f"{len(listing.label_names)} labels; the complete data set has {EXPECTED_CLASSES[name]}.")
