"""From pixels to tokens: patches, the two position embeddings, and their resizing to another input size (equation 1)."""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.typing import Dtype

from timesformer_jax._typing import Array, Float
from timesformer_jax.modeling.initialization import torch_convolution_bias, torch_convolution_kernel


class PatchEmbed(nn.Module):
    """Cuts every frame into patches and maps each to a token: `[B, T, H, W, C] -> [B, T, H/P, W/P, D]`.

    The kernel is a convolution's `[P, P, C, D]`, whose stride is its size; as a matrix product it needs no convolution.
    """

    patch_size: int
    embed_dim: int
    dtype: Dtype

    @nn.compact
    def __call__(self, video: Float[Array, "B T H W C"]) -> Float[Array, "B T h w D"]:
        batch, num_frames, height, width, channels = video.shape
        size = self.patch_size
        patches = video.reshape(batch, num_frames, height // size, size, width // size, size, channels)
        patches = patches.swapaxes(3, 4)  # [B, T, h, P, w, P, C] -> [B, T, h, w, P, P, C]
        return nn.DenseGeneral(
            self.embed_dim,
            axis=(-3, -2, -1),
            kernel_init=torch_convolution_kernel,
            bias_init=torch_convolution_bias(fan_in=size * size * channels),
            dtype=self.dtype,
            name="proj",
        )(patches)


def nearest_indices(source: int, target: int) -> np.ndarray:
    """Which of `source` entries PyTorch's `interpolate(mode="nearest")` puts at each of `target` places.

    floor(i * source / target) in float32, as PyTorch computes it. `jax.image.resize` rounds half-pixel centres instead and
    picks others wherever the ratio isn't whole: 8 -> 4 must give 0, 2, 4, 6.
    """
    scale = np.float32(source) / np.float32(target)
    indices = np.floor(np.arange(target, dtype=np.float32) * scale).astype(np.int32)
    return np.minimum(indices, source - 1)


def _nearest(source: int, target: int) -> np.ndarray:
    return np.eye(source)[nearest_indices(source, target)]


def _linear(source: int, target: int) -> np.ndarray:
    return _interpolate(source, target, lambda x: np.maximum(1 - x, 0), reach=1)


def _cubic(source: int, target: int, a: float = -0.75) -> np.ndarray:
    """Keys' kernel with PyTorch's a."""

    def kernel(x: np.ndarray) -> np.ndarray:
        near = (a + 2) * x**3 - (a + 3) * x**2 + 1
        far = a * (x**3 - 5 * x**2 + 8 * x - 4)
        return np.where(x <= 1, near, np.where(x < 2, far, 0))

    return _interpolate(source, target, kernel, reach=2)


def _interpolate(source: int, target: int, kernel: Callable[[np.ndarray], np.ndarray], *, reach: int) -> np.ndarray:
    """Half-pixel centres, no antialiasing, the border repeated: PyTorch's `interpolate(align_corners=False)`.

    `jax.image.resize` antialiases and, at the border, leaves entries out and rescales the others instead.
    """
    centres = (np.arange(target) + 0.5) * source / target - 0.5
    weights = np.zeros((target, source))
    for offset in range(1 - reach, reach + 1):
        neighbours = np.floor(centres).astype(int) + offset
        # Added up, because several neighbours beyond the border are the same border entry.
        np.add.at(weights, (np.arange(target), neighbours.clip(0, source - 1)), kernel(np.abs(centres - neighbours)))
    return weights


Weights = Callable[[int, int], np.ndarray]

RESIZES: dict[str, tuple[Weights, Weights]] = {
    "nearest": (_nearest, _nearest),
    "linear": (_linear, _linear),
    "bicubic": (_linear, _cubic),
}
"""`resize` -> how to resize in time and in space: (old length, new length) -> weights `[new, old]`. "nearest" is official."""


def resize_position_embedding(
    embedding: Float[Array, "1 tokens D"], grid: tuple[int, int], new_grid: tuple[int, int], resize: str = "nearest"
) -> Float[Array, "1 new_tokens D"]:
    """The space embedding `[1, 1 + h w, D]` for another patch grid, by a way of `RESIZES`; the CLS entry is kept.

    The official code resizes only where the *number* of patches differs and assumes a square grid, so a 2 x 8 grid would
    silently use a 4 x 4 grid's layout; here the grid itself decides. Source: official `models/vit.py`, `forward_features`.
    """
    if grid == new_grid:
        return embedding
    _, in_space = RESIZES[resize]
    rows, columns = (in_space(old, new).astype(np.float32) for old, new in zip(grid, new_grid, strict=True))
    patches = embedding[:, 1:].reshape(1, *grid, -1)
    # In full precision: with "nearest" the entries are copied as they are.
    resized = jnp.einsum("yh,xw,bhwd->byxd", rows, columns, patches, precision="highest")
    return jnp.concatenate([embedding[:, :1], resized.reshape(1, -1, embedding.shape[-1])], axis=1)


def resize_time_embedding(
    embedding: Float[Array, "1 T D"], num_frames: int, resize: str = "nearest"
) -> Float[Array, "1 new_T D"]:
    """The time embedding `[1, T, D]` for another number of frames, by a way of `RESIZES`."""
    if embedding.shape[1] == num_frames:
        return embedding
    in_time, _ = RESIZES[resize]
    frames = in_time(embedding.shape[1], num_frames).astype(np.float32)
    return jnp.einsum("st,btd->bsd", frames, embedding, precision="highest")
