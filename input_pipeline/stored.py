"""Whole frames of single videos, as they are stored; training and evaluation read only the windows of their crops."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from input_pipeline._tensorflow import tf
from input_pipeline.frames import DECODERS
from input_pipeline.video_dataset import VideoDataset
from input_pipeline.windows import decoding_error
from timesformer_jax._typing import UInt8, ndarray
from timesformer_jax.video.views import Video, View


class StoredFrames(NamedTuple):
    """Some frames of a stored video.

    Attributes:
        frames: The frames, RGB.
        area: (top, left, height, width) of the view's crop, as shares of the frame.
    """

    frames: UInt8[ndarray, "T H W 3"]
    area: tuple[float, float, float, float]


def read_frames(dataset: VideoDataset, split: str, number: int, choose: Callable[[Video], View]) -> StoredFrames:
    """Decode the whole frames of one view of a video.

    Args:
        dataset: Prepared data set.
        split: Name of the split.
        number: Index of the video in the split.
        choose: Returns the view for a video's facts.

    Raises:
        InputError: If the record can't be read or decoded.
    """
    features = dataset.records(split)[number].features.feature
    stored = features["video"].bytes_list.value
    height, width = (int(features[name].int64_list.value[0]) for name in ("height", "width"))
    view = choose(Video(len(stored), features["fps"].float_list.value[0], height, width))
    indices, which = np.unique(view.frames, return_inverse=True)
    needed, decoded = DECODERS[dataset.codec]
    entries = needed(indices.tolist())
    try:
        frames = decoded(
            tf.constant([stored[entry] for entry in entries]),
            tf.constant(entries, tf.int64),
            tf.constant(indices, tf.int64),
            tf.constant([0, 0, height, width], tf.int64),
        )
    except tf.errors.OpError as error:
        raise decoding_error(dataset, error) from error
    (top, tall), (left, wide) = _extent(view.rows, height), _extent(view.columns, width)
    return StoredFrames(np.asarray(frames)[which.reshape(-1)], (top, left, tall, wide))


def _extent(positions: np.ndarray, length: int) -> tuple[float, float]:
    """Begin and size, as shares of `length`, of a crop whose pixels' centres have these positions."""
    half = (positions[-1] - positions[0]) / max(len(positions) - 1, 1) / 2
    begin, end = (float(np.clip(end / length, 0, 1)) for end in (positions[0] + 0.5 - half, positions[-1] + 0.5 + half))
    return begin, end - begin
