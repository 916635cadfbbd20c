"""Batches of uint8 windows for the device: endless random clips of a split, or every video of a split once.

Frames and crops are chosen in NumPy from (seed, epoch, example) alone. In a given epoch, an example therefore yields the same
clip regardless of the number of workers, hosts or restarts. The order of an epoch is one permutation that all hosts share.
"""

import functools
import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from input_pipeline._tensorflow import tf
from input_pipeline.video_dataset import VideoDataset
from input_pipeline.windows import Batch, as_numpy, clips_at_once, decode_windows, videos_at_once
from timesformer_jax.errors import InputError
from timesformer_jax.video.clip_seeds import clip_generator, epoch_order
from timesformer_jax.video.views import ClipOptions, EvalViews, Video, View

PREFETCHED_BATCHES = 2
"""Training batches to prepare ahead of the device."""

Shard = tuple[int, int]
"""(index, count): the shard of every global batch that a host provides."""


def _every_host() -> Shard:
    return jax.process_index(), jax.process_count()


class _Order:
    """This host's examples in order: rows `index * rows` up to `(index + 1) * rows` of each global batch."""

    def __init__(self, num_examples: int, seed: int, rows: int, first: int, shard: Shard):
        self._num_examples, self._seed, self._rows, self._first = num_examples, seed, rows, first
        self._index, self._count = shard

    def __getitem__(self, number: int) -> tuple[int, int]:
        """Return (epoch, example) of this host's example `number`."""
        batch, row = divmod(number, self._rows)
        position = self._first + (batch * self._count + self._index) * self._rows + row
        epoch, place = divmod(position, self._num_examples)
        return epoch, int(epoch_order(self._seed, epoch, self._num_examples)[place])


def check_clips_per_video(options: ClipOptions, batch_size: int) -> None:
    """Raise `InputError` if a host's batch can't hold whole videos; needs no data, so it can run early."""
    if batch_size % options.clips_per_video:
        raise InputError(
            f"clips.clips_per_video={options.clips_per_video} doesn't divide the {batch_size} clips of a host's batch."
        )


