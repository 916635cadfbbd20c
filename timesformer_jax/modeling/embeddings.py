"""From pixels to tokens: patches, the two position embeddings, and their resizing to another input size (equation 1)."""

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


def resize_position_embedding(
    embedding: Float[Array, "1 tokens D"], grid: tuple[int, int], new_grid: tuple[int, int]
) -> Float[Array, "1 new_tokens D"]:
    """The space embedding `[1, 1 + h w, D]` for another patch grid, by nearest neighbours in 2-D; the CLS entry is kept.

    The official code resizes only where the *number* of patches differs and assumes a square grid, so a 2 x 8 grid would
    silently use a 4 x 4 grid's layout; here the grid itself decides. Source: official `models/vit.py`, `forward_features`.
    """
    if grid == new_grid:
        return embedding
    rows, columns = (nearest_indices(old, new) for old, new in zip(grid, new_grid, strict=True))
    patch_index = rows[:, None] * grid[1] + columns[None, :]  # [h', w'] -> position in the old grid
    return embedding[:, np.concatenate([[0], 1 + patch_index.reshape(-1)])]


def resize_time_embedding(embedding: Float[Array, "1 T D"], num_frames: int) -> Float[Array, "1 new_T D"]:
    """The time embedding `[1, T, D]` for another number of frames, by nearest neighbours."""
    if embedding.shape[1] == num_frames:
        return embedding
    return embedding[:, nearest_indices(embedding.shape[1], num_frames)]
