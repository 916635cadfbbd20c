"""Evaluate a published checkpoint on Kinetics-400 by its published protocol, next to the published figure.

python benchmarks/published.py --k400=FOLDER --checkpoint=timesformer-base-k400 --videos=1000
python benchmarks/published.py --k400=FOLDER --checkpoint=timesformer-large-frames-k400 --file=DOWNLOADED.pyth

The protocol is that of the official code: three crops of one clip, whose logits are averaged. The videos are drawn at random
from the validation list, the same ones for every checkpoint.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

sys.path[0] = str(Path(__file__).parent.parent)  # replaces this file's folder, whose files hide packages

import timesformer_jax as tsf  # noqa: E402
from timesformer_jax.augment import PixelOptions, prepare_eval  # noqa: E402
from timesformer_jax.datasets import LAYOUTS, Listing  # noqa: E402
from timesformer_jax.errors import InputError  # noqa: E402
from timesformer_jax.evaluation import wilson_interval  # noqa: E402
from timesformer_jax.pretrained.zoo import ZOO  # noqa: E402
from timesformer_jax.video import ClipOptions, ClipSource, EvalViews, UnreadableVideoError  # noqa: E402

DATASET = "k400"
LAYOUT = "kinetics400"
NUM_CROPS = 3


class Found(NamedTuple):
    """Result of an evaluation.

    Attributes:
        hits: Whether the best score is the label's, per video.
        unreadable: Names of the videos of which no frame can be decoded.
    """

    hits: list[bool]
    unreadable: list[str]


def main(arguments: Sequence[str] | None = None) -> int:
    """Evaluate and print one table; return the exit code."""
    names = [name for name, published in ZOO.items() if published.dataset == DATASET]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--k400", type=Path, required=True, metavar="FOLDER", help="folder of Kinetics-400, see docs/data.md")
    parser.add_argument("--checkpoint", choices=names, required=True, help="name of the checkpoint")
    parser.add_argument("--file", type=Path, help="its weights, if they aren't on the Hugging Face Hub")
    parser.add_argument("--videos", type=int, default=1000, help="number of validation videos (default: 1000; 0: all)")
    given = parser.parse_args(arguments)
    try:
        print(table(given.checkpoint, *evaluate(given)))
    except InputError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    return 0


def evaluate(given: argparse.Namespace) -> Found:
    """Evaluate the checkpoint on the drawn videos.

    Raises:
        InputError: If the folder or the weights can't be used, or no video can be read.
    """
    listing = LAYOUTS[LAYOUT](given.k400)
    published = ZOO[given.checkpoint]
    pretrained = tsf.load(given.file or given.checkpoint, preprocess=published.preprocess)
    classes = class_numbers(listing, pretrained)
    entries = list(listing.splits["val"])
    if given.videos < 0:
        raise InputError(f"--videos must be at least 0, got {given.videos}.")
    drawn = np.random.default_rng(0).permutation(len(entries))[: given.videos or None]
    prepared = pretrained.preprocess
    options = ClipOptions(
        num_frames=prepared.num_frames,
        crop_size=prepared.crop_size,
        sampling=prepared.sampling,
        sampling_rate=prepared.sampling_rate,
        placement=prepared.placement,
        short_side=(prepared.short_side or prepared.crop_size,) * 2,
    )
    views = EvalViews(num_clips=1, num_crops=NUM_CROPS)
    source = ClipSource([entries[i] for i in drawn], options, views=views, label_names=listing.label_names)
    pixels = PixelOptions(flip="off", mean=tuple(prepared.mean), std=tuple(prepared.std), channel_order=prepared.channel_order)
    found = Found([], [])
    for number, entry in enumerate(source.entries):
        try:
            clip: dict[str, Any] = source[number]
        except UnreadableVideoError:
            found.unreadable.append(entry.name)
            continue
        logits = np.asarray(pretrained(prepare_eval(clip, options=pixels))).mean(axis=0)
        found.hits.append(int(logits.argmax()) == classes[int(clip["label"])])
    if not found.hits:
        raise InputError(f"None of the {len(drawn)} videos drawn from {given.k400} can be read.")
    return found


def class_numbers(listing: Listing, pretrained: tsf.Pretrained) -> list[int]:
    """Return the checkpoint's class of each label of the listing: by name, or by order if it has no names.

    Raises:
        InputError: If the labels don't correspond to the classes.
    """
    num_classes = pretrained.model.num_classes
    if pretrained.labels is None:
        if len(listing.label_names) == num_classes:
            return list(range(num_classes))
        raise InputError(
            f"The list has {len(listing.label_names)} labels, and the checkpoint {num_classes} classes without names: give the "
            "folder of the whole data set."
        )
    known = {name: number for number, name in enumerate(pretrained.labels)}
    if missing := [name for name in listing.label_names if name not in known]:
        raise InputError(f"The checkpoint has no class {missing[0]!r}, a label of the list.")
    return [known[name] for name in listing.label_names]


def table(name: str, hits: Sequence[bool], unreadable: Sequence[str]) -> str:
    """Format the published figure, ours and its 95 % interval."""
    top1, published = float(np.mean(hits)), ZOO[name].top1
    low, high = (100 * end for end in wilson_interval(top1, len(hits)))
    inside = "inside" if low <= published <= high else "outside"
    lines = [
        "| checkpoint | published top-1 | ours | 95 % interval | videos |",
        "| --- | --- | --- | --- | --- |",
        f"| {name} | {published:.1f} % | {100 * top1:.1f} % | {low:.1f} to {high:.1f} % | {len(hits)} |",
        "",
        f"The published figure is {inside} the interval.",
    ]
    if unreadable:
        lines.append(f"{len(unreadable)} more videos can't be read, {unreadable[0]} among them, and aren't counted.")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