def training_batches(
    dataset: VideoDataset,
    split: str,
    options: ClipOptions,
    *,
    batch_size: int,
    seed: int,
    first_clip: int = 0,
    shard: Shard | None = None,
) -> Iterator[Batch]:
    """Yield endless training batches of random clips.

    Batches continue across the ends of epochs, and no video is dropped.

    Args:
        dataset: Prepared data set.
        split: Name of the split.
        options: Sampling and cropping of the clips.
        batch_size: Clips per batch on this host.
        seed: Seed of the clips and of the order of epochs.
        first_clip: Number of clips that all hosts together have already used. A restarted run resumes with the next one,
            whatever the number of hosts.
        shard: This host's (index, count); one shard per host by default. Hosts that hold shards of the same clips pass the
            same value.

    Yields:
        Dicts with `video` uint8 `[batch_size, T, R, R, 3]`, windows of the stored frames, from which the device crops the clips
        (`timesformer_jax.video.crop_and_scale`); `rows` and `columns` float32 `[batch_size, S]`; and `label`.

    Raises:
        InputError: If `clips_per_video` doesn't divide the batch.
    """
    check_clips_per_video(options, batch_size)
    per_video = options.clips_per_video
    window = options.training_window(dataset.short_side)
    order = _Order(dataset.num_videos(split), seed, batch_size // per_video, first_clip // per_video, shard or _every_host())

    def choose(which: tuple[int, int], video: Video, identity: int) -> list[View]:
        return options.training_views(clip_generator(seed, which[0], identity), video, window - 2)

    numbers = tf.data.Dataset.range(np.iinfo(np.int64).max)
    failed: list[InputError] = []
    parallel = videos_at_once(per_video, options.num_frames, window)
    videos = decode_windows(dataset, split, numbers, choose, order.__getitem__, window, failed, parallel)
    batches = videos.batch(batch_size // per_video, drop_remainder=True).prefetch(PREFETCHED_BATCHES)

    def flat(batch: Batch) -> Batch:
        """[videos, clips, ...] -> [videos * clips, ...]"""
        merged = {name: batch[name].reshape(batch_size, *batch[name].shape[2:]) for name in ("video", "rows", "columns")}
        return {**merged, "label": np.repeat(batch["label"], per_video, axis=0)}

    return map(flat, as_numpy(batches, dataset, failed))


def eval_batches(
    dataset: VideoDataset,
    split: str,
    options: ClipOptions,
    *,
    batch_size: int,
    views: EvalViews,
    shard: Shard | None = None,
) -> "SplitBatches":
    """Return batches that hold every clip of every video of a split exactly once.

    Each batch is a dict with

    * `video`: uint8 `[batch_size, crops, T, R, R, 3]`, windows of the stored frames;
    * `rows`, `columns`: float32 `[batch_size, crops, S]`, positions of the crops' pixels in the windows;
    * `label`, `name` and `identity` (a hash of the name);
    * `clip`: int32 `[batch_size, 2]`, the segment of the video (0 if it isn't split) and the clip within the segment;
    * `seconds`: float32 `[batch_size, crops]`, the time at which the clip begins in its video;
    * `mask`: bool `[batch_size]`, False for padding.

    The clips of a video are consecutive, and the video is decoded once, a long one in pieces. The last batches are padded with
    zeros, so that every host yields the same number of batches.

    Args:
        dataset: Prepared data set.
        split: Name of the split.
        options: Sampling and cropping of the clips.
        batch_size: Clips per batch on this host.
        views: Views of each video.
        shard: This host's (index, count), as in `training_batches`.
    """
    return SplitBatches(dataset, split, options, batch_size, views, shard or _every_host())


class _Piece(NamedTuple):
    """Consecutive clips of a video that are decoded together."""

    example: int
    first: int
    """Number of the first clip within the video."""
    count: int


class SplitBatches(Iterator[Batch]):
    """Iterator over the batches of `eval_batches`; `len` is their total number, and `skip` drops the first ones."""

    def __init__(
        self,
        dataset: VideoDataset,
        split: str,
        options: ClipOptions,
        batch_size: int,
        views: EvalViews,
        shard: Shard,
    ):
        self._dataset, self._split, self._options = dataset, split, options
        self._batch_size, self._views = batch_size, views
        self._host, self._hosts = shard
        total = dataset.num_videos(split)
        counts = np.full(total, views.num_clips) if options.placement != "tiled" else _tiles(dataset, split, options)
        self._counts = counts[self._host :: self._hosts]
        """Number of clips of each of this host's videos."""
        most = max(int(counts[first :: self._hosts].sum()) for first in range(self._hosts))
        self._num_batches = -(-most // batch_size)
        self._next = 0
        self._batches: Iterator[Batch] | None = None

    def __len__(self) -> int:
        return self._num_batches

    def __next__(self) -> Batch:
        if self._batches is None:
            self._batches = self._from(self._next)
        return next(self._batches)

    def skip(self, count: int) -> "SplitBatches":
        """Skip the first `count` batches without decoding them; must be called before iteration begins."""
        assert self._batches is None, "iteration has begun"
        self._next = count
        return self

    def _from(self, first_batch: int) -> Iterator[Batch]:
        options, num_crops = self._options, self._views.num_crops
        window, size = options.eval_window(self._dataset.short_side, num_crops), options.eval_crop
        pieces = self._pieces(first_batch * self._batch_size, clips_at_once(num_crops, options.num_frames, window))

        def choose(which: tuple[int, int], video: Video, identity: int) -> list[View]:
            _, first, count = pieces[which[0]]
            return options.eval_views(video, self._views)[first * num_crops : (first + count) * num_crops]

        parallel = videos_at_once(max((each.count for each in pieces), default=1) * num_crops, options.num_frames, window)
        failed: list[InputError] = []
        numbers = tf.data.Dataset.range(len(pieces))
        decode = (self._dataset, self._split, numbers, choose, lambda i: (i, pieces[i].example), window, failed, parallel)
        videos = decode_windows(*decode).prefetch(2 * parallel)
        shapes = {
            "video": (num_crops, options.num_frames, window, window, 3),
            "rows": (num_crops, size),
            "columns": (num_crops, size),
            "seconds": (num_crops,),
        }
        label: Any = self._dataset.label_spec
        nothing = {
            "video": np.zeros(shapes["video"], np.uint8),
            "rows": np.zeros(shapes["rows"], np.float32),
            "columns": np.zeros(shapes["columns"], np.float32),
            "seconds": np.zeros(shapes["seconds"], np.float32),
            "label": np.zeros(label.shape.as_list(), label.dtype.as_numpy_dtype),
            "name": b"",
            "identity": np.int64(0),
            "clip": np.zeros(2, np.int32),
            "mask": np.False_,
        }

        def clips() -> Iterator[dict[str, Any]]:
            for piece, video in zip(pieces, as_numpy(videos, self._dataset, failed), strict=False):
                parts = {name: video[name].reshape(-1, *shape) for name, shape in shapes.items()}  # [clips, crops, ...]
                for clip in range(len(parts["video"])):
                    place = np.array([video["part"], piece.first + clip], np.int32)
                    yield {**video, **{name: each[clip] for name, each in parts.items()}, "clip": place, "mask": np.True_}
            yield from itertools.repeat(nothing)

        rows = clips()
        for _ in range(first_batch, self._num_batches):
            batch = list(itertools.islice(rows, self._batch_size))
            yield {name: np.array([row[name] for row in batch]) for name in nothing if name != "name"} | {
                "name": np.array([row["name"] for row in batch], object)  # NumPy's bytes type would strip trailing zeros
            }

    def _pieces(self, skipped: int, at_once: int) -> list[_Piece]:
        """Cut this host's clips, but for the first `skipped` ones, into pieces of at most `at_once` clips of a video."""
        pieces, before = [], 0
        for number, count in enumerate(self._counts.tolist()):
            for first in range(max(skipped - before, 0), count, at_once):
                pieces.append(_Piece(self._host + number * self._hosts, first, min(at_once, count - first)))
            before += count
        return pieces


@functools.lru_cache(maxsize=4)  # called for every shard of a split
def _tiles(dataset: VideoDataset, split: str, options: ClipOptions) -> np.ndarray:
    """Return the number of tiled clips of each video."""
    frames, rates = dataset.facts(split, "num_frames").tolist(), dataset.facts(split, "fps").tolist()

    @functools.cache  # most videos share one of a few lengths
    def count(num_frames: int, fps: float) -> int:
        return len(options.eval_views(Video(num_frames, fps, 1, 1), EvalViews()))

    return np.array([count(*each) for each in zip(frames, rates, strict=True)])
