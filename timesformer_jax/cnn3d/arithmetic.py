"""Multiply-adds of a network, from the shapes of its layers."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from timesformer_jax.cnn3d.models import ConvNet


def count_layer_multiply_adds(model: ConvNet, num_frames: int, sides: tuple[int, int], *, padding: bool = True) -> int:
    """Count the multiply-adds of all convolutions and of the classifier, for one clip in evaluation.

    Args:
        model: The network.
        num_frames: Number of frames.
        sides: Height and width in pixels.
        padding: Whether to count products with the padding, as papers do. XLA doesn't.

    Returns:
        The number of multiply-adds.

    Raises:
        InputError: If the network can't compute such a clip.
    """
    total = 0

    def count(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        nonlocal total
        outputs, layer = call(*args, **kwargs), context.module
        if context.method_name == "__call__" and isinstance(layer, nn.Conv):
            taps = [
                _taps(*sizes, padding=padding)
                for sizes in zip(args[0].shape[1:4], outputs.shape[1:4], layer.kernel_size, layer.strides, strict=True)  # pyright: ignore[reportArgumentType]
            ]
            total += math.prod(taps) * args[0].shape[-1] * outputs.shape[-1]
        elif context.method_name == "__call__" and isinstance(layer, nn.Dense):
            total += args[0].size * outputs.shape[-1]
        return outputs

    video = jax.ShapeDtypeStruct((1, num_frames, *sides, 3), jnp.float32)
    with nn.intercept_methods(count):
        jax.eval_shape(model.init, jax.random.key(0), video)
    return total


def _taps(size: int, outputs: int, kernel: int, stride: int, *, padding: bool) -> int:
    """Count the pairs of an output and a tap of the kernel along one axis, with padding by half the kernel."""
    if padding:
        return outputs * kernel
    starts = [i * stride - kernel // 2 for i in range(outputs)]
    return sum(min(start + kernel, size) - max(start, 0) for start in starts)
