"""Decoding of stored frames into uint8 windows, limited to the requested frames and region."""

from collections.abc import Callable
from typing import Any

import numpy as np

from input_pipeline._tensorflow import tf
from timesformer_jax.datasets import KEY_FRAME_EVERY
from timesformer_jax.video.encoding import decode_h264, packets_needed


def _jpeg_frames(pictures: tf.Tensor, numbers: tf.Tensor, frames: tf.Tensor, box: tf.Tensor) -> tf.Tensor:
    """Decode only the pixels in `box` of JPEG images, with TensorFlow."""
    return tf.map_fn(
        lambda picture: tf.io.decode_and_crop_jpeg(picture, tf.cast(box, tf.int32), channels=3, dct_method="INTEGER_ACCURATE"),
        pictures,
        fn_output_signature=tf.TensorSpec((None, None, 3), tf.uint8),
    )


def _h264_frames(packets: tf.Tensor, numbers: tf.Tensor, frames: tf.Tensor, box: tf.Tensor) -> tf.Tensor:
    """Decode H.264 packets with PyAV, which releases the GIL, and return the pixels in `box` of the frames."""

    def decode(packets: Any, numbers: Any, frames: Any, box: Any) -> np.ndarray:
        top, left, height, width = box.tolist()
        decoded = decode_h264(packets.tolist(), numbers.tolist(), frames.tolist())
        return np.stack([frame[top : top + height, left : left + width] for frame in decoded])

    return tf.numpy_function(decode, (packets, numbers, frames, box), tf.uint8)


DECODERS: dict[str, tuple[Callable[[list[int]], list[int]], Callable[..., tf.Tensor]]] = {
    "jpeg": (lambda frames: frames, _jpeg_frames),
    "h264": (lambda frames: packets_needed(frames, KEY_FRAME_EVERY), _h264_frames),
}
"""Maps each codec to two functions.

The first returns the entries of the stored list that are needed for some frames (ascending, without duplicates). The second
decodes them: (entries, their numbers, frames, box (top, left, height, width)) to uint8 `[frames, height, width, 3]`.
"""


def cut_windows(frames: tf.Tensor, which: tf.Tensor, corners: tf.Tensor, size: int) -> tf.Tensor:
    """Cut windows uint8 `[views, T, size, size, 3]` out of frames, padded with zeros where a window extends past the frame.

    Args:
        frames: Frames uint8 `[frames, H, W, 3]`.
        which: Positions in `frames` of each view's frames, `[views, T]`.
        corners: (top, left) of each view's window, `[views, 2]`.
        size: Side of the windows in pixels.
    """

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
