"""Extract features of videos to a folder.

timesformer features FOLDER --checkpoint=timesformer-base-k400 --output=features
timesformer features FOLDER --checkpoint=runs/mine --output=features --kind=frames --label-by-folder
timesformer features film.mp4 --checkpoint=runs/mine --output=features --placement=tiled --num-crops=1

`timesformer embed` plots the features, and `timesformer_jax.features.read_features` reads them in Python. The folder holds
`features.json`, which describes the weights, the model and the videos, and shards of whole videos. If the job is interrupted,
run the same command again to resume after the last complete shard.

There is one row per view, which is a crop of a clip, with the name of the video (its path as given), the number of the clip and
the second at which the clip starts. With --placement=tiled, adjacent clips cover each video, however long. The weights don't
need a classifier; `num_classes` in `features.json` is then 0.
"""

import argparse
import functools
import hashlib
import itertools
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from timesformer_jax.cnn3d import ConvNet
from timesformer_jax.devices import print_devices
from timesformer_jax.errors import InputError
from timesformer_jax.features import (
    DTYPES,
    KINDS,
    LOCK,
    TILED_CLIPS,
    FeatureWriter,
    ShardRows,
    check_options,
    count_shards,
    describe_features,
    extract,
)
from timesformer_jax.jobs.convert import add_load_arguments, load_options
from timesformer_jax.jobs.videos import (
    add_view_arguments,
    check_at_least_1,
    find_files,
    limits_of,
    place_clips,
    prepared,
)
from timesformer_jax.modeling import TimeSformer
from timesformer_jax.preemption import watch_preemption
from timesformer_jax.pretrained import Pretrained, load
from timesformer_jax.printable import as_utf8, printable
from timesformer_jax.progress import Progress
from timesformer_jax.run_lock import locks_released, take_lock
from timesformer_jax.video import VIDEO_SUFFIXES, Clip


class _Clip(NamedTuple):
    """A clip with all its crops, ready for the model."""

    name: str
    """Name of the video."""
    label: int | None
    """Index of the video's label; None without labels."""
    clip: Clip
    """The clip."""


def add_arguments(job: argparse.ArgumentParser) -> None:
    """Add the job's arguments."""
    add_view_arguments(job)
    job.add_argument("--output", required=True, metavar="FOLDER", help="folder to write")
    job.add_argument("--kind", choices=list(KINDS), default="cls", help="one vector per clip, frame or patch")
    job.add_argument("--dtype", choices=DTYPES, default="float32", help="dtype of the features on disk")
    job.add_argument("--label-by-folder", action="store_true", help="label each video with the name of its folder")
    job.add_argument("--batch-size", type=int, default=12, help="number of views per batch")
    job.add_argument(
        "--videos-per-shard", type=int, metavar="N", help="number of videos per shard (default: enough for about 256 MiB)"
    )
    add_load_arguments(job, former="--checkpoint-kind")


