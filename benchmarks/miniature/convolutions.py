"""Convolutions as matrix products, which XLA computes many times faster on CPUs than small 3D convolutions."""

import itertools
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from timesformer_jax._typing import Array


def convolve(x: Array, kernel: Array, strides: Any, padding: Any) -> Array:
    """Convolve `[B, T, H, W, C]` with `[t, h, w, C, D]`: one product for each frame of the kernel."""
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    frames, rows, columns, channels, width = kernel.shape
    new = [(size - length) // stride + 1 for size, length, stride in zip(x.shape[1:], kernel.shape, strides, strict=False)]

    def every(axis: int, first: int) -> slice:
        return slice(first, first + (new[axis] - 1) * strides[axis] + 1, strides[axis])

    places = itertools.product(range(rows), range(columns))
    patches = jnp.concatenate([x[:, :, every(1, row), every(2, column)] for row, column in places], axis=-1)
    kernels = kernel.reshape(frames, rows * columns * channels, width)
    return sum((patches[:, every(0, frame)] @ kernels[frame] for frame in range(frames)), start=jnp.float32(0))


def as_products(run: Callable[..., Any], args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
    """Replace the computation of `nn.Conv` by `convolve`; for `nn.intercept_methods`."""
    layer: Any = context.module
    if not isinstance(layer, nn.Conv) or context.method_name != "__call__" or layer.is_initializing():
        return run(*args, **kwargs)
    return convolve(args[0], layer.variables["params"]["kernel"], layer.strides, layer.padding)
