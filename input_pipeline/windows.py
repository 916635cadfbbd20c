"""A data set's videos, decoded as uint8 windows that hold the planned views, by tf.data."""

import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from input_pipeline._tensorflow import tf
from input_pipeline.frames import DECODERS, cut_windows
from input_pipeline.video_dataset import VideoDataset
from timesformer_jax.errors import InputError
from timesformer_jax.video.clip_seeds import identity_of
from timesformer_jax.video.views import Video, View, plan_windows

Batch = dict[str, np.ndarray]

MAX_DECODED_BYTES = 2**31
"""Upper limit for the windows of all videos that are decoded at once, unless one alone is larger."""


def decode_windows(
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


def videos_at_once(clips: int, frames: int, window: int) -> int:
    """Number of videos to decode at once, each with `clips` windows of `frames` frames: one a core, if memory allows."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, MAX_DECODED_BYTES // (clips * frames * window**2 * 3)))


DAMAGE = (tf.errors.InvalidArgumentError, tf.errors.DataLossError)
"""What decoding damaged frames raises in TensorFlow; memory or descriptors that run out raise others."""


def as_numpy(batches: Any, dataset: VideoDataset, failed: list[InputError]) -> Iterator[Batch]:
    """The batches; TensorFlow's pages about a record that can't be read or decoded become one sentence.

    `failed`: what `decode_windows` has put there.
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
