"""Multi-head self-attention within groups of tokens, and the ways to compute it."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.typing import Dtype, Initializer

from timesformer_jax._typing import Array, Bool, Float
from timesformer_jax.errors import InputError

Mask = Bool[Array, "b G L"] | None
"""Which tokens may be seen (b is 1 where all clips are alike); None where all may."""


class Attention(nn.Module):
    """Multi-head self-attention within each group of tokens (equations 2 to 4 and 5 to 8).

    Shapes: `[B, G, L, D] -> [B, G, Q, D]` and, `with_weights`, float32 weights `[B, G, heads, Q, L]` (else None): G groups
    of L tokens that see each other and nothing else, of which those of the slice `queries` ask (all by default). `D` is split
    over `num_heads`. Where `mask` `[b, G, L]` is False a token is seen by none.

    `implementation` is a key of `IMPLEMENTATIONS`; weights that are to be returned or dropped, or that are one query's, are
    computed by "xla". The softmax is computed in float32 whatever `dtype` is. With `foldable`, parameters without `proj` are
    taken for folded ones (`fold_for_inference`): the result is the heads' mixtures `[B, G, Q, heads, head_dim]`, for the next
    layer to project. A variable "weights" in the collection `WATCHED`, zeros `[B, G, Q, L]`, gets as its gradient what `watch`
    makes of the weights'.

    Source: official `models/vit.py`, class `Attention`; its packed `qkv` rows `[q | k | v]`, each head-major, are the axes
    `[3, num_heads, head_dim]` of the kernel here.
    """

    num_heads: int
    kernel_init: Initializer
    dtype: Dtype
    dropout_rate: float = 0.0
    attention_dropout_rate: float = 0.0
    implementation: str = "xla"
    foldable: bool = False

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B G L D"],
        mask: Bool[Array, "b G L"] | None = None,
        *,
        queries: slice = slice(None),
        with_weights: bool = False,
        train: bool = False,
    ) -> tuple[Float[Array, "B G Q ..."], Float[Array, "B G h Q L"] | None]:
        head_dim = x.shape[-1] // self.num_heads
        qkv = QueryKeyValue(self.num_heads, kernel_init=self.kernel_init, dtype=self.dtype, name="qkv")
        query, key, value = qkv(x, queries)  # [B, G, h, Q, d], twice [B, G, h, L, d]
        query = query * head_dim**-0.5
        drop = train and self.attention_dropout_rate > 0
        weights, watched = None, self.has_variable(WATCHED, "weights")
        if with_weights or drop or watched:
            weights = attention_weights(query, key, mask)
            if watched:
                weights = watch(weights, self.get_variable(WATCHED, "weights"))
            dropped = nn.Dropout(self.attention_dropout_rate, deterministic=not drop)(weights)
            mixed = jnp.matmul(dropped.astype(self.dtype), value)
        else:
            # One query has no matrix of weights. And parameters have their shapes wherever they are made, also on a machine, or
            # for a size, that the implementation can't do.
            plain = query.shape[3] == 1 or self.is_initializing()
            mixed = IMPLEMENTATIONS["xla" if plain else self.implementation](query, key, value, mask)
        mixed = mixed.swapaxes(2, 3)  # [B, G, h, Q, d] -> [B, G, Q, h, d]
        if self.foldable and not self.is_initializing() and not self.has_variable("params", "proj"):
            return mixed, weights
        proj = nn.DenseGeneral(x.shape[-1], axis=(-2, -1), kernel_init=self.kernel_init, dtype=self.dtype, name="proj")
        return nn.Dropout(self.dropout_rate, deterministic=not train)(proj(mixed)), weights


class QueryKeyValue(nn.Module):
    """Equations 2 to 4: `[B, G, L, D]` -> query `[B, G, h, Q, d]`, key and value `[B, G, h, L, d]`.

    Only the tokens of the slice `queries` get a query (all by default). The parameters are packed, the products are not:
    each stands with its heads in front of the tokens, as the batched products that follow want it, and its gradient need not
    be put together again. On XLA:CPU that takes 0.8 of the packed product's time in attention over time.
    """

    num_heads: int
    kernel_init: Initializer
    dtype: Dtype

    @nn.compact
    def __call__(self, x: Float[Array, "B G L D"], queries: slice = slice(None)) -> tuple[Array, Array, Array]:
        dim, x = x.shape[-1], x.astype(self.dtype)
        shape = (3, self.num_heads, dim // self.num_heads)

        def init_kernel(key: Array) -> Array:  # drawn as the matrix that it is
            return self.kernel_init(key, (dim, 3 * dim), jnp.float32).reshape(dim, *shape)

        kernel = self.param("kernel", init_kernel).astype(self.dtype)
        bias = self.param("bias", nn.initializers.zeros, shape, jnp.float32).astype(self.dtype)

        def project(which: int, x: Array) -> Array:
            return jnp.einsum("BGLD,Dhd->BGhLd", x, kernel[:, which]) + bias[which][None, None, :, None]

        return project(0, x[:, :, queries]), project(1, x), project(2, x)


def attention_weights(
    query: Float[Array, "B G h Q d"], key: Float[Array, "B G h L d"], mask: Mask
) -> Float[Array, "B G h Q L"]:
    """The softmax of equations 5 and 6, in float32; `query` is scaled already."""
    scores = jnp.matmul(query, key.swapaxes(-1, -2), preferred_element_type=jnp.float32)
    if mask is not None:
        # Finite, so that a group that is masked whole gives numbers (which nobody reads) and not NaN.
        scores = jnp.where(mask[:, :, None, None, :], scores, jnp.finfo(jnp.float32).min)
    return jax.nn.softmax(scores, axis=-1)


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


def _xla(query: Array, key: Array, value: Array, mask: Mask) -> Array:
    """The whole matrix of weights at once."""
    return jnp.matmul(attention_weights(query, key, mask).astype(value.dtype), value)


_CHUNK = 2**22
"""How many weights of one head in one clip `_chunked` holds at a time."""


def _chunked(query: Array, key: Array, value: Array, mask: Mask) -> Array:
    """Some queries at a time, so that the memory grows with the number of tokens and not with its square.

    Each chunk's weights are computed again in the backward pass.
    """
    batch, groups, heads, num_queries, head_dim = query.shape
    num_chunks = min(-(-groups * num_queries * key.shape[3] // _CHUNK), num_queries)
    chunk = -(-num_queries // num_chunks)  # of equal size, so that little is filled up
    some_queries = jax.checkpoint(lambda some: _xla(some, key, value, mask), prevent_cse=num_chunks == 1)
    if num_chunks == 1:
        return some_queries(query)
    padded = jnp.pad(query, ((0, 0), (0, 0), (0, 0), (0, -num_queries % chunk), (0, 0)))
    chunks = padded.reshape(batch, groups, heads, -1, chunk, head_dim)
    mixed = jax.lax.map(some_queries, jnp.moveaxis(chunks, 3, 0))  # over [chunks, B, G, h, chunk, d]
    return jnp.moveaxis(mixed, 0, 3).reshape(padded.shape)[:, :, :, :num_queries]


def _cudnn(query: Array, key: Array, value: Array, mask: Mask) -> Array:
    """cuDNN's fused attention: never the whole matrix of weights, on NVIDIA GPUs and in half precision only."""
    where = jax.default_backend()
    head_dim = query.shape[-1]
    if where != "gpu" or query.dtype not in (jnp.bfloat16, jnp.float16) or head_dim % 8 or head_dim > 128 or mask is not None:
        raise InputError(
            "attention_implementation 'cudnn' needs an NVIDIA GPU, dtype bfloat16 or float16, a head size (embed_dim / "
            f"num_heads) that 8 divides, at most 128, and neither frame masks nor padded groups; got {where}, {query.dtype}, "
            f"{head_dim}, {'a mask' if mask is not None else 'no mask'}. Use 'xla' or 'chunked'."
        )

    def rows(x: Array) -> Array:
        return x.reshape(-1, *x.shape[2:]).swapaxes(1, 2)  # [B, G, h, L, d] -> [B G, L, h, d]

    mixed = jax.nn.dot_product_attention(rows(query), rows(key), rows(value), scale=1.0, implementation="cudnn")
    return mixed.swapaxes(1, 2).reshape(query.shape)


IMPLEMENTATIONS: dict[str, Callable[[Array, Array, Array, Any], Array]] = {"xla": _xla, "chunked": _chunked, "cudnn": _cudnn}
"""Name -> (scaled query `[B, G, h, Q, d]`, key and value `[B, G, h, L, d]`, mask) -> mixture of values `[B, G, h, Q, d]`."""