@locks_released()
def run(arguments: argparse.Namespace) -> int:
    """Extract the features. Unreadable videos are reported on stderr, and make the exit code 1."""
    check_at_least_1(arguments, "num_clips", "batch_size", "videos_per_shard")
    check_options(arguments.kind, arguments.dtype, arguments.videos_per_shard)
    limits_of(arguments)
    paths = list(dict.fromkeys(find_files(arguments.videos)))
    for path in paths:
        if path.is_dir():
            raise InputError(f"There is no video in the folder {path} ({', '.join(sorted(VIDEO_SUFFIXES))}).")
    print_devices()
    pretrained = place_clips(load(arguments.checkpoint, headless=True, **load_options(arguments)), arguments.placement)
    if isinstance(pretrained.model, ConvNet):
        raise InputError(
            f"{arguments.checkpoint} is a {type(pretrained.model).__name__}, which has no CLS, frames or patches to extract: "
            'model.apply(variables, video, method="features") returns its feature maps.'
        )
    for note in pretrained.report.notes if pretrained.report else []:
        print(f"Note: {printable(note)}.", file=sys.stderr)
    labels = sorted({_folder(path) for path in paths}) if arguments.label_by_folder else None
    writer = _open(arguments, pretrained, paths, labels)
    writer.begin()
    take_lock(writer.folder / LOCK, f"extracts features to {writer.folder}")
    shards = np.array_split(np.array(paths, object), writer.num_shards)
    missing = writer.missing()
    left = sum(len(shards[shard]) for shard in missing)
    if left < len(paths):
        print(f"{len(paths) - left} of {len(paths)} video(s) were already extracted.", file=sys.stderr)
    compute = functools.partial(_compute, pretrained.model, arguments.kind, pretrained.variables["params"])
    progress = Progress(left, quiet=left < 2, say=lambda line: print(line, file=sys.stderr, flush=True))
    with progress, watch_preemption("the current shard") as stops:
        for shard in missing:
            if stops():
                raise stops.preempted(f"{writer.num_shards - len(writer.missing())} of {writer.num_shards} shards are written")
            rows = ShardRows(arguments.dtype)
            clips = _clips(pretrained, shards[shard].tolist(), labels, arguments, rows, progress)
            size = max(arguments.batch_size // arguments.num_crops, 1)
            while group := list(itertools.islice(clips, size)):
                for (name, label, clip), values in zip(group, compute(group, size), strict=False):
                    if not clip.number:
                        rows.drop_video(name)  # decoding starts over after an error
                    if name not in rows.unreadable:
                        rows.add_clip(name, values, seconds=clip.seconds, label=label)
            writer.write(shard, rows)
    about = writer.finish()
    print(f"{about['num_rows']} rows of {about['num_videos']} video(s) are in {printable(arguments.output)}.")
    if about["unreadable"]:
        print(f"{len(about['unreadable'])} of {len(paths)} video(s) could not be read.", file=sys.stderr)
    return 1 if about["unreadable"] else 0


def _open(
    arguments: argparse.Namespace, pretrained: Pretrained, paths: Sequence[Path], labels: list[str] | None
) -> FeatureWriter:
    views = {"num_clips": arguments.num_clips, "num_crops": arguments.num_crops}
    files = hashlib.blake2b(digest_size=8)
    for path in paths:
        files.update(f"{as_utf8(path)} {path.stat().st_size if path.exists() else None}\n".encode())
    description = describe_features(
        pretrained.model,
        pretrained.params,
        kind=arguments.kind,
        dtype=arguments.dtype,
        source=arguments.checkpoint,
        step=None,
        preprocess=pretrained.preprocess,
        **views,
        label_names=labels,
        videos={"listed": len(paths), "digest": files.hexdigest()},
    )
    clips = TILED_CLIPS if pretrained.preprocess.placement == "tiled" else arguments.num_clips
    num_shards = count_shards(
        len(paths),
        pretrained.model,
        kind=arguments.kind,
        dtype=arguments.dtype,
        rows_per_video=clips * arguments.num_crops,
        videos_per_shard=arguments.videos_per_shard,
    )
    return FeatureWriter(arguments.output, description, num_shards=num_shards)


def _folder(path: Path) -> str:
    return as_utf8(path.absolute().parent.name)


def _clips(
    pretrained: Pretrained,
    paths: list[Path],
    labels: list[str] | None,
    arguments: argparse.Namespace,
    rows: ShardRows,
    progress: Progress,
) -> Iterator[_Clip]:
    """Yield every clip of the videos.

    Args:
        pretrained: The model, for its preprocessing.
        paths: Video files.
        labels: Names of the labels; None without labels.
        arguments: Arguments of the job.
        rows: Receives the reasons why videos can't be read.
        progress: Updated after every video.
    """
    views_of = {"num_clips": arguments.num_clips, "num_crops": arguments.num_crops, "limits": limits_of(arguments)}
    for path, clips in prepared(pretrained.preprocess, paths, **views_of):
        name = as_utf8(path)
        label = None if labels is None else labels.index(_folder(path))
        try:
            for clip in clips:
                yield _Clip(name, label, clip)
        except InputError as error:
            rows.drop_video(name)
            rows.unreadable[name] = getattr(error, "reason", str(error))
            progress.bar.write(f"Error: {error}", file=sys.stderr)
        progress.update()


@functools.partial(jax.jit, static_argnums=(0, 1))
def _extract(model: TimeSformer, kind: str, params: Any, video: jax.Array) -> jax.Array:
    return extract(model, params, video, kind).astype(jax.numpy.float32)


def _compute(model: TimeSformer, kind: str, params: Any, group: list[_Clip], size: int) -> np.ndarray:
    """Compute the features of clips, `[size, crops, ...]`.

    Args:
        model: The model.
        kind: Kind of the features, a key of `KINDS`.
        params: Parameters of the model.
        group: The clips, at most `size`.
        size: Number of clips to compute. Missing ones are padded with zeros, to avoid another compilation.
    """
    crops, *shape = group[0].clip.views.shape
    video = np.zeros((size * crops, *shape), np.float32)
    video[: len(group) * crops] = np.concatenate([each.clip.views for each in group])
    found = np.asarray(_extract(model, kind, params, video))
    return found.reshape(size, crops, *found.shape[1:])
