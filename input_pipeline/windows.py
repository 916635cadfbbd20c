"""Decoding of a data set's videos by tf.data, into uint8 windows that contain the planned views."""

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
"""Upper limit on the windows of all videos that are decoded at once, unless a single one is larger."""
PIECE_BYTES = 2**27
"""Upper limit on the windows of an evaluated video that are decoded together, unless those of a single clip are larger."""


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
    """Map a tf.data data set of numbers to decoded videos.

    Args:
        dataset: Prepared data set.
        split: Name of the split.
        examples: Data set of numbers, which `number_of` maps to examples.
        choose: Called with the result of `number_of`, the video's facts and its `identity_of`; returns the views to decode.
        number_of: Maps a number in `examples` to a number for `choose`, such as the epoch, and the example.
        window: Side of the windows in pixels.
        failed: List that receives the errors of unreadable records, of which TensorFlow would pass on only the text.
        parallel: Number of videos to decode at once.

    Returns:
        A data set with one element per video: `video` uint8 `[views, T, window, window, 3]`; `rows` and `columns` float32
        `[views, S]`; `label`, `name` and `identity`; `part`, the number of the segment within a long video; and `seconds`
        float32 `[views]`, the time at which each view begins in its video.
    """
    records = dataset.records(split)
    needed, decoded = DECODERS[dataset.codec]

    def fetch(number: Any) -> tuple[Any, ...]:
        """Read a video's encoded frames and plan their decoding."""
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

    @tf.autograph.experimental.do_not_convert  # nothing to convert, and a killed conversion leaves a file behind
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

    # With autotuning, dropping an iterator can wait a minute for the tuning thread while holding the GIL. While the device is
    # busy, autotuning also removes workers that would decode the next batch.
    fixed = tf.data.Options()
    fixed.autotune.enabled = False
    return examples.map(cut, num_parallel_calls=parallel).with_options(fixed)


def videos_at_once(clips: int, frames: int, window: int) -> int:
    """Number of videos, of `clips` windows of `frames` frames each, to decode at once: one per core, if memory allows."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, MAX_DECODED_BYTES // (clips * frames * window**2 * 3)))


def clips_at_once(crops: int, frames: int, window: int) -> int:
    """Number of an evaluated video's clips, of `crops` windows of `frames` frames each, to decode together."""
    return max(1, PIECE_BYTES // (crops * frames * window**2 * 3))


DAMAGE = (tf.errors.InvalidArgumentError, tf.errors.DataLossError)
"""TensorFlow's errors for damaged frames, as opposed to those for lack of memory or file descriptors."""


def decoding_error(dataset: VideoDataset, error: Any) -> InputError:
    """Return a short error in place of TensorFlow's long one."""
    reason = str(error.message).partition("\n")[0].removeprefix("ValueError: ")
    folder = dataset.builder.data_path
    if not isinstance(error, DAMAGE):
        return InputError(f"The prepared data of {folder} can't be read ({reason}), though they may not be damaged.")
    return InputError(
        f"The prepared data of {folder} can't be decoded ({reason}): delete that folder to prepare the data again."
    )


def as_numpy(batches: Any, dataset: VideoDataset, failed: list[InputError]) -> Iterator[Batch]:
    """Yield batches as NumPy arrays, with short errors in place of TensorFlow's long ones.

    Args:
        batches: A tf.data data set of batches.
        dataset: Prepared data set, which errors name.
        failed: Errors of unreadable records, as collected by `decode_windows`.

    Raises:
        InputError: If a record can't be read or decoded.
    """
    iterator = batches.as_numpy_iterator()
    while True:
        try:
            batch = next(iterator, None)
        except tf.errors.OpError as error:
            if failed:
                raise failed[0] from None
            raise decoding_error(dataset, error) from error
        if batch is None:
            return
        yield batch
