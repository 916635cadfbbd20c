"""Stored frames -> uint8 windows: only the frames and the part of the picture that were asked for."""

from collections.abc import Callable
from typing import Any

import numpy as np

from input_pipeline._tensorflow import tf
from timesformer_jax.datasets import KEY_FRAME_EVERY
from timesformer_jax.video.encoding import decode_h264, packets_needed


def _jpeg_frames(pictures: tf.Tensor, numbers: tf.Tensor, frames: tf.Tensor, box: tf.Tensor) -> tf.Tensor:
    """The pixels in `box` of JPEG pictures, decoded by TensorFlow; the rest of the picture isn't."""
    return tf.map_fn(
        lambda picture: tf.io.decode_and_crop_jpeg(picture, tf.cast(box, tf.int32), channels=3, dct_method="INTEGER_ACCURATE"),
        pictures,
        fn_output_signature=tf.TensorSpec((None, None, 3), tf.uint8),
    )


def _h264_frames(packets: tf.Tensor, numbers: tf.Tensor, frames: tf.Tensor, box: tf.Tensor) -> tf.Tensor:
    """The pixels in `box` of the frames that the packets hold, decoded by PyAV, which lets other threads run meanwhile."""

    def decode(packets: Any, numbers: Any, frames: Any, box: Any) -> np.ndarray:
        top, left, height, width = box.tolist()
        decoded = decode_h264(packets.tolist(), numbers.tolist(), frames.tolist())
        return np.stack([frame[top : top + height, left : left + width] for frame in decoded])

    return tf.numpy_function(decode, (packets, numbers, frames, box), tf.uint8)


DECODERS: dict[str, tuple[Callable[[list[int]], list[int]], Callable[..., tf.Tensor]]] = {
    "jpeg": (lambda frames: frames, _jpeg_frames),
    "h264": (lambda frames: packets_needed(frames, KEY_FRAME_EVERY), _h264_frames),
}
"""Codec -> which entries of the stored list are needed for some frames (ascending, each once), and the function (entries,
their numbers, frames, box (top, left, height, width)) -> uint8 `[frames, height, width, 3]`."""


def cut_windows(frames: tf.Tensor, which: tf.Tensor, corners: tf.Tensor, size: int) -> tf.Tensor:
    """Windows uint8 `[views, T, size, size, 3]` out of frames `[frames, H, W, 3]`: view v takes the frames `which[v]` `[T]`,
    and `size` x `size` pixels from the corner `corners[v]` (top, left) on; zeros where the picture ends before."""

    def cut(view: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
        chosen, corner = view
        window = tf.gather(frames, chosen)[:, corner[0] : corner[0] + size, corner[1] : corner[1] + size]
        missing = [size - tf.shape(window)[1], size - tf.shape(window)[2]]
        padded = tf.cond(
            tf.reduce_any(tf.greater(missing, 0)),
            lambda: tf.pad(window, tf.convert_to_tensor([[0, 0], [0, missing[0]], [0, missing[1]], [0, 0]])),
            lambda: window,
        )
        return tf.ensure_shape(padded, (None, size, size, 3))

    return tf.map_fn(cut, (which, corners), fn_output_signature=tf.TensorSpec((None, size, size, 3), tf.uint8))
