"""Weights of a model: its parameters, and the running statistics of its BatchNorm layers if it has any.

Code outside this module handles weights as one tree. For a model without BatchNorm, they are the tree of parameters. For one
with BatchNorm, they are Flax's `{"params": ..., "batch_stats": ...}`.
"""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from timesformer_jax._typing import Array
from timesformer_jax.modeling.checks import pair
from timesformer_jax.modeling.timesformer import TimeSformer, parameter_shapes

STATISTICS = "batch_stats"
"""Flax's collection of running statistics."""


def weights_of(params: Any, batch_stats: Any) -> Any:
    """Combine parameters and running statistics (an empty dict if the model has none) into weights."""
    return {"params": params, STATISTICS: batch_stats} if batch_stats else params


def variables_of(weights: Any) -> dict[str, Any]:
    """Return weights as `model.apply` takes them; parameters alone are accepted too."""
    return dict(weights) if isinstance(weights, Mapping) and STATISTICS in weights else {"params": weights}


def input_shape(model: nn.Module) -> tuple[int, int, int, int, int]:
    """Shape `[1, T, H, W, C]` of one clip of the model's own size."""
    if isinstance(model, TimeSformer):
        height, width = (size * model.patch_size for size in model.grid)
        return 1, model.num_frames, height, width, model.num_channels
    convolutional: Any = model
    return 1, convolutional.num_frames, *pair(convolutional.image_size), 3


def init_weights(model: nn.Module, key: Array) -> Any:
    """Initialise a model's weights at random."""
    variables: Any = model.init(key, jnp.zeros(input_shape(model)))
    return weights_of(variables["params"], variables.get(STATISTICS, {}))


@functools.lru_cache(maxsize=16)
def _traced_shapes(model: nn.Module) -> Any:
    return jax.eval_shape(functools.partial(init_weights, model), jax.eval_shape(lambda: jax.random.key(0)))


def weight_shapes(model: nn.Module) -> Any:
    """Return the model's weights with shapes and dtypes as leaves, without computing or allocating anything."""
    if isinstance(model, TimeSformer):
        return parameter_shapes(model)
    return jax.tree.map(lambda leaf: leaf, _traced_shapes(model))  # a copy, since callers may change the dict


def apply_and_update(model: nn.Module, params: Any, batch_stats: Any, video: Array, dropout_key: Array) -> tuple[Array, Any]:
    """Compute a training batch's logits, and update the running statistics with those of the batch.

    Returns:
        The logits and the new statistics. A model without BatchNorm has none before and after.
    """
    variables = variables_of(weights_of(params, batch_stats))
    apply = functools.partial(model.apply, variables, video, train=True, rngs={"dropout": dropout_key})
    if not batch_stats:
        logits: Any = apply()
        return logits, batch_stats
    logits, updated = apply(mutable=[STATISTICS])
    return logits, jax.lax.stop_gradient(updated[STATISTICS])
