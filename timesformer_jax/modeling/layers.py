"""Building blocks of `Block`: activations, LayerNorm, the MLP, stochastic depth and a masked mean."""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.typing import Dtype, Initializer

from timesformer_jax._typing import Array, Bool, Float, PRNGKeyArray
from timesformer_jax.modeling.kernels.layer_norm import normalize, residual_gradients, supports
from timesformer_jax.modeling.per_device import platform_dependent


@jax.custom_jvp
def gelu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Exact GELU, `x * Phi(x)` with Phi the normal CDF, computed with erf in float32 and returned as `x.dtype`.

    `jax.nn.gelu(approximate=False)` uses erfc, which is several times as expensive, and saves more for the backward pass.
    """
    wide = x.astype(jnp.float32)
    return (wide * _normal_cdf(wide)).astype(x.dtype)


def _normal_cdf(x: Array) -> Array:
    return 0.5 + 0.5 * jax.lax.erf(x * math.sqrt(0.5))


@gelu.defjvp
def _gelu_derivative(primals: tuple[Any], tangents: tuple[Any]) -> tuple[Array, Array]:
    @functools.partial(jax.checkpoint, prevent_cse=False)  # saves only x for the backward pass
    def derivative(x: Array, dx: Array) -> Array:
        wide = x.astype(jnp.float32)
        density = math.sqrt(0.5 / math.pi) * jnp.exp(-0.5 * wide * wide)
        return (dx.astype(jnp.float32) * (_normal_cdf(wide) + wide * density)).astype(x.dtype)

    return gelu(*primals), derivative(*primals, *tangents)


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": gelu,
    "gelu_tanh": lambda x: jax.nn.gelu(x, approximate=True),
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
}
"""Maps `activation` to the MLP's non-linearity.

