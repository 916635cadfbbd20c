"""Cropping, scaling and normalization of pixels for the model."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from flax.typing import Dtype

from timesformer_jax._typing import Array, Float, UInt8, ndarray

OFFICIAL_MEAN = (0.45, 0.45, 0.45)
"""Per-channel mean of every official checkpoint, for pixels in [0, 1]."""
OFFICIAL_STD = (0.225, 0.225, 0.225)
"""Per-channel standard deviation of every official checkpoint, for pixels in [0, 1]."""


def normalize(
    video: UInt8[Array | ndarray, "*batch C"], mean: tuple[float, ...], std: tuple[float, ...], dtype: Dtype = jnp.float32
) -> Float[Array, "*batch C"]:
    """Compute (video / 255 - mean) / std per channel from uint8, on the device.

    The official code normalizes, then resizes. Resizing first is equivalent up to rounding, since the weights of a bilinear
    average sum to 1. Source: official `datasets/utils.py`, `tensor_normalize`.

    Args:
        video: Pixels, uint8.
        mean: Mean of each channel, for pixels in [0, 1].
        std: Standard deviation of each channel, for pixels in [0, 1].
        dtype: Data type of the result.
    """
    return standardize(jnp.asarray(video, jnp.float32) / 255.0, mean, std).astype(dtype)


def denormalize(
    video: Float[Array | ndarray, "*batch C"], mean: Sequence[float], std: Sequence[float], channel_order: str = "rgb"
) -> UInt8[ndarray, "*batch C"]:
    """Invert `normalize` on the host and return RGB frames for drawing.

    Args:
        video: Normalized pixels.
        mean: Mean of each channel, for pixels in [0, 1].
        std: Standard deviation of each channel, for pixels in [0, 1].
        channel_order: Channel order of `video`, "rgb" or "bgr".
    """
    pixels = np.asarray(video, np.float32) * np.asarray(std, np.float32) + np.asarray(mean, np.float32)
    pixels = pixels[..., ::-1] if channel_order == "bgr" else pixels
    return np.rint(255 * pixels.clip(0, 1)).astype(np.uint8)


def crop_and_scale(
    windows: UInt8[Array | ndarray, "B T H W C"], rows: Float[Array | ndarray, "B R"], columns: Float[Array | ndarray, "B S"]
) -> Float[Array, "B T R S C"]:
    """Crop and scale windows by bilinear interpolation at the pixel positions `rows` x `columns`; the result is in [0, 1].

    Positions are in pixels of the window, as returned by `sample_positions`. The interpolation is two matrix products, which
    suit accelerators, in full float32, since bfloat16 products would lose two bits of each pixel.
    """

    def weights(positions: Array | ndarray, length: int) -> Array:
        distances = jnp.asarray(positions)[:, :, None] - jnp.arange(length, dtype=jnp.float32)[None, None]
        return jnp.maximum(1 - jnp.abs(distances), 0)

    pixels = jnp.asarray(windows, jnp.float32) / 255.0
    pixels = jnp.einsum("brh,bthwc->btrwc", weights(rows, pixels.shape[2]), pixels, precision="highest")
    return jnp.einsum("bsw,btrwc->btrsc", weights(columns, pixels.shape[3]), pixels, precision="highest")


def crop_on_host(
    windows: UInt8[ndarray, "B T H W C"], rows: Float[ndarray, "B R"], columns: Float[ndarray, "B S"]
) -> UInt8[ndarray, "B T R S C"]:
    """NumPy version of `crop_and_scale`, rounded to uint8."""

    def interpolate(pixels: np.ndarray, positions: np.ndarray, axis: int) -> np.ndarray:
        before = np.floor(positions).astype(np.int64)
        after = np.minimum(before + 1, pixels.shape[axis] - 1)
        share = (positions - before).astype(np.float32).reshape(-1, *[1] * (pixels.ndim - 1 - axis))
        first = pixels.take(before, axis).astype(np.float32)
        return first + (pixels.take(after, axis) - first) * share

    clips = [interpolate(interpolate(*each[:2], 1), each[2], 2) for each in zip(windows, rows, columns, strict=True)]
    return np.rint(np.stack(clips)).astype(np.uint8)


def standardize(video: Float[Array, "*batch C"], mean: tuple[float, ...], std: tuple[float, ...]) -> Float[Array, "*batch C"]:
    """Compute (video - mean) / std per channel from pixels in [0, 1]."""
    shape = (1,) * (video.ndim - 1) + (-1,)
    offset, scale = (jnp.asarray(values, jnp.float32).reshape(shape) for values in (mean, std))
    return (video - offset) / scale
