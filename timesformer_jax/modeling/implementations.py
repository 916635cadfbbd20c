"""Implementations of attention within groups, and the automatic choice among them."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from timesformer_jax._typing import Array, Bool, Float
from timesformer_jax.errors import InputError
from timesformer_jax.modeling.kernels.fused_attention import LONGEST, fits, fused_attention

Mask = Bool[Array, "b G L"] | None
"""False for tokens excluded as keys (b = 1 if all clips have the same mask); None if no token is excluded."""


class Projections(NamedTuple):
    """Inputs and parameters of equations 2 to 4, from which each implementation computes q, k and v in its own layout."""

    x: Float[Array, "B G L D"]
    """G groups of L tokens."""
    kernel: Float[Array, "D 3 h d"]
    """Packed kernel of the query, key and value projections."""
    bias: Float[Array, "3 h d"]
    """Packed bias of the projections."""
    cls: Float[Array, "B G D"] | None = None
    """CLS that joins each group as its last token; None for none. L counts it in all results."""

    @property
    def length(self) -> int:
        """Number L of tokens per group, including the CLS."""
        return self.x.shape[2] + (self.cls is not None)

    @property
    def tokens(self) -> Float[Array, "B G L D"]:
        """Tokens of each group, including the CLS.

        The CLS comes last, so that it doesn't shift the patches in the tiles of a TPU's memory.
        """
        return self.x if self.cls is None else jnp.concatenate([self.x, self.cls[:, :, None]], axis=2)

    def heads_first(self, queries: slice = slice(None)) -> tuple[Array, Array, Array]:
        """Return the query `[B, G, h, Q, d]`, divided by sqrt(d), and key and value `[B, G, h, L, d]`.

        Only the tokens in the slice `queries` are projected to queries. Although the parameters are packed, query, key and
        value are computed by separate products: each result has its heads before its tokens, as the batched products that
        follow expect, and no gradients need to be concatenated. In temporal attention on XLA:CPU, this takes 0.8 times as long
        as one packed product.
        """

        @jax.named_scope("qkv")
        def project(which: int, x: Array) -> Array:
            flat = x @ self._matrix(which) + self.bias[which].reshape(-1)[None, None, None]
            return flat.reshape(*x.shape[:-1], *self.kernel.shape[2:]).swapaxes(2, 3)

        tokens = self.tokens
        return project(0, tokens[:, :, queries]) * self.kernel.shape[-1] ** -0.5, project(1, tokens), project(2, tokens)

    @jax.named_scope("qkv")
    def tokens_first(self, pad: int = 0) -> tuple[Array, Array, Array]:
        """Return query, key and value `[B, G, L + pad, h, d]`, with `pad` tokens of zeros appended to the input."""
        x = jnp.pad(self.tokens, ((0, 0), (0, 0), (0, pad), (0, 0)))

        def project(which: int) -> Array:
            flat = x @ self._matrix(which)
            return flat.reshape(*x.shape[:-1], *self.kernel.shape[2:]) + self.bias[which][None, None, None]

        return project(0), project(1), project(2)

    @jax.named_scope("qkv")
    def packed(self) -> Float[Array, "B G L 3 h d"]:
        """Return query, key and value as one product, without the bias."""
        dim, *rest = self.kernel.shape
        tokens = self.tokens
        return (tokens @ self.kernel.reshape(dim, -1)).reshape(*tokens.shape[:-1], *rest)

    def _matrix(self, which: int) -> Float[Array, "D D"]:
        """Return the kernel of queries, keys or values, taken from the packed matrix `[D, 3 D]`."""
        dim = self.kernel.shape[0]
        return self.kernel.reshape(dim, -1)[:, which * dim : (which + 1) * dim]


def attention_weights(
    query: Float[Array, "B G h Q d"], key: Float[Array, "B G h L d"], mask: Mask
) -> Float[Array, "B G h Q L"]:
    """Compute the softmax of equations 5 and 6 in float32; `query` must already be scaled."""
    scores = jnp.matmul(query, key.swapaxes(-1, -2), preferred_element_type=jnp.float32)
    if mask is not None:
        # Finite, so that fully masked groups give (unused) numbers instead of NaN.
        scores = jnp.where(mask[:, :, None, None, :], scores, jnp.finfo(jnp.float32).min)
    return jax.nn.softmax(scores, axis=-1)


def mix(query: Array, key: Array, value: Array, mask: Mask) -> Array:
    """Mix the values, materializing the full matrix of attention weights.

    Args:
        query: Scaled queries `[B, G, h, Q, d]`.
        key: Keys `[B, G, h, L, d]`.
        value: Values `[B, G, h, L, d]`.
        mask: False for tokens excluded as keys; None if no token is excluded.

    Returns:
        Mixed values `[B, G, h, Q, d]`.
    """
    return jnp.matmul(attention_weights(query, key, mask).astype(value.dtype), value)


def _xla(qkv: Projections, mask: Mask, queries: slice) -> Array:
    """Materialize the full matrix of weights."""
    return mix(*qkv.heads_first(queries), mask).swapaxes(2, 3)


_CHUNK = 2**22
"""Number of attention weights, per head and clip, that "chunked" materializes at a time."""


def _chunked(qkv: Projections, mask: Mask, queries: slice) -> Array:
    """Process the queries in chunks, so that memory grows linearly, not quadratically, with the number of tokens.

    The backward pass recomputes each chunk's weights.
    """
    query, key, value = qkv.heads_first(queries)
    batch, groups, heads, num_queries, head_dim = query.shape
    num_chunks = min(-(-groups * num_queries * key.shape[3] // _CHUNK), num_queries)
    chunk = -(-num_queries // num_chunks)  # chunks of equal size need the least padding
    some_queries = jax.checkpoint(lambda some: mix(some, key, value, mask), prevent_cse=num_chunks == 1)
    if num_chunks == 1:
        return some_queries(query).swapaxes(2, 3)
    padded = jnp.pad(query, ((0, 0), (0, 0), (0, 0), (0, -num_queries % chunk), (0, 0)))
    chunks = padded.reshape(batch, groups, heads, -1, chunk, head_dim)
    mixed = jax.lax.map(some_queries, jnp.moveaxis(chunks, 3, 0))  # over [chunks, B, G, h, chunk, d]
    return jnp.moveaxis(mixed, 0, 3).reshape(padded.shape)[:, :, :, :num_queries].swapaxes(2, 3)


def _cudnn(qkv: Projections, mask: Mask, queries: slice) -> Array:
    """Use cuDNN's fused attention, which never materializes the weights; NVIDIA GPUs and half precision only."""
    if not _takes_cudnn(qkv, mask):
        raise InputError(
            "attention_implementation 'cudnn' needs an NVIDIA GPU, dtype bfloat16 or float16, a head size (embed_dim / "
            f"num_heads) that is a multiple of 8 up to 128, and neither frame masks nor padded groups; {_got(qkv, mask)}. "
            "Use 'auto', 'xla' or 'chunked'."
        )
    # JAX refuses to differentiate odd lengths, so they are padded by one token, which the sequence lengths exclude.
    (batch, groups, *_), length = qkv.x.shape, qkv.length
    padding = length % 2
    rows = [x.reshape(-1, *x.shape[2:]) for x in qkv.tokens_first(padding)]  # [B, G, L, h, d] -> [B G, L, h, d]
    lengths = jnp.full(batch * groups, length, jnp.int32) if padding else None
    try:
        mixed = jax.nn.dot_product_attention(
            *rows, implementation="cudnn", query_seq_lengths=lengths, key_value_seq_lengths=lengths
        )
    except RuntimeError as error:  # raised while tracing
        raise InputError(
            f"attention_implementation 'cudnn' needs an NVIDIA GPU ({error}) Use 'auto', 'xla' or 'chunked'."
        ) from error
    return mixed.reshape(batch, groups, *mixed.shape[1:])[:, :, :length][:, :, queries]


