"""Fully convolutional evaluation: class scores at every place of the feature maps, averaged as probabilities."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from timesformer_jax._typing import Array, Float


def _mean_softmax(logits: Float[Array, "B places classes"]) -> Float[Array, "B classes"]:
    normalizer = jax.nn.logsumexp(logits, axis=-1, keepdims=True)
    return _log_mean(logits - normalizer) + normalizer.mean(axis=1)


def _mean_sigmoid(logits: Float[Array, "B places classes"]) -> Float[Array, "B classes"]:
    return _log_mean(jax.nn.log_sigmoid(logits)) - _log_mean(jax.nn.log_sigmoid(-logits))


def _log_mean(logarithms: Float[Array, "B places classes"]) -> Float[Array, "B classes"]:
    """Return the logarithm of the mean over places of exp(`logarithms`)."""
    return jax.nn.logsumexp(logarithms, axis=1) - jnp.log(jnp.float32(logarithms.shape[1]))


MEAN_LOGITS: dict[str, Callable[[Array], Array]] = {"softmax": _mean_softmax, "sigmoid": _mean_sigmoid}
"""Maps an objective to the function that averages places: its result has the mean probability as its softmax or sigmoid.

The logits of a single place are returned as they are, up to rounding.
"""


def pool_windows(x: Float[Array, "B T h w C"], window: tuple[int, int]) -> Float[Array, "B places C"]:
    """Average over all frames and over every window of rows and columns, at stride 1.

    Windows larger than the map are cut to it.
    """
    x = x.astype(jnp.float32).mean(axis=1)
    rows, columns = (min(size, length) for size, length in zip(window, x.shape[1:3], strict=True))
    sums = jax.lax.reduce_window(x, 0.0, jax.lax.add, (1, rows, columns, 1), (1, 1, 1, 1), "VALID")
    return (sums / (rows * columns)).reshape(x.shape[0], -1, x.shape[-1])
