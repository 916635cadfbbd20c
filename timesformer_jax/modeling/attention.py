"""Multi-head self-attention within groups of tokens (paper section 3.1, equations 2 to 8)."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.typing import Dtype, Initializer

from timesformer_jax._typing import Array, Bool, Float
from timesformer_jax.modeling.implementations import IMPLEMENTATIONS, Projections, attention_weights


class Attention(nn.Module):
    """Multi-head self-attention within each group of tokens (equations 2 to 8): `project(mix(x))`.

    Tokens attend only within their own group. The softmax is computed in float32 regardless of `dtype`. If the collection
    `WATCHED` has a variable "weights" (zeros of shape `[B, G, Q, L]`), its gradient measures the contribution of the attention
    weights to a result (see `watch`).

    Source: official `models/vit.py`, class `Attention`. Its packed `qkv` rows `[q | k | v]`, each head-major, correspond to
    the axes `[3, num_heads, head_dim]` of the kernel here.

    Attributes:
        embed_dim: Token width D, divisible by `num_heads`.
        num_heads: Number of heads h.
        kernel_init: Initializer of the kernels, applied to them as matrices. Biases start at zero.
        dtype: Dtype of all matrix products. Parameters are float32.
        dropout_rate: Dropout rate after the projection, in training.
        attention_dropout_rate: Dropout rate of the attention weights, in training.
        implementation: A key of `IMPLEMENTATIONS`. Calls that return weights, apply dropout to them or have a single query
            always use "xla".
    """

    embed_dim: int
    num_heads: int
    kernel_init: Initializer
    dtype: Dtype
    dropout_rate: float = 0.0
    attention_dropout_rate: float = 0.0
    implementation: str = "auto"

    def setup(self) -> None:
        self.qkv = QueryKeyValue(self.num_heads, kernel_init=self.kernel_init, dtype=self.dtype)
        self.proj = nn.DenseGeneral(self.embed_dim, axis=(-2, -1), kernel_init=self.kernel_init, dtype=self.dtype)
        self.weight_dropout = nn.Dropout(self.attention_dropout_rate)
        self.output_dropout = nn.Dropout(self.dropout_rate)

    def __call__(
        self,
        x: Float[Array, "B G L D"],
        mask: Bool[Array, "b G L"] | None = None,
        *,
        queries: slice = slice(None),
        with_weights: bool = False,
        train: bool = False,
    ) -> tuple[Float[Array, "B G Q D"], Float[Array, "B G h Q L"] | None]:
        """Attend within groups, then project. Arguments and returned weights are those of `mix`."""
        mixed, weights = self.mix(x, mask, queries=queries, with_weights=with_weights, train=train)
        return self.project(mixed, train=train), weights

    def mix(
        self,
        x: Float[Array, "B G L D"],
        mask: Bool[Array, "b G L"] | None = None,
        *,
        queries: slice = slice(None),
        with_weights: bool = False,
        train: bool = False,
    ) -> tuple[Float[Array, "B G Q h d"], Float[Array, "B G h Q L"] | None]:
        """Mix each group's values by its attention weights (equations 5 to 7).

        Args:
            x: G groups of L tokens.
            mask: False for tokens excluded as keys; None if no token is excluded.
            queries: Slice of each group's tokens that act as queries; all by default.
            with_weights: Also return the attention weights, in float32.
            train: Whether dropout of the attention weights applies.

        Returns:
            The values mixed by each head, and the attention weights, which may be None unless `with_weights` is set.
        """
        qkv = self.qkv(x)
        drop = train and self.attention_dropout_rate > 0
        weights, watched = None, self.has_variable(WATCHED, "weights")
        if with_weights or drop or watched:
            query, key, value = qkv.heads_first(queries)
            weights = attention_weights(query, key, mask)
            if watched:
                weights = watch(weights, self.get_variable(WATCHED, "weights"))
            dropped = self.weight_dropout(weights, deterministic=not drop)
            mixed = jnp.matmul(dropped.astype(self.dtype), value).swapaxes(2, 3)  # [B, G, h, Q, d] -> [B, G, Q, h, d]
            return mixed, weights
        # The weights of a single query are small enough to materialize. Initialization must also work on machines and with
        # sizes that the chosen implementation doesn't support.
        plain = len(range(x.shape[2])[queries]) == 1 or self.is_initializing()
        return IMPLEMENTATIONS["xla" if plain else self.implementation](qkv, mask, queries), None

    def project(self, mixed: Float[Array, "B G Q h d"], *, train: bool = False) -> Float[Array, "B G Q D"]:
        """Concatenate the heads and project the result (equation 8)."""
        return self.output_dropout(self.proj(mixed), deterministic=not train)

    @property
    def is_folded(self) -> bool:
        """True if `fold_for_inference` has merged the projection into the next layer."""
        return not self.is_initializing() and not self.has_variable("params", "proj")


class QueryKeyValue(nn.Module):
    """Packed parameters of equations 2 to 4, returned together with their input tokens, all in `dtype`.

    Attributes:
        num_heads: Number of heads h.
        kernel_init: Initializer of the kernel, applied to it as one matrix `[D, 3 D]`. The bias starts at zero.
        dtype: Dtype of the result. Parameters are float32.
    """

    num_heads: int
    kernel_init: Initializer
    dtype: Dtype

    @nn.compact
    def __call__(self, x: Float[Array, "B G L D"]) -> Projections:
        dim = x.shape[-1]
        shape = (3, self.num_heads, dim // self.num_heads)

        def init_kernel(key: Array) -> Array:  # as a matrix, because fan-in and fan-out depend on the shape
            return self.kernel_init(key, (dim, 3 * dim), jnp.float32).reshape(dim, *shape)

        kernel = self.param("kernel", init_kernel)
        bias = self.param("bias", nn.initializers.zeros, shape, jnp.float32)
        return Projections(*(jnp.asarray(array, self.dtype) for array in (x, kernel, bias)))


WATCHED = "watched_attention"
"""Collection of zeros whose gradients measure how much the attention weights contributed to a result."""


@jax.custom_vjp
def watch(
    weights: Float[Array, "B G h Q L"],
    zeros: Float[Array, "B G Q L"],
) -> Float[Array, "B G h Q L"]:
    """Return `weights` unchanged, and define the gradient of `zeros` as the mean over heads of max(weight * gradient, 0).

    This measures the weights' contribution to a result without keeping every head's weights and gradients.

    Source: Chefer et al. 2021, "Generic Attention-model Explainability", equation 5.
    """
    return weights


def _watch_forward(weights: Array, zeros: Array) -> tuple[Array, Array]:
    return weights, weights


def _watch_backward(weights: Array, gradient: Array) -> tuple[Array, Array]:
    return gradient, jax.nn.relu(weights * gradient).mean(axis=2)


watch.defvjp(_watch_forward, _watch_backward)
