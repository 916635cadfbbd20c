"""Implementations of attention within groups, one table, and the one that is chosen automatically."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from timesformer_jax._typing import Array, Bool, Float
from timesformer_jax.errors import InputError
from timesformer_jax.modeling.kernels.fused_attention import LONGEST, fits, fused_attention

Mask = Bool[Array, "b G L"] | None
"""False for tokens that are excluded as keys (b is 1 if all clips are alike); None if there are none."""


class Projections(NamedTuple):
    """Equations 2 to 4, not yet computed: every implementation wants its queries, keys and values in another form."""

    x: Float[Array, "B G L D"]
    kernel: Float[Array, "D 3 h d"]
    bias: Float[Array, "3 h d"]

    def heads_first(self, queries: slice = slice(None)) -> tuple[Array, Array, Array]:
        """Query `[B, G, h, Q, d]`, divided by sqrt(d), for the tokens of the slice `queries`; key and value `[B, G, h, L, d]`.

        The parameters are packed, these products are not: each stands with its heads in front of the tokens, as the batched
        products that follow want it, and its gradient need not be put together again. On XLA:CPU that takes 0.8 of the packed
        product's time in attention over time.
        """

        @jax.named_scope("qkv")
        def project(which: int, x: Array) -> Array:
            return jnp.einsum("BGLD,Dhd->BGhLd", x, self.kernel[:, which]) + self.bias[which][None, None, :, None]

        return project(0, self.x[:, :, queries]) * self.kernel.shape[-1] ** -0.5, project(1, self.x), project(2, self.x)

    @jax.named_scope("qkv")
    def tokens_first(self, pad: int = 0) -> tuple[Array, Array, Array]:
        """Query, key and value `[B, G, L + pad, h, d]`, as they are in memory; `pad` tokens of zeros are added first."""
        x = jnp.pad(self.x, ((0, 0), (0, 0), (0, pad), (0, 0)))

        def project(which: int) -> Array:
            return jnp.einsum("BGLD,Dhd->BGLhd", x, self.kernel[:, which]) + self.bias[which][None, None, None]

        return project(0), project(1), project(2)

    @jax.named_scope("qkv")
    def packed(self) -> Float[Array, "B G L 3 h d"]:
        """One product for all three, to which the bias is still to be added."""
        dim, *rest = self.kernel.shape
        return (self.x @ self.kernel.reshape(dim, -1)).reshape(*self.x.shape[:-1], *rest)


def attention_weights(
    query: Float[Array, "B G h Q d"], key: Float[Array, "B G h L d"], mask: Mask
) -> Float[Array, "B G h Q L"]:
    """The softmax of equations 5 and 6, in float32; `query` is scaled already."""
    scores = jnp.matmul(query, key.swapaxes(-1, -2), preferred_element_type=jnp.float32)
    if mask is not None:
        # Finite, so that a group that is masked whole gives numbers (which nobody reads) and not NaN.
        scores = jnp.where(mask[:, :, None, None, :], scores, jnp.finfo(jnp.float32).min)
    return jax.nn.softmax(scores, axis=-1)


def mix(query: Array, key: Array, value: Array, mask: Mask) -> Array:
    """The whole matrix of weights at once: `[B, G, h, Q, d]`."""
    return jnp.matmul(attention_weights(query, key, mask).astype(value.dtype), value)


def _xla(qkv: Projections, mask: Mask, queries: slice) -> Array:
    """The whole matrix of weights at once."""
    return mix(*qkv.heads_first(queries), mask).swapaxes(2, 3)


_CHUNK = 2**22
"""How many weights of one head in one clip "chunked" holds at a time."""


def _chunked(qkv: Projections, mask: Mask, queries: slice) -> Array:
    """Some queries at a time, so that the memory grows with the number of tokens and not with its square.

    Each chunk's weights are computed again in the backward pass.
    """
    query, key, value = qkv.heads_first(queries)
    batch, groups, heads, num_queries, head_dim = query.shape
    num_chunks = min(-(-groups * num_queries * key.shape[3] // _CHUNK), num_queries)
    chunk = -(-num_queries // num_chunks)  # of equal size, so that little is filled up
    some_queries = jax.checkpoint(lambda some: mix(some, key, value, mask), prevent_cse=num_chunks == 1)
    if num_chunks == 1:
        return some_queries(query).swapaxes(2, 3)
    padded = jnp.pad(query, ((0, 0), (0, 0), (0, 0), (0, -num_queries % chunk), (0, 0)))
    chunks = padded.reshape(batch, groups, heads, -1, chunk, head_dim)
    mixed = jax.lax.map(some_queries, jnp.moveaxis(chunks, 3, 0))  # over [chunks, B, G, h, chunk, d]
    return jnp.moveaxis(mixed, 0, 3).reshape(padded.shape)[:, :, :, :num_queries].swapaxes(2, 3)


def _cudnn(qkv: Projections, mask: Mask, queries: slice) -> Array:
    """cuDNN's fused attention: never the whole matrix of weights, on NVIDIA GPUs and in half precision only."""
    if not _takes_cudnn(qkv, mask):
        raise InputError(
            "attention_implementation 'cudnn' needs an NVIDIA GPU, dtype bfloat16 or float16, a head size (embed_dim / "
            f"num_heads) that 8 divides, at most 128, and neither frame masks nor padded groups; {_got(qkv, mask)}. "
            "Use 'auto', 'xla' or 'chunked'."
        )
    # JAX refuses to differentiate odd lengths, so they are padded by a token that is told to be none.
    batch, groups, length, _ = qkv.x.shape
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
    """For errors: dtype, head size, tokens of a group, and whether there is a mask."""
    return f"got {qkv.x.dtype}, {qkv.kernel.shape[-1]}, {qkv.x.shape[2]}, {'no mask' if mask is None else 'a mask'}"


def has_cudnn() -> bool:
    """Whether this process can trace cuDNN's attention: JAX asks for the library and the card already then."""
    try:
        return bool(jax.devices("cuda"))
    except RuntimeError:
        return False


def _takes_cudnn(qkv: Projections, mask: Mask) -> bool:
    head_dim = qkv.kernel.shape[-1]
    return mask is None and qkv.x.dtype in (jnp.bfloat16, jnp.float16) and head_dim % 8 == 0 and head_dim <= 128


def _fused(qkv: Projections, mask: Mask, queries: slice) -> Array:
    """Our own kernel for short groups on GPUs in half precision; elsewhere the same operations one by one, for tests."""
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
    return mask is None and fits(qkv.x.shape[2], qkv.kernel.shape[-1], qkv.x.dtype)


def _auto(qkv: Projections, mask: Mask, queries: slice) -> Array:
    """The first row of `AUTOMATIC` that can, chosen where the program is compiled for a device, not where it is traced."""

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
"""Name -> (what gives queries, keys and values, mask, which tokens ask) -> mixture of values `[B, G, Q, h, d]`."""


def _is_long(qkv: Projections, mask: Mask) -> bool:
    return qkv.x.shape[2] ** 2 > _CHUNK


AUTOMATIC: tuple[tuple[str, str, Callable[[Projections, Mask], bool]], ...] = (
    ("cuda", "fused", _takes_fused),
    ("cuda", "cudnn", lambda qkv, mask: _takes_cudnn(qkv, mask) and has_cudnn()),
    ("any", "chunked", _is_long),
    ("any", "xla", lambda qkv, mask: True),
)
"""(platform, implementation, where it works): what "auto" takes, the fastest first by `docs/performance.md`."""
