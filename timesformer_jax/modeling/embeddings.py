"""Patch embedding, and position embeddings resized to other input sizes (equation 1)."""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.typing import Dtype

from timesformer_jax._typing import Array, Float, ndarray
from timesformer_jax.interpolation import cubic, linear, nearest
from timesformer_jax.modeling.initialization import torch_convolution_bias, torch_convolution_kernel


class PatchEmbed(nn.Module):
    """Linear embedding of non-overlapping patches: `[B, T, H, W, C] -> [B, T, H/P, W/P, D]`.

    The kernel has a convolution's shape, `[P, P, C, D]`. Since the stride equals the kernel size, the convolution is computed
    as a matrix product.

    Attributes:
        patch_size: Patch side P in pixels.
        embed_dim: Token width D.
        dtype: Dtype of the computation. Parameters are float32.
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


Weights = Callable[[int, int], np.ndarray]

RESIZES: dict[str, tuple[Weights, Weights]] = {
    "nearest": (nearest, nearest),
    "linear": (linear, linear),
    "bicubic": (linear, cubic),
}
"""Maps `resize` to its interpolations in time and in space: functions (old length, new length) -> weights `[new, old]`.

"nearest" is the official code's mode.
"""


def resize_position_embedding(
    embedding: Float[Array | ndarray, "1 tokens D"], grid: tuple[int, int], new_grid: tuple[int, int], resize: str = "nearest"
) -> Float[Array, "1 new_tokens D"]:
    """Resize a space embedding `[1, 1 + h w, D]` to another patch grid, leaving the CLS entry unchanged.

    The official code resizes only if the *number* of patches differs, and assumes a square grid, so a 2 x 8 grid would
    silently use the layout of a 4 x 4 grid. Here the grids themselves are compared.

    Source: official `models/vit.py`, `forward_features`.

    Args:
        embedding: The CLS entry, followed by the entries of the patches, row-major.
        grid: Rows and columns of the embedding.
        new_grid: Rows and columns of the result.
        resize: A key of `RESIZES`.

    Returns:
        The embedding of `new_grid`.
    """
    if grid == new_grid:
        return jnp.asarray(embedding)
    _, in_space = RESIZES[resize]
    rows, columns = (in_space(old, new).astype(np.float32) for old, new in zip(grid, new_grid, strict=True))
    patches = embedding[:, 1:].reshape(1, *grid, -1)
    # Full precision, so that "nearest" copies entries exactly.
    resized = jnp.einsum("yh,xw,bhwd->byxd", rows, columns, patches, precision="highest")
    return jnp.concatenate([embedding[:, :1], resized.reshape(1, -1, embedding.shape[-1])], axis=1)


def resize_time_embedding(
    embedding: Float[Array | ndarray, "1 T D"], num_frames: int, resize: str = "nearest"
) -> Float[Array, "1 new_T D"]:
    """Resize a time embedding `[1, T, D]` to another number of frames; `resize` is a key of `RESIZES`."""
    if embedding.shape[1] == num_frames:
        return jnp.asarray(embedding)
    in_time, _ = RESIZES[resize]
    frames = in_time(embedding.shape[1], num_frames).astype(np.float32)
    return jnp.einsum("st,btd->bsd", frames, embedding, precision="highest")