def _got(qkv: Projections, mask: Mask) -> str:
    """Describe dtype, head size, group length and mask for error messages."""
    return f"got {qkv.x.dtype}, {qkv.kernel.shape[-1]}, {qkv.length}, {'no mask' if mask is None else 'a mask'}"


def has_cudnn() -> bool:
    """Return True if this process can trace cuDNN's attention; JAX requires the library and the GPU even at trace time."""
    try:
        return bool(jax.devices("cuda"))
    except RuntimeError:
        return False


def _takes_cudnn(qkv: Projections, mask: Mask) -> bool:
    head_dim = qkv.kernel.shape[-1]
    return mask is None and qkv.x.dtype in (jnp.bfloat16, jnp.float16) and head_dim % 8 == 0 and head_dim <= 128


def _fused(qkv: Projections, mask: Mask, queries: slice) -> Array:
    """Use our own kernel for short groups on GPUs, in half precision; interpret it on other devices, for tests."""
    if not _takes_fused(qkv, mask):
        raise InputError(
            "attention_implementation 'fused' needs dtype bfloat16 or float16, a head size (embed_dim / num_heads) of 16, 32, "
            f"64 or 128, groups of at most {LONGEST} tokens, and neither frame masks nor padded groups; {_got(qkv, mask)}. "
            "Use 'auto' or 'xla'."
        )
    mixed = jax.lax.platform_dependent(
        qkv.packed(), qkv.bias, cuda=fused_attention, default=functools.partial(fused_attention, interpret=True)
    )
    return mixed[:, :, queries]


def _takes_fused(qkv: Projections, mask: Mask) -> bool:
    return mask is None and fits(qkv.length, qkv.kernel.shape[-1], qkv.x.dtype)


def _auto(qkv: Projections, mask: Mask, queries: slice) -> Array:
    """Use the first applicable row of `AUTOMATIC`, chosen when the program is lowered for a platform, not when it is traced."""

    def chosen(platform: str) -> Callable[[Projections], Array]:
        name = next(name for where, name, takes in AUTOMATIC if where in (platform, "any") and takes(qkv, mask))
        return lambda qkv: IMPLEMENTATIONS[name](qkv, mask, queries)

    return jax.lax.platform_dependent(qkv, cuda=chosen("cuda"), default=chosen("default"))


IMPLEMENTATIONS: dict[str, Callable[[Projections, Mask, slice], Array]] = {
    "auto": _auto,
    "xla": _xla,
    "chunked": _chunked,
    "cudnn": _cudnn,
    "fused": _fused,
}
"""Maps a name to its implementation: (projections, mask, slice of queries) -> mixed values `[B, G, Q, h, d]`."""


def _is_long(qkv: Projections, mask: Mask) -> bool:
    return qkv.length**2 > _CHUNK


AUTOMATIC: tuple[tuple[str, str, Callable[[Projections, Mask], bool]], ...] = (
    ("cuda", "fused", _takes_fused),
    ("cuda", "cudnn", lambda qkv, mask: _takes_cudnn(qkv, mask) and has_cudnn()),
    ("any", "chunked", _is_long),
    ("any", "xla", lambda qkv, mask: True),
)
"""Candidates of "auto", fastest first according to `docs/performance.md`: (platform, implementation, condition)."""