"gelu" is exact (erf), as in the official code; "gelu_tanh" approximates it by tanh, as in the JAX image transformers;
"quick_gelu" by a sigmoid, as in OpenAI's CLIP.
"""


class LayerNorm(nn.Module):
    """LayerNorm of the official code, with the variance computed in two passes, as in PyTorch.

    Computed in float32 and returned in the input's dtype.

    Attributes:
        epsilon: Added to the variance; the official code uses the default.
    """

    epsilon: float = 1e-6

    @nn.compact
    def __call__(self, x: Float[Array, "*tokens D"], *, fork: bool = False) -> Any:
        """Normalise tokens.

        Args:
            x: Tokens.
            fork: Also return `x`, for the residual connection around the branch that receives the normalised tokens. On GPUs,
                the gradients of both are then added in the same pass over memory that computes that of the LayerNorm.

        Returns:
            The normalised tokens, or a `Fork`.
        """
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],), jnp.float32)
        call = normalize_and_keep if fork else layer_norm
        return call(self.epsilon, x, jnp.asarray(scale), jnp.asarray(bias))


class Fork(NamedTuple):
    """Tokens at the beginning of a residual branch."""

    residual: Float[Array, "*tokens D"]
    """Unchanged, for the residual connection."""
    branch: Float[Array, "*tokens D"]
    """Normalised, for the branch."""


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def layer_norm(
    epsilon: float, x: Float[Array, "*tokens D"], scale: Float[Array, "D"], bias: Float[Array, "D"]
) -> Float[Array, "*tokens D"]:
    """Normalise the last axis: `(x - mean) / sqrt(variance + epsilon) * scale + bias`, in float32, returned as `x.dtype`.

    The custom derivative saves only `x` and two numbers per token for the backward pass, and reads each twice. Automatic
    differentiation would save float32 copies and split the sums into many pieces.

    Args:
        epsilon: Added to the variance.
        x: Tokens.
        scale: Multiplies the normalised tokens.
        bias: Added after scaling.

    Returns:
        The normalised tokens.
    """
    mean, rate = _statistics(epsilon, x)
    return _affine(x, mean, rate, scale, bias)


def _affine(x: Array, mean: Array, rate: Array, scale: Array, bias: Array) -> Array:
    return (_standardize(x, mean, rate) * _wide(scale, x) + _wide(bias, x)).astype(x.dtype)


def _wide(channels: Array, x: Array) -> Array:
    """Cast `[D]` to float32 and expand it to the rank of `x`."""
    return jax.lax.expand_dims(channels, range(x.ndim - 1))


def _statistics(epsilon: float, x: Array) -> tuple[Array, Array]:
    """Return the mean and 1 / standard deviation, each `[*tokens, 1]`.

    The variance of float32 takes two passes, as in PyTorch. That of half precision takes one, which the compiler can fuse with
    whatever computed x: the error of `E[x^2] - mean^2`, about 2^-24 mean^2, is below that of rounding x, (2^-9 mean)^2.
    """
    is_half = jnp.finfo(x.dtype).bits < 32
    x = x.astype(jnp.float32)
    mean = x.mean(axis=-1, keepdims=True)
    if is_half:
        variance = jnp.maximum(jnp.square(x).mean(axis=-1, keepdims=True) - jnp.square(mean), 0.0)
    else:
        variance = jnp.square(x - mean).mean(axis=-1, keepdims=True)
    return mean, jax.lax.rsqrt(variance + epsilon)


def _standardize(x: Array, mean: Array, rate: Array) -> Array:
    return (x.astype(jnp.float32) - mean) * rate


@layer_norm.defjvp
def _layer_norm_derivative(epsilon: float, primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Array, Array]:
    x, scale, bias = primals
    mean, rate = _statistics(epsilon, x)

    @functools.partial(jax.checkpoint, prevent_cse=False)  # saves the arguments, not the intermediate values
    def derivative(x: Array, mean: Array, rate: Array, scale: Array, dx: Array, dscale: Array, dbias: Array) -> Array:
        normal, dx = _standardize(x, mean, rate), dx.astype(jnp.float32)
        dnormal = (dx - dx.mean(axis=-1, keepdims=True) - normal * (normal * dx).mean(axis=-1, keepdims=True)) * rate
        return (dnormal * _wide(scale, x) + normal * _wide(dscale, x) + _wide(dbias, x)).astype(x.dtype)

    return _affine(x, mean, rate, scale, bias), derivative(x, mean, rate, scale, *tangents)


def normalize_and_keep(epsilon: float, x: Array, scale: Array, bias: Array) -> Fork:
    """Apply `layer_norm` at the beginning of a residual branch."""

    def plain(*arguments: Array) -> Fork:
        return Fork(arguments[0], layer_norm(epsilon, *arguments))

    if not supports(x):
        return plain(x, scale, bias)
    return platform_dependent(x, scale, bias, cuda=functools.partial(_fork, epsilon), default=plain)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _fork(epsilon: float, x: Array, scale: Array, bias: Array) -> Fork:
    return Fork(x, normalize(x, scale, bias, epsilon=epsilon))


def _fork_forward(epsilon: float, x: Array, scale: Array, bias: Array) -> tuple[Fork, tuple[Array, Array]]:
    return _fork(epsilon, x, scale, bias), (x, scale)


def _fork_backward(epsilon: float, kept: tuple[Array, Array], gradients: Fork) -> tuple[Array, Array, Array]:
    x, scale = kept
    return residual_gradients(x, scale, gradients.branch, gradients.residual, epsilon=epsilon)


_fork.defvjp(_fork_forward, _fork_backward)


def mlp_width(dim: int, mlp_ratio: float) -> int:
    """Return the MLP's hidden width, rounded down as in the official code, but tolerant of floating-point error."""
    return int(dim * mlp_ratio + 1e-3)  # 4304 / 1152 * 1152 is slightly less than 4304


class Mlp(nn.Module):
    """Two linear layers with a non-linearity between them (equation 9): `[..., D] -> [..., D]`.

    Attributes:
        hidden_dim: Width of the hidden layer.
        kernel_init: Initializer of both kernels. Biases start at zero.
        dtype: Dtype of the computation. Parameters are float32.
        activation: A key of `ACTIVATIONS`.
        dropout_rate: Dropout rate after each layer, in training.
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
    """Draw the factors that stochastic depth applies to a residual: 0 with probability `rate`, else 1 / (1 - rate).

    Source: official `models/vit_utils.py`, `drop_path`.

    Args:
        key: Random key.
        rate: Probability of dropping a row.
        rows: Shape of the residual's leading axes. Each row is kept or dropped as a whole, independently of the others.
        dtype: Dtype of the factors.

    Returns:
        One factor per row, of shape `rows`.
    """
    keep = 1.0 - jnp.asarray(rate, jnp.float32)
    return (jax.random.bernoulli(key, keep, rows).astype(jnp.float32) / keep).astype(dtype)


def masked_mean(x: Float[Array, "B n D"], mask: Bool[Array, "b n"] | None, *, keepdims: bool = False) -> Array:
    """Average the unmasked entries over n, giving `[B, D]` (or `[B, 1, D]`); zero if all are masked."""
    if mask is None:
        return x.mean(axis=1, keepdims=keepdims)
    counts = jnp.maximum(mask.sum(axis=1), 1).astype(x.dtype)[:, None, None]
    mean = jnp.where(mask[:, :, None], x, jnp.zeros((), x.dtype)).sum(axis=1, keepdims=True) / counts
    return mean if keepdims else mean[:, 0]
