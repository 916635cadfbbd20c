"""The block's smaller building stones: LayerNorm, the MLP, stochastic depth and a mean that leaves things out."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.typing import Dtype, Initializer

from timesformer_jax._typing import Array, Bool, Float, PRNGKeyArray

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "gelu_tanh": lambda x: jax.nn.gelu(x, approximate=True),
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
}
"""`activation` -> the MLP's non-linearity: exact (erf), as in the official code; by tanh, as in the JAX image transformers;
by a sigmoid, as in OpenAI's CLIP."""


class LayerNorm(nn.LayerNorm):
    """The official LayerNorm: epsilon 1e-6 unless told otherwise, the variance by the two-pass formula as in PyTorch.

    Computed in float32 and returned in the input's dtype.
    """

    epsilon: float = 1e-6
    use_fast_variance: bool = False
    dtype: Dtype | None = jnp.float32

    def __call__(self, x: Float[Array, "*tokens D"]) -> Float[Array, "*tokens D"]:
        return super().__call__(x.astype(jnp.float32)).astype(x.dtype)


def mlp_width(dim: int, mlp_ratio: float) -> int:
    """The hidden width: rounded down as in the official code, but not below the whole number that `mlp_ratio` stands for."""
    return int(dim * mlp_ratio + 1e-3)  # 4304 / 1152 * 1152 is a little less than 4304


class Mlp(nn.Module):
    """Two linear layers with a GELU between them (equation 9): `[..., D] -> [..., D]`.

    `activation` is a key of `ACTIVATIONS`. In training, dropout follows each layer.
    """

    hidden_dim: int
    kernel_init: Initializer
    dtype: Dtype
    activation: str = "gelu"
    dropout_rate: float = 0.0

    @nn.compact
    def __call__(self, x: Float[Array, "*tokens D"], *, train: bool = False) -> Float[Array, "*tokens D"]:
        dropout = nn.Dropout(self.dropout_rate, deterministic=not train)
        hidden = nn.Dense(self.hidden_dim, kernel_init=self.kernel_init, dtype=self.dtype, name="fc1")(x)
        hidden = dropout(ACTIVATIONS[self.activation](hidden))
        return dropout(nn.Dense(x.shape[-1], kernel_init=self.kernel_init, dtype=self.dtype, name="fc2")(hidden))


def drop_path_scale(key: PRNGKeyArray, rate: float | Float[Array, ""], rows: tuple[int, ...], dtype: Dtype) -> Array:
    """What stochastic depth multiplies a residual by: 0 with probability `rate`, else 1 / (1 - rate); one draw per row.

    `rows` are the residual's leading axes that are dropped as one. Source: official `models/vit_utils.py`, `drop_path`.
    """
    keep = 1.0 - jnp.asarray(rate, jnp.float32)
    return (jax.random.bernoulli(key, keep, rows).astype(jnp.float32) / keep).astype(dtype)


def masked_mean(x: Float[Array, "B n D"], mask: Bool[Array, "b n"] | None, *, keepdims: bool = False) -> Array:
    """The mean over n, `[B, D]` (or `[B, 1, D]`), of those that count; zero where none does."""
    if mask is None:
        return x.mean(axis=1, keepdims=keepdims)
    counts = jnp.maximum(mask.sum(axis=1), 1).astype(x.dtype)[:, None, None]
    mean = jnp.where(mask[:, :, None], x, jnp.zeros((), x.dtype)).sum(axis=1, keepdims=True) / counts
    return mean if keepdims else mean[:, 0]
