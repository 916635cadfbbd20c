"""Multi-head self-attention within groups of tokens (paper section 3.1, equations 2 to 8)."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.typing import Dtype, Initializer

from timesformer_jax._typing import Array, Bool, Float
from timesformer_jax.modeling.implementations import IMPLEMENTATIONS, Projections, attention_weights


class Attention(nn.Module):
    """Multi-head self-attention within each group of tokens (equations 2 to 4 and 5 to 8): `project(mix(x))`.

    A group's tokens attend to each other and to no others. The softmax is computed in float32 whatever `dtype` is. A variable
    "weights" in the collection `WATCHED`, zeros `[B, G, Q, L]`, receives as its gradient what `watch` makes of the weights'.

    Source: official `models/vit.py`, class `Attention`; its packed `qkv` rows `[q | k | v]`, each head-major, are the axes
    `[3, num_heads, head_dim]` of the kernel here.

    Attributes:
        embed_dim: D, divisible by `num_heads`.
        num_heads: h.
        kernel_init: Initializer of the kernels as matrices; biases start at zero.
        dtype: Of all products; parameters are float32.
        dropout_rate: After the projection, in training.
        attention_dropout_rate: Of the weights, in training.
        implementation: A key of `IMPLEMENTATIONS`. Weights that are returned or dropped, and a single query's, are computed
            by "xla".
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
        """Attend within groups, and project. Arguments and weights are those of `mix`."""
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
            mask: False for tokens that are excluded as keys; None if there are none.
            queries: Tokens of each group that attend; all by default.
            with_weights: Also return the weights, in float32.
            train: Whether weights are dropped.
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
        # One query has no matrix of weights. And parameters have their shapes wherever they are made, also on a machine, or
        # for a size, that the implementation can't do.
        plain = len(range(x.shape[2])[queries]) == 1 or self.is_initializing()
        return IMPLEMENTATIONS["xla" if plain else self.implementation](qkv, mask, queries), None

    def project(self, mixed: Float[Array, "B G Q h d"], *, train: bool = False) -> Float[Array, "B G Q D"]:
        """Join the heads (equation 8)."""
        return self.output_dropout(self.proj(mixed), deterministic=not train)

    @property
    def is_folded(self) -> bool:
        """Whether the parameters lack the projection, which `fold_for_inference` has multiplied into the next layer."""
        return not self.is_initializing() and not self.has_variable("params", "proj")


class QueryKeyValue(nn.Module):
    """The parameters of equations 2 to 4, packed, with the tokens that they are for: all in `dtype`."""

    num_heads: int
    kernel_init: Initializer
    dtype: Dtype

    @nn.compact
    def __call__(self, x: Float[Array, "B G L D"]) -> Projections:
        dim = x.shape[-1]
        shape = (3, self.num_heads, dim // self.num_heads)

        def init_kernel(key: Array) -> Array:  # drawn as the matrix that it is
            return self.kernel_init(key, (dim, 3 * dim), jnp.float32).reshape(dim, *shape)

        kernel = self.param("kernel", init_kernel)
        bias = self.param("bias", nn.initializers.zeros, shape, jnp.float32)
        return Projections(*(jnp.asarray(array, self.dtype) for array in (x, kernel, bias)))


WATCHED = "watched_attention"
"""The collection of zeros whose gradients are attention weights' part in the result."""


@jax.custom_vjp
def watch(
    weights: Float[Array, "B G h Q L"],
    zeros: Float[Array, "B G Q L"],
) -> Float[Array, "B G h Q L"]:
    """The weights as they are; the gradient of `zeros` is mean over heads of max(weight * its gradient, 0).

    So that what a clip's weights have done for a result is found without any of them, or of their gradients, being kept for
    each head. Source: Chefer et al. 2021, "Generic Attention-model Explainability", equation 5.
    """
    return weights


def _watch_forward(weights: Array, zeros: Array) -> tuple[Array, Array]:
    return weights, weights


def _watch_backward(weights: Array, gradient: Array) -> tuple[Array, Array]:
    return gradient, jax.nn.relu(weights * gradient).mean(axis=2)


watch.defvjp(_watch_forward, _watch_backward)
