"""Multi-head self-attention within groups of tokens (paper section 3.1, equations 2 to 8)."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.typing import Dtype, Initializer

from timesformer_jax._typing import Array, Bool, Float, PRNGKeyArray
from timesformer_jax.modeling.folding import compose
from timesformer_jax.modeling.implementations import IMPLEMENTATIONS, attention_weights
from timesformer_jax.modeling.projections import Mixed, Projections
from timesformer_jax.modeling.schemes import Grouping


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
        self.proj = HeadsToTokens(self.embed_dim, kernel_init=self.kernel_init, dtype=self.dtype)
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
        return self.project(mixed.patches, train=train), weights

    def mix(
        self,
        x: Float[Array, "B T N D"],
        mask: Bool[Array, "b G L"] | None = None,
        *,
        cls: Float[Array, "B F D"] | None = None,
        grouping: Grouping | None = None,
        sizes: tuple[int, int, int] = (0, 0, 0),
        queries: slice = slice(None),
        with_weights: bool = False,
        train: bool = False,
    ) -> tuple[Mixed, Float[Array, "B G h Q K"] | None]:
        """Mix each group's values by its attention weights (equations 5 to 7).

        Args:
            x: Patches of T frames; or G groups of L tokens, in place of T frames of N patches, if `grouping` is None.
            mask: False for tokens excluded as keys; None if no token is excluded.
            cls: CLS of the clip (F = 1) or of each group (F = G), which joins each group as its last token and is never masked;
                None for none.
            grouping: Groups of patches that attend to each other.
            sizes: Numbers of frames, rows and columns of patches, if there is a grouping.
            queries: Slice of each group's tokens, including the CLS, that act as queries; all by default.
            with_weights: Also return the attention weights, in float32, with the CLS as the first query and key.
            train: Whether dropout of the attention weights applies.

        Returns:
            The values mixed by each head, and the attention weights, which may be None unless `with_weights` is set. The number
            K of keys is L, or L + 1 with a CLS.
        """
        qkv = dataclasses.replace(self.qkv(x, cls), grouping=grouping, sizes=sizes)
        if mask is not None and cls is not None:
            mask = jnp.pad(mask, ((0, 0), (0, 0), (0, 1)), constant_values=True)
        drop = train and self.attention_dropout_rate > 0
        weights, watched = None, self.has_variable(WATCHED, "weights")
        if with_weights or drop or watched:
            query, key, value = qkv.heads_first(queries)
            weights = attention_weights(query, key, mask)
            if watched:
                zeros = self.get_variable(WATCHED, "weights")
                weights = watch(weights, zeros if cls is None else _move_cls(zeros, qkv.length, first=False))
            dropped = self.weight_dropout(weights, deterministic=not drop)
            mixed = jnp.matmul(dropped.astype(self.dtype), value).swapaxes(2, 3)  # [B, G, h, Q, d] -> [B, G, Q, h, d]
            return qkv.ungroup(mixed, queries), weights if cls is None else _move_cls(weights, qkv.length, first=True)
        # The weights of a single query are small enough to materialize. Initialization must also work on machines and with
        # sizes that the chosen implementation doesn't support.
        plain = len(range(qkv.length)[queries]) == 1 or self.is_initializing()
        return IMPLEMENTATIONS["xla" if plain else self.implementation](qkv, mask, queries), None

    def project(self, mixed: Float[Array, "*tokens h d"], *, train: bool = False) -> Float[Array, "*tokens D"]:
        """Concatenate the heads and project the result (equation 8)."""
        return self.output_dropout(self.proj(mixed), deterministic=not train)

    def projection(self) -> tuple[Float[Array, "h d D"], Float[Array, "D"]]:
        """Return the kernel and the bias of equation 8, for a layer that applies them together with its own."""
        params = self.proj.variables["params"]
        return jnp.asarray(params["kernel"]), jnp.asarray(params["bias"])  # NumPy arrays outside `jit`

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
    def __call__(self, x: Float[Array, "B T N D"], cls: Float[Array, "B F D"] | None = None) -> Projections:
        dim = x.shape[-1]
        shape = (3, self.num_heads, dim // self.num_heads)
        kernel = self.param("kernel", _init_as_matrix(self.kernel_init, dim, 3 * dim), (dim, *shape))
        bias = self.param("bias", nn.initializers.zeros, shape, jnp.float32)
        return jax.tree.map(lambda array: jnp.asarray(array, self.dtype), Projections(x, kernel, bias, cls))


class HeadsToTokens(nn.Module):
    """Linear layer on the concatenated heads: `[..., h, d] -> [..., D]`.

    The kernel is stored as `[h, d, D]` and applied as a matrix, because TPUs pad the last two axes of an array.

    Attributes:
        embed_dim: Token width D.
        kernel_init: Initializer of the kernel, applied to it as a matrix `[h d, D]`. The bias starts at zero.
        dtype: Dtype of the computation. Parameters are float32.
    """

    embed_dim: int
    kernel_init: Initializer
    dtype: Dtype

    @nn.compact
    def __call__(self, x: Float[Array, "*tokens h d"]) -> Float[Array, "*tokens D"]:
        *tokens, heads, head_dim = x.shape
        shape = heads * head_dim, self.embed_dim
        kernel = self.param("kernel", _init_as_matrix(self.kernel_init, *shape), (heads, head_dim, self.embed_dim))
        bias = self.param("bias", nn.initializers.zeros, (self.embed_dim,), jnp.float32)
        x, kernel, bias = (jnp.asarray(array, self.dtype) for array in (x, kernel, bias))
        return x.reshape(*tokens, shape[0]) @ kernel.reshape(shape) + jax.lax.expand_dims(bias, range(len(tokens)))


class ProjectionAndLayer(nn.Module):
    """Linear layer (B, b), applied together with the projection of heads (A, a) that precedes it, as one product.

    `(x A + a) s B + b = s (x (A B) + a B) + b`: stochastic depth, whose factors s don't depend on the channel, may act
    between the two layers; dropout may not. The products A B and a B take as many multiply-adds as D tokens; each token then
    needs D^2 fewer, forward and backward.

    Attributes:
        embed_dim: Token width D.
        kernel_init: Initializer of B. The bias starts at zero.
        dtype: Dtype of the computation. Parameters are float32.
    """

    embed_dim: int
    kernel_init: Initializer
    dtype: Dtype

    @nn.compact
    def __call__(
        self,
        mixed: Float[Array, "B T N h d"],
        *,
        projection: tuple[Float[Array, "h d D"], Float[Array, "D"]],
        factors: Float[Array, "B T N 1"] | None = None,
    ) -> Float[Array, "B T N D"]:
        kernel = self.param("kernel", self.kernel_init, (self.embed_dim, self.embed_dim), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.embed_dim,), jnp.float32)
        arrays = (mixed, *projection, kernel, bias)
        mixed, first_kernel, first_bias, kernel, bias = (jnp.asarray(array, self.dtype) for array in arrays)
        composed, composed_bias = compose(first_kernel, first_bias, kernel)
        residual = mixed.reshape(*mixed.shape[:3], -1) @ composed
        if factors is None:
            return residual + (composed_bias + bias)[None, None, None]
        return factors * (residual + composed_bias[None, None, None]) + bias[None, None, None]


def _init_as_matrix(init: Initializer, rows: int, columns: int) -> Callable[[PRNGKeyArray, tuple[int, ...]], Array]:
    """Return an initializer that applies `init` to a matrix and reshapes it, because fan-in and fan-out depend on the shape."""
    return lambda key, shape: init(key, (rows, columns), jnp.float32).reshape(shape)


def _move_cls(weights: Float[Array, "*axes Q L"], length: int, *, first: bool) -> Float[Array, "*axes Q L"]:
    """Make the last token of the keys, and of the queries unless they are a subset, the first; or the first the last."""
    shift = 1 if first else -1
    return jnp.roll(weights, shift, axis=(-2, -1) if weights.shape[-2] == length else -1)


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
