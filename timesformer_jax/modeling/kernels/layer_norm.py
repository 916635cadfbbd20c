"""Backward pass of a LayerNorm in a residual branch, a GPU kernel written in Pallas for Triton.

Each program processes some tokens of a frame, one after another. It reads a token x, the gradient g of its normalised value y,
and the gradient r of the residual connection around the branch, and writes what automatic differentiation would need several
passes over memory for. With n = (x - mean) / sqrt(variance + epsilon) and y = n * scale + bias:

    dx = r + (g * scale - mean(g * scale) - n * mean(g * scale * n)) / sqrt(variance + epsilon)

The gradients of scale and bias, the sums of g * n and g over all tokens, are accumulated in registers. XLA computes the forward
pass, which it does at the speed of memory.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from timesformer_jax._typing import Array, Float
from timesformer_jax.modeling.kernels.partitioned import has_constant_shape, partitioned
from timesformer_jax.modeling.kernels.tiles import power_of_two

WIDEST = 2048
"""Maximum token width that the kernel supports."""
PROGRAMS = 1536
"""Number of programs that was the fastest on an H200."""


def supports(x: Any) -> bool:
    """Return True if the kernel supports tokens of this shape and dtype: `[B, T, N, D]` in float16 or bfloat16."""
    return x.ndim == 4 and has_constant_shape(x) and x.shape[-1] <= WIDEST and x.dtype in (jnp.bfloat16, jnp.float16)


def residual_gradients(
    x: Float[Array, "B T N D"],
    scale: Float[Array, "D"],
    gradient: Float[Array, "B T N D"],
    residual: Float[Array, "B T N D"],
    *,
    epsilon: float,
    interpret: bool = False,
) -> tuple[Float[Array, "B T N D"], Float[Array, "D"], Float[Array, "D"]]:
    """Compute the gradients of x, scale and bias.

    Args:
        x: Tokens, in float16 or bfloat16.
        scale: Multiplies the normalised tokens.
        gradient: Gradient of the normalised and scaled tokens.
        residual: Gradient of x due to the residual connection.
        epsilon: Added to the variance.
        interpret: Run as ordinary JAX operations on any device, which is slow and meant for tests.

    Returns:
        Gradients of x (in its dtype), scale and bias (in float32).
    """
    dx, dscale, dbias = _partitioned_kernel(epsilon, interpret)(x, scale, gradient, residual)
    return dx, dscale.sum((0, 1)), dbias.sum((0, 1))


TOKENS, SUMS = "b x y d", "b x d"


@functools.cache
def _partitioned_kernel(epsilon: float, interpret: bool) -> Any:
    taken = (("x", TOKENS), ("scale", "d"), ("gradient", TOKENS), ("residual", TOKENS))
    given = (("dx", TOKENS), ("dscale", SUMS), ("dbias", SUMS))
    return partitioned(functools.partial(_call, epsilon, interpret), taken, given, summed=("dscale", "dbias"))


def _call(epsilon: float, interpret: bool, x: Array, scale: Array, *gradients: Array) -> tuple[Array, Array, Array]:
    from jax.experimental import pallas as pl
    from jax.experimental.pallas import triton

    batch, frames, patches, dim = x.shape
    groups = batch * frames
    parts = min(-(-PROGRAMS // groups), patches)
    sums = jax.ShapeDtypeStruct((groups, parts, dim), jnp.float32)
    flat = (groups, patches, dim)
    dx, dscale, dbias = pl.pallas_call(
        functools.partial(_kernel, epsilon),
        grid=(groups, parts),
        out_shape=(jax.ShapeDtypeStruct(flat, x.dtype), sums, sums),
        compiler_params=triton.CompilerParams(num_warps=max(power_of_two(dim) // 1024, 1), num_stages=1),
        interpret=interpret,
        name="layer_norm_backward",
    )(x.reshape(flat), scale, *(gradient.reshape(flat) for gradient in gradients))
    return dx.reshape(x.shape), *(part.sum(1).reshape(batch, frames, dim) for part in (dscale, dbias))


def _kernel(
    epsilon: float,
    x_ref: Any,
    scale_ref: Any,
    gradient_ref: Any,
    residual_ref: Any,
    dx_ref: Any,
    dscale_ref: Any,
    dbias_ref: Any,
) -> None:
    from jax.experimental import pallas as pl
    from jax.experimental.pallas import triton

    group, part, num_parts = pl.program_id(0), pl.program_id(1), pl.num_programs(1)
    _, patches, dim = x_ref.shape
    columns = pl.ds(0 * group, power_of_two(dim))  # dynamic, because Pallas refuses constant slices that exceed the array
    exists = jnp.arange(power_of_two(dim)) < dim
    scale = triton.load(scale_ref.at[columns], mask=exists, other=0.0).astype(jnp.float32)

    def one_token(i: Any, sums: tuple[Array, Array]) -> tuple[Array, Array]:
        here = (group, part + i * num_parts, columns)
        x, gradient, residual = (
            triton.load(ref.at[here], mask=exists, other=0.0).astype(jnp.float32) for ref in (x_ref, gradient_ref, residual_ref)
        )
        centred = jnp.where(exists, x - x.sum() / dim, 0.0)
        rate = jax.lax.rsqrt((centred * centred).sum() / dim + epsilon)
        normal, dnormal = centred * rate, gradient * scale
        dx = (dnormal - dnormal.sum() / dim - normal * ((dnormal * normal).sum() / dim)) * rate
        triton.store(dx_ref.at[here], (residual + dx).astype(dx_ref.dtype), mask=exists)
        dscale, dbias = sums
        return dscale + gradient * normal, dbias + gradient

    zeros = jnp.zeros(power_of_two(dim), jnp.float32)
    number = (patches - part + num_parts - 1) // num_parts
    for ref, total in zip((dscale_ref, dbias_ref), jax.lax.fori_loop(0, number, one_token, (zeros, zeros)), strict=True):
        triton.store(ref.at[group, part, columns], total, mask=exists)
