"""Stored JPEG frames -> uint8 pixels, in TensorFlow: only the frames that were asked for are decoded."""

from input_pipeline._tensorflow import tf


def decode_frames(jpegs: tf.Tensor, indices: tf.Tensor) -> tf.Tensor:
    """RGB frames uint8 `[len(indices), H, W, 3]` of a video's JPEG frames."""
    return tf.map_fn(
        lambda jpeg: tf.io.decode_jpeg(jpeg, channels=3, dct_method="INTEGER_ACCURATE"),
        tf.gather(jpegs, indices),
        fn_output_signature=tf.TensorSpec((None, None, 3), tf.uint8),
    )


def resize_frames(frames: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    """Frames `[T, H, W, 3]` at `size` (height, width), float32: bilinear, half-pixel centres, not antialiased.

    Source: official `datasets/transform.py` (PyTorch's `interpolate`, `align_corners=False`).
    """
    return tf.image.resize(frames, tf.cast(size, tf.int32), method="bilinear", antialias=False)


def crop_frames(frames: tf.Tensor, offset: tf.Tensor, size: int) -> tf.Tensor:
    """The `size` x `size` crop at `offset` (top, left) of frames `[T, H, W, 3]`, rounded to uint8."""
    crop = frames[:, offset[0] : offset[0] + size, offset[1] : offset[1] + size]
    crop = tf.ensure_shape(crop, (None, size, size, 3))
    return crop if crop.dtype == tf.uint8 else tf.cast(tf.round(crop), tf.uint8)
