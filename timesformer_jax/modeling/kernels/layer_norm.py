"""LayerNorm in a residual branch: GPU kernels written in Pallas for Triton.

Each program processes some tokens of a frame, one after another, and keeps a token in registers. So the forward pass reads the
tokens once; XLA would read them once for the statistics and again to normalise them. With n = (x - mean) / sqrt(variance +
epsilon):

    y = n * scale + bias

The backward pass reads a token x, the gradient g of y, and the gradient r of the residual connection around the branch, and
writes what automatic differentiation would need several passes over memory for:

    dx = r + (g * scale - mean(g * scale) - n * mean(g * scale * n)) / sqrt(variance + epsilon)

The gradients of scale and bias, the sums of g * n and g over all tokens, are accumulated in registers.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from timesformer_jax._typing import Array, Float
from timesformer_jax.modeling.kernels.partitioned import has_constant_shape, partitioned
from timesformer_jax.modeling.kernels.tiles import power_of_two

WIDEST = 2048
"""Maximum token width that the kernels support."""
BACKWARD_PROGRAMS = 1536
"""Fastest number of programs of the backward pass on an H200."""
FORWARD_PROGRAMS = 12544
"""Fastest number of programs of the forward pass on an H100."""


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
    dx, dscale, dbias = _partitioned_kernel("backward", epsilon, interpret)(x, scale, gradient, residual)
    return dx, dscale.sum((0, 1)), dbias.sum((0, 1))


def normalize(
    x: Float[Array, "B T N D"],
    scale: Float[Array, "D"],
    bias: Float[Array, "D"],
    *,
    epsilon: float,
    interpret: bool = False,
) -> Float[Array, "B T N D"]:
    """Normalise tokens.

    Args:
        x: Tokens, in float16 or bfloat16.
        scale: Multiplies the normalised tokens.
        bias: Added after scaling.
        epsilon: Added to the variance.
        interpret: Run as ordinary JAX operations on any device, which is slow and meant for tests.

    Returns:
        The normalised tokens, in the dtype of x.
    """
    (y,) = _partitioned_kernel("forward", epsilon, interpret)(x, scale, bias)
    return y


TOKENS, SUMS = "b x y d", "b x d"


@functools.cache
def _partitioned_kernel(direction: str, epsilon: float, interpret: bool) -> Any:
    taken, given = {
        "forward": ((("x", TOKENS), ("scale", "d"), ("bias", "d")), (("y", TOKENS),)),
        "backward": (
            (("x", TOKENS), ("scale", "d"), ("gradient", TOKENS), ("residual", TOKENS)),
            (("dx", TOKENS), ("dscale", SUMS), ("dbias", SUMS)),
        ),
    }[direction]
    call = {"forward": _call_forward, "backward": _call_backward}[direction]
    return partitioned(functools.partial(call, epsilon, interpret), taken, given, summed=("dscale", "dbias"))


def _call_forward(epsilon: float, interpret: bool, x: Array, scale: Array, bias: Array) -> tuple[Array]:
    tokens, sums = _shapes(x, FORWARD_PROGRAMS)
    (y,) = _launch(_forward_kernel, epsilon, (tokens,), sums.shape[1], interpret)(x.reshape(tokens.shape), scale, bias)
    return (y.reshape(x.shape),)


def _call_backward(epsilon: float, interpret: bool, x: Array, scale: Array, *gradients: Array) -> tuple[Array, Array, Array]:
    tokens, sums = _shapes(x, BACKWARD_PROGRAMS)
    call = _launch(_backward_kernel, epsilon, (tokens, sums, sums), sums.shape[1], interpret)
    dx, *parts = call(x.reshape(tokens.shape), scale, *(gradient.reshape(tokens.shape) for gradient in gradients))
    dscale, dbias = (part.sum(1).reshape(*x.shape[:2], -1) for part in parts)
    return dx.reshape(x.shape), dscale, dbias


def _shapes(x: Array, programs: int) -> tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]:
    """Return the shapes of the tokens and of the programs' sums."""
    batch, frames, patches, dim = x.shape
    groups = batch * frames
    parts = min(-(-programs // groups), patches)
    return (
        jax.ShapeDtypeStruct((groups, patches, dim), x.dtype),
        jax.ShapeDtypeStruct((groups, parts, dim), jnp.float32),
    )


def _launch(kernel: Any, epsilon: float, given: tuple[jax.ShapeDtypeStruct, ...], parts: int, interpret: bool) -> Any:
    """Return a function that launches a kernel with `parts` programs per frame."""
    from jax.experimental import pallas as pl
    from jax.experimental.pallas import triton

    groups, _, dim = given[0].shape
    return pl.pallas_call(
        functools.partial(kernel, epsilon),
        grid=(groups, parts),
        out_shape=given,
        compiler_params=triton.CompilerParams(num_warps=max(power_of_two(dim) // 1024, 1), num_stages=1),
        interpret=interpret,
        name=f"layer_norm{kernel.__name__.removesuffix('_kernel')}",
    )


class _Tokens:
    """Tokens of a program, which are processed one after another, each as an array in registers."""

    def __init__(self, ref: Any):
        from jax.experimental import pallas as pl

        self._group, self._part, self._num_parts = pl.program_id(0), pl.program_id(1), pl.num_programs(1)
        _, self._patches, self._dim = ref.shape
        # The first column is made dynamic, because Pallas refuses constant slices that exceed the array, masked or not.
        self._columns = pl.ds(0 * self._group, power_of_two(self._dim))
        self._exists = jnp.arange(power_of_two(self._dim)) < self._dim

    @property
    def count(self) -> Any:
        return (self._patches - self._part + self._num_parts - 1) // self._num_parts

    def load(self, ref: Any, i: Any) -> Array:
        from jax.experimental.pallas import triton

        return triton.load(ref.at[self._here(i)], mask=self._exists, other=0.0).astype(jnp.float32)

    def store(self, ref: Any, i: Any, x: Array) -> None:
        from jax.experimental.pallas import triton

        triton.store(ref.at[self._here(i)], x.astype(ref.dtype), mask=self._exists)

    def channels(self, ref: Any) -> Array:
        """Load the scale or the bias."""
        from jax.experimental.pallas import triton

        return triton.load(ref.at[self._columns], mask=self._exists, other=0.0).astype(jnp.float32)

    def store_sum(self, ref: Any, total: Array) -> None:
        """Store a sum over the program's tokens."""
        from jax.experimental.pallas import triton

        triton.store(ref.at[self._group, self._part, self._columns], total, mask=self._exists)

    def mean(self, x: Array) -> Array:
        """Average over the channels; those that don't exist must be zero."""
        return x.sum() / self._dim

    def standardize(self, x: Array, epsilon: float) -> tuple[Array, Array]:
        """Return x with mean 0 and variance 1, and 1 / its standard deviation."""
        centred = jnp.where(self._exists, x - self.mean(x), 0.0)
        rate = jax.lax.rsqrt(self.mean(centred * centred) + epsilon)
        return centred * rate, rate

    def _here(self, i: Any) -> Any:
        return self._group, self._part + i * self._num_parts, self._columns


def _forward_kernel(epsilon: float, x_ref: Any, scale_ref: Any, bias_ref: Any, y_ref: Any) -> None:
    tokens = _Tokens(x_ref)
    scale, bias = tokens.channels(scale_ref), tokens.channels(bias_ref)

    def one_token(i: Any, nothing: None) -> None:
        normal, _ = tokens.standardize(tokens.load(x_ref, i), epsilon)
        tokens.store(y_ref, i, normal * scale + bias)

    jax.lax.fori_loop(0, tokens.count, one_token, None)


def _backward_kernel(
    epsilon: float,
    x_ref: Any,
    scale_ref: Any,
    gradient_ref: Any,
    residual_ref: Any,
    dx_ref: Any,
    dscale_ref: Any,
    dbias_ref: Any,
) -> None:
    tokens = _Tokens(x_ref)
    scale = tokens.channels(scale_ref)

    def one_token(i: Any, sums: tuple[Array, Array]) -> tuple[Array, Array]:
        x, gradient, residual = (tokens.load(ref, i) for ref in (x_ref, gradient_ref, residual_ref))
        normal, rate = tokens.standardize(x, epsilon)
        dnormal = gradient * scale
        dx = (dnormal - tokens.mean(dnormal) - normal * tokens.mean(dnormal * normal)) * rate
        tokens.store(dx_ref, i, residual + dx)
        dscale, dbias = sums
        return dscale + gradient * normal, dbias + gradient

    zeros = jnp.zeros_like(scale)
    for ref, total in zip((dscale_ref, dbias_ref), jax.lax.fori_loop(0, tokens.count, one_token, (zeros, zeros)), strict=True):
        tokens.store_sum(ref, total)
