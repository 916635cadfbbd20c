"""Batches for the device: random clips of a split for ever, or every video of a split once, as uint8 windows.

Which frames and which pixels is decided in NumPy, from (seed, epoch, example) alone. So the same example of the same epoch is
the same clip whatever the number of workers, hosts or restarts; and the order of an epoch is one permutation for all hosts.
"""

import functools
import itertools
import os
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from input_pipeline._tensorflow import tf
from input_pipeline.frames import DECODERS, cut_windows
from input_pipeline.video_dataset import VideoDataset
from timesformer_jax.errors import InputError
from timesformer_jax.video.clip_seeds import clip_generator, epoch_order, identity_of
from timesformer_jax.video.views import ClipOptions, EvalViews, Video, View, plan_windows

Batch = dict[str, np.ndarray]

MAX_DECODED_BYTES = 2**31
"""Upper limit for the windows of all videos that are decoded at once, unless one alone is larger."""

PREFETCHED_BATCHES = 2
"""Training batches that are ready ahead of the device."""

Part = tuple[int, int]
"""Which part of every global batch a host brings, and of how many."""


def _every_host() -> Part:
    return jax.process_index(), jax.process_count()


class _Share:
    """Which examples come one after the other on this host, part `index` of `count`: rows `index * rows` to `(index + 1) *
    rows` of each global batch."""

    def __init__(self, num_examples: int, seed: int, rows: int, first: int, part: Part):
        self._num_examples, self._seed, self._rows, self._first = num_examples, seed, rows, first
        self._index, self._count = part

    def __getitem__(self, number: int) -> tuple[int, int]:
        """(epoch, example) of this host's `number`th."""
        batch, row = divmod(number, self._rows)
        position = self._first + (batch * self._count + self._index) * self._rows + row
        epoch, place = divmod(position, self._num_examples)
        return epoch, int(epoch_order(self._seed, epoch, self._num_examples)[place])


def _decode(
    dataset: VideoDataset,
    split: str,
    examples: tf.data.Dataset,
    choose: Callable[[tuple[int, int], Video, int], list[View]],
    number_of: Callable[[int], tuple[int, int]],
    window: int,
    failed: list[InputError],
    parallel: int,
) -> tf.data.Dataset:
    """`examples`, numbers, each with the views that `choose((epoch, example), video, identity)` picks of example `number_of` =
    (epoch, example).

    One element a video: `video` uint8 `[views, T, window, window, 3]`, `rows` and `columns` float32 `[views, S]`, `label`,
    `name`, `identity`, `part`, which part of the video it is, and `seconds` float32 `[views]`, where each view begins in its
    video. `parallel`: how many videos are decoded at once. `failed` receives the errors of records that can't be read, which
    TensorFlow would only pass on as text.
    """
    records = dataset.records(split)
    needed, decoded = DECODERS[dataset.codec]

    def fetch(number: Any) -> tuple[Any, ...]:
        """Reads a video's encoded frames, and only plans what is to be done with them."""
        which = number_of(int(number))
        try:
            features = records[which[1]].features.feature
        except InputError as error:
            failed.append(error)
            raise
        stored = features["video"].bytes_list.value
        height, width = (int(features[name].int64_list.value[0]) for name in ("height", "width"))
        name = features["name"].bytes_list.value[0]
        part = features["part"].int64_list.value[0] if "part" in features else 0
        video = Video(len(stored), features["fps"].float_list.value[0], height, width)
        windows = plan_windows(choose(which, video, identity_of(name, part)), video, window)
        begins = np.array(windows.frames)[windows.which[:, 0]] / video.fps + part * dataset.part_seconds
        entries = needed(windows.frames)
        return (
            np.array([stored[entry] for entry in entries], object),
            np.array(entries, np.int64),
            np.array(windows.frames, np.int64),
            *windows[1:],
            dataset.encode_label(features),
            np.array(name, object),
            np.array(identity_of(name), np.int64),
            np.array(part, np.int64),
            begins.astype(np.float32),
        )

    label: Any = dataset.label_spec
    types = (tf.string, tf.int64, tf.int64, tf.int64, tf.int64, tf.int64, tf.float32, tf.float32)

    @tf.autograph.experimental.do_not_convert  # nothing to convert, and converting leaves a file behind if it is killed
    def cut(number: tf.Tensor) -> dict[str, tf.Tensor]:
        encoded, entries, frames, box, which, corners, rows, columns, target, name, identity, part, seconds = tf.numpy_function(
            fetch, [number], (*types, label.dtype, tf.string, tf.int64, tf.int64, tf.float32)
        )
        encoded, entries, frames = (tf.ensure_shape(tensor, [None]) for tensor in (encoded, entries, frames))
        which, corners = tf.ensure_shape(which, [None, None]), tf.ensure_shape(corners, [None, 2])
        pixels = tf.ensure_shape(decoded(encoded, entries, frames, tf.ensure_shape(box, [4])), [None, None, None, 3])
        return {
            "video": cut_windows(pixels, which, corners, window),
            "rows": tf.ensure_shape(rows, [None, None]),
            "columns": tf.ensure_shape(columns, [None, None]),
            "label": tf.ensure_shape(target, label.shape),
            "name": tf.ensure_shape(name, []),
            "identity": tf.ensure_shape(identity, []),
            "part": tf.ensure_shape(part, []),
            "seconds": tf.ensure_shape(seconds, [None]),
        }

    # With tf.data's own choice, an iterator that is dropped can wait a minute for the thread that makes it, and holds the GIL.
    # While the device is busy it also takes workers away that decode the next batch.
    fixed = tf.data.Options()
    fixed.autotune.enabled = False
    return examples.map(cut, num_parallel_calls=parallel).with_options(fixed)


