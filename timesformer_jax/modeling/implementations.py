"""Implementations of attention within groups, and the automatic choice among them."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from timesformer_jax._typing import Array, Bool, Float
from timesformer_jax.errors import InputError
from timesformer_jax.modeling.kernels import tpu_tiles
from timesformer_jax.modeling.kernels.fused_attention import fused_attention
from timesformer_jax.modeling.kernels.partitioned import has_constant_shape
from timesformer_jax.modeling.kernels.tiles import LONGEST, TILES, fits
from timesformer_jax.modeling.kernels.tpu_attention import tpu_attention
from timesformer_jax.modeling.per_device import platform_dependent
from timesformer_jax.modeling.projections import Mixed, Projections

Mask = Bool[Array, "b G L"] | None
"""False for tokens excluded as keys (b = 1 if all clips have the same mask); None if no token is excluded."""


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


Implementation = Callable[[Projections, Mask, slice], Mixed]
"""(projections, mask, slice of a group's tokens that act as queries) -> values mixed by each head."""


def _by_group(mix_groups: Callable[[Projections, Mask, slice], Float[Array, "B G Q h d"]]) -> Implementation:
    """Turn a function that returns the groups' mixed values into an implementation."""

    @functools.wraps(mix_groups)
    def implementation(qkv: Projections, mask: Mask, queries: slice) -> Mixed:
        return qkv.ungroup(mix_groups(qkv, mask, queries), queries)

    return implementation


@_by_group
def _xla(qkv: Projections, mask: Mask, queries: slice) -> Array:
    """Materialize the full matrix of weights."""
    return mix(*qkv.heads_first(queries), mask).swapaxes(2, 3)


_CHUNK = 2**22
"""Number of attention weights, per head and clip, that "chunked" materializes at a time."""


@_by_group
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


@_by_group
def _cudnn(qkv: Projections, mask: Mask, queries: slice) -> Array:
    """Use cuDNN's fused attention, which never materializes the weights; NVIDIA GPUs and half precision only."""
    if not _takes_cudnn(qkv, mask):
        raise InputError(
            "attention_implementation 'cudnn' needs an NVIDIA GPU, dtype bfloat16 or float16, a head size (embed_dim / "
            f"num_heads) that is a multiple of 8 up to 128, and neither frame masks nor padded groups; {_got(qkv, mask)}. "
            "Use 'auto', 'xla' or 'chunked'."
        )
    # JAX refuses to differentiate odd lengths, so they are padded by one token, which the sequence lengths exclude.
    batch, groups, length = qkv.x.shape[0], qkv.num_groups, qkv.length
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
    return f"got {qkv.x.dtype}, {qkv.head_dim}, {qkv.length}, {'no mask' if mask is None else 'a mask'}"


def has_cudnn() -> bool:
    """Return True if this process can trace cuDNN's attention; JAX requires the library and the GPU even at trace time."""
    try:
        return bool(jax.devices("cuda"))
    except RuntimeError:
        return False


def _takes_cudnn(qkv: Projections, mask: Mask) -> bool:
    head_dim = qkv.head_dim
    return mask is None and qkv.x.dtype in (jnp.bfloat16, jnp.float16) and head_dim % 8 == 0 and head_dim <= 128


def _fused(qkv: Projections, mask: Mask, queries: slice) -> Mixed:
    """Use our own kernel for short groups on GPUs, in half precision; interpret it on other devices, for tests."""
    strides = qkv.strides
    if strides is None or not _takes_fused(qkv, mask):
        raise InputError(
            "attention_implementation 'fused' needs dtype bfloat16 or float16, a head size (embed_dim / num_heads) of 16, 32, "
            f"64 or 128, groups of at most {LONGEST} tokens ({TILES[0].rows} if the head size is 128), an attention_type other "
            f"than 'local_global', and neither frame masks nor padded groups; {_got(qkv, mask)}. Use 'auto' or 'xla'."
        )
    interpreted = functools.partial(fused_attention, interpret=True)
    return _packed_attention(
        lambda *arrays: platform_dependent(*arrays, cuda=fused_attention, default=interpreted), qkv, strides, queries
    )


def _packed_attention(attend: Callable[..., Any], qkv: Projections, strides: tuple[int, int, int], queries: slice) -> Mixed:
    """Apply a kernel to the packed product of the patches, viewed as (X, L, Y), and of the CLS."""
    patches, cls = qkv.packed()
    (batch, *positions, _), parts = qkv.x.shape, qkv.bias.shape
    mixed, cls_mixed = attend(
        patches.reshape(batch, *strides, *parts),  # [B, T, N, 3 D] -> [B, X, L, Y, 3, h, d]
        qkv.bias,
        None if cls is None else cls.reshape(batch, -1, *parts),
    )
    mixed = mixed.reshape(batch, *positions, *parts[1:])
    if cls_mixed is None or queries != slice(None):  # there is none, or it is only a key
        return Mixed(mixed, None)
    return Mixed(mixed, cls_mixed.reshape(batch, qkv.num_groups, *parts[1:]))  # [B, X, Y, h, d] -> [B, G, h, d]


def _takes_fused(qkv: Projections, mask: Mask) -> bool:
    supported = mask is None and qkv.strides is not None and has_constant_shape(qkv.x)
    return supported and fits(qkv.length, qkv.head_dim, qkv.x.dtype)


def _fused_tpu(qkv: Projections, mask: Mask, queries: slice) -> Mixed:
    """Use our own kernel for TPUs; interpret it on other devices, for tests."""
    if not _takes_fused_tpu(qkv, mask):
        raise InputError(
            "attention_implementation 'fused_tpu' needs dtype bfloat16 or float32, a head size (embed_dim / num_heads) of 32, "
            f"64 or 128, embed_dim a multiple of {tpu_tiles.LANES}, groups of at most {tpu_tiles.LONGEST} tokens, and "
            f"neither frame masks nor padded groups; {_got(qkv, mask)}. Use 'auto' or 'xla'."
        )
    groups = qkv if qkv.strides is not None else qkv.split()
    mixed = _packed_attention(tpu_attention, groups, qkv.strides_once_split, queries)
    return mixed if groups is qkv else mixed._replace(patches=qkv.merge(mixed.patches))


def _takes_fused_tpu(qkv: Projections, mask: Mask) -> bool:
    if mask is not None or not has_constant_shape(qkv.x) or qkv.x.dtype not in (jnp.bfloat16, jnp.float32):
        return False
    return tpu_tiles.fits(qkv.strides_once_split, qkv.bias.shape[1], qkv.head_dim, qkv.cls is not None)


def _auto(qkv: Projections, mask: Mask, queries: slice) -> Mixed:
    """Use the first applicable row of `AUTOMATIC`, chosen when the program is lowered for a platform, not when it is traced."""

    def first_for(platform: str) -> str:
        return next(name for where, name, takes in AUTOMATIC if where in (platform, "any") and takes(qkv, mask))

    def implementation(name: str) -> Callable[[Projections], Mixed]:
        return lambda qkv: IMPLEMENTATIONS[name](qkv, mask, queries)

    default = first_for("default")
    others = {platform: first_for(platform) for platform in ("cuda", "tpu")}
    functions = {platform: implementation(name) for platform, name in others.items() if name != default}
    if not functions:  # one trace suffices
        return implementation(default)(qkv)
    return platform_dependent(qkv, default=implementation(default), **functions)


IMPLEMENTATIONS: dict[str, Implementation] = {
    "auto": _auto,
    "xla": _xla,
    "chunked": _chunked,
    "cudnn": _cudnn,
    "fused": _fused,
    "fused_tpu": _fused_tpu,
}
"""Maps a name to its implementation."""


def _is_long(qkv: Projections, mask: Mask) -> bool:
    return qkv.length**2 > _CHUNK


AUTOMATIC: tuple[tuple[str, str, Callable[[Projections, Mask], bool]], ...] = (
    ("cuda", "fused", _takes_fused),
    ("cuda", "cudnn", lambda qkv, mask: _takes_cudnn(qkv, mask) and has_cudnn()),
    ("tpu", "fused_tpu", lambda qkv, mask: qkv.x.dtype == jnp.bfloat16 and _takes_fused_tpu(qkv, mask)),
    ("any", "chunked", _is_long),
    ("any", "xla", lambda qkv, mask: True),
)
"""Candidates of "auto", fastest first according to `docs/performance.md`: (platform, implementation, condition)."""
