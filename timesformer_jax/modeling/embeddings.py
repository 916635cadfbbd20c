"""From pixels to tokens: patches, the two position embeddings, and their resizing to another input size (equation 1)."""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.typing import Dtype

from timesformer_jax._typing import Array, Float, ndarray
from timesformer_jax.interpolation import cubic, linear, nearest
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


Weights = Callable[[int, int], np.ndarray]

RESIZES: dict[str, tuple[Weights, Weights]] = {
    "nearest": (nearest, nearest),
    "linear": (linear, linear),
    "bicubic": (linear, cubic),
}
"""`resize` -> how to resize in time and in space: (old length, new length) -> weights `[new, old]`. "nearest" is official."""


def resize_position_embedding(
    embedding: Float[Array | ndarray, "1 tokens D"], grid: tuple[int, int], new_grid: tuple[int, int], resize: str = "nearest"
) -> Float[Array, "1 new_tokens D"]:
    """The space embedding `[1, 1 + h w, D]` for another patch grid, by a way of `RESIZES`; the CLS entry is kept.

    The official code resizes only where the *number* of patches differs and assumes a square grid, so a 2 x 8 grid would
    silently use a 4 x 4 grid's layout; here the grid itself decides. Source: official `models/vit.py`, `forward_features`.
    """
    if grid == new_grid:
        return jnp.asarray(embedding)
    _, in_space = RESIZES[resize]
    rows, columns = (in_space(old, new).astype(np.float32) for old, new in zip(grid, new_grid, strict=True))
    patches = embedding[:, 1:].reshape(1, *grid, -1)
    # In full precision: with "nearest" the entries are copied as they are.
    resized = jnp.einsum("yh,xw,bhwd->byxd", rows, columns, patches, precision="highest")
    return jnp.concatenate([embedding[:, :1], resized.reshape(1, -1, embedding.shape[-1])], axis=1)


def resize_time_embedding(
    embedding: Float[Array | ndarray, "1 T D"], num_frames: int, resize: str = "nearest"
) -> Float[Array, "1 new_T D"]:
    """The time embedding `[1, T, D]` for another number of frames, by a way of `RESIZES`."""
    if embedding.shape[1] == num_frames:
        return jnp.asarray(embedding)
    in_time, _ = RESIZES[resize]
    frames = in_time(embedding.shape[1], num_frames).astype(np.float32)
    return jnp.einsum("st,btd->bsd", frames, embedding, precision="highest")