def _parallel(clips: int, frames: int, window: int) -> int:
    """Number of videos to decode at once, each with `clips` windows of `frames` frames: one a core, if memory allows."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, MAX_DECODED_BYTES // (clips * frames * window**2 * 3)))


DAMAGE = (tf.errors.InvalidArgumentError, tf.errors.DataLossError)
"""What decoding damaged frames raises in TensorFlow; memory or descriptors that run out raise others."""


def _numpy(batches: Any, dataset: VideoDataset, failed: list[InputError]) -> Iterator[Batch]:
    """The batches; TensorFlow's pages about a record that can't be read or decoded become one sentence.

    `failed`: what `_decode` has put there.
    """
    iterator = batches.as_numpy_iterator()
    while True:
        try:
            batch = next(iterator, None)
        except tf.errors.OpError as error:
            if failed:
                raise failed[0] from None
            reason = str(error.message).partition("\n")[0].removeprefix("ValueError: ")
            folder = dataset.builder.data_path
            if not isinstance(error, DAMAGE):
                raise InputError(
                    f"The prepared data of {folder} can't be read ({reason}); they need not be damaged."
                ) from error
            raise InputError(
                f"The prepared data of {folder} can't be decoded ({reason}): delete that folder to prepare the data again."
            ) from error
        if batch is None:
            return
        yield batch


def check_clips_per_video(options: ClipOptions, batch_size: int) -> None:
    """Raises `InputError` where a host's batch can't consist of whole videos; needs no data, so it can be asked early."""
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
    part: Part | None = None,
) -> Iterator[Batch]:
    """Endless batches: `video` uint8 `[batch_size, T, R, R, 3]`, `rows` and `columns` float32 `[batch_size, S]`, `label`.

    `video` holds windows of the stored frames; the crop is made of them on the device (`timesformer_jax.video.crop_and_scale`).
    `batch_size` is this host's. `first_clip` starts in the middle: the number of clips that all hosts together have used
    before, so a restarted run goes on with the very next one, whatever the number of hosts. Batches run across the ends of
    epochs; no video is dropped. `part`: which part of how many this host brings, one each by default; hosts that hold parts of
    the same clips have the same.

    Raises `InputError` where `clips_per_video` doesn't divide the batch.
    """
    check_clips_per_video(options, batch_size)
    per_video = options.clips_per_video
    window = options.training_window(dataset.short_side)
    share = _Share(dataset.num_videos(split), seed, batch_size // per_video, first_clip // per_video, part or _every_host())

    def choose(which: tuple[int, int], video: Video, identity: int) -> list[View]:
        return options.training_views(clip_generator(seed, which[0], identity), video, window - 2)

    numbers = tf.data.Dataset.range(np.iinfo(np.int64).max)
    failed: list[InputError] = []
    parallel = _parallel(per_video, options.num_frames, window)
    videos = _decode(dataset, split, numbers, choose, share.__getitem__, window, failed, parallel)
    batches = videos.batch(batch_size // per_video, drop_remainder=True).prefetch(PREFETCHED_BATCHES)

    def flat(batch: Batch) -> Batch:
        """[videos, clips, ...] -> [videos * clips, ...]"""
        merged = {name: batch[name].reshape(batch_size, *batch[name].shape[2:]) for name in ("video", "rows", "columns")}
        return {**merged, "label": np.repeat(batch["label"], per_video, axis=0)}

    return map(flat, _numpy(batches, dataset, failed))


def eval_batches(
    dataset: VideoDataset,
    split: str,
    options: ClipOptions,
    *,
    batch_size: int,
    views: EvalViews,
    part: Part | None = None,
) -> "SplitBatches":
    """Every clip of every video of a split once: `video` uint8 `[batch_size, crops, T, R, R, 3]`, `rows` and `columns` float32
    `[batch_size, crops, S]`, `label`, `name`, `identity` (a number for the name), `clip` `[batch_size, 2]` (which part of the
    video, 0 where it isn't cut up, and which clip of that), `seconds` `[batch_size, crops]` (where the clip begins in its
    video) and `mask`.

    A video's clips are one after the other and cost one decoding. `batch_size` is this host's; the last batches are filled up
    with zeros whose `mask` is False, so that every host yields equally many. `part`: as in `training_batches`.
    """
    return SplitBatches(dataset, split, options, batch_size, views, part or _every_host())


class SplitBatches(Iterator[Batch]):
    """The batches of `eval_batches`; `len` is how many there are in all, and `skip` leaves the first ones out."""

    def __init__(
        self,
        dataset: VideoDataset,
        split: str,
        options: ClipOptions,
        batch_size: int,
        views: EvalViews,
        part: Part,
    ):
        self._dataset, self._split, self._options = dataset, split, options
        self._batch_size, self._views = batch_size, views
        self._host, self._hosts = part
        total = dataset.num_videos(split)
        counts = np.full(total, views.num_clips) if options.placement != "tiled" else _tiles(dataset, split, options)
        self._counts = counts[self._host :: self._hosts]
        """How many clips each of this host's videos has."""
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
        """Begins after the first `count` batches, and decodes nothing of them; to be called before the first one is taken."""
        assert self._batches is None, "the batches have begun"
        self._next = count
        return self

    def _from(self, first_batch: int) -> Iterator[Batch]:
        options, num_crops, total = self._options, self._views.num_crops, self._dataset.num_videos(self._split)
        window, size = options.eval_window(self._dataset.short_side, num_crops), options.crop_size
        ends = np.cumsum(self._counts)
        first_row = first_batch * self._batch_size
        first_video = int(np.searchsorted(ends, first_row, side="right"))  # of this host's
        # Of that video, the clips that were in the batches before.
        done = first_row - int(ends[first_video - 1] if first_video else 0) if first_video < len(ends) else 0
        first_example = self._host + first_video * self._hosts

        def choose(which: tuple[int, int], video: Video, identity: int) -> list[View]:
            views = options.eval_views(video, self._views)
            return views[done * num_crops :] if which[1] == first_example else views

        mine = tf.data.Dataset.range(first_example, max(total, first_example), self._hosts)
        parallel = _parallel(int(self._counts.max(initial=1)) * num_crops, options.num_frames, window)
        failed: list[InputError] = []
        decode = (self._dataset, self._split, mine, choose, lambda number: (0, number), window, failed, parallel)
        videos = _decode(*decode).prefetch(2 * parallel)
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
            before = done
            for video in _numpy(videos, self._dataset, failed):
                parts = {name: video[name].reshape(-1, *shape) for name, shape in shapes.items()}  # [clips, crops, ...]
                for clip in range(len(parts["video"])):
                    place = np.array([video["part"], before + clip], np.int32)
                    yield {**video, **{name: each[clip] for name, each in parts.items()}, "clip": place, "mask": np.True_}
                before = 0
            yield from itertools.repeat(nothing)

        rows = clips()
        for _ in range(first_batch, self._num_batches):
            batch = list(itertools.islice(rows, self._batch_size))
            yield {name: np.array([row[name] for row in batch]) for name in nothing if name != "name"} | {
                "name": np.array([row["name"] for row in batch], object)  # else NumPy would cut zeros off their ends
            }


@functools.lru_cache(maxsize=4)  # asked again for every part of a split
def _tiles(dataset: VideoDataset, split: str, options: ClipOptions) -> np.ndarray:
    """How many tiled clips each video has."""
    frames, rates = dataset.facts(split, "num_frames").tolist(), dataset.facts(split, "fps").tolist()

    @functools.cache  # most videos have one of few lengths
    def count(num_frames: int, fps: float) -> int:
        return len(options.eval_views(Video(num_frames, fps, 1, 1), EvalViews()))

    return np.array([count(*each) for each in zip(frames, rates, strict=True)])
