"""Optax optimizers by name, with learning rates per parameter and layer."""

import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from timesformer_jax._typing import Array
from timesformer_jax.checks import check_choice
from timesformer_jax.errors import InputError
from timesformer_jax.training.schedules import Steps, make_schedule
from timesformer_jax.training.sharding import path_of

Mask = Callable[[Any], Any]


class Settings(NamedTuple):
    """Settings of an optimizer.

    Attributes:
        weight_decay: Weight decay.
        mask: Maps parameters to a tree of booleans: True for those that decay.
        momentum: Momentum of SGD, or the first beta.
        b2: The second beta.
    """

    weight_decay: float
    mask: Mask
    momentum: float
    b2: float


def _decay(given: Settings) -> optax.GradientTransformation:
    return optax.add_decayed_weights(given.weight_decay, given.mask)


OPTIMIZERS: dict[str, Callable[[Settings], list[optax.GradientTransformation]]] = {
    # As in PyTorch, the decay is added to the gradient before the momentum. Source: official `models/optimizer.py`.
    "sgd": lambda given: [_decay(given), optax.trace(given.momentum, nesterov=True)],
    "adamw": lambda given: [optax.scale_by_adam(b1=given.momentum, b2=given.b2), _decay(given)],
    "lion": lambda given: [optax.scale_by_lion(b1=given.momentum, b2=given.b2), _decay(given)],
    "lamb": lambda given: [
        optax.scale_by_adam(b1=given.momentum, b2=given.b2, eps=1e-6),
        _decay(given),
        optax.stateless(_times_trust_ratio),
    ],
}
"""Maps a name to the transformations applied to clipped gradients, before scaling by the learning rate."""


class Optimizer(NamedTuple):
    """Optimizer made by `make_optimizer`."""

    transformation: optax.GradientTransformation
    """The complete optax transformation, learning rate included."""
    learning_rate: optax.Schedule
    """Maps a step to the learning rate, before the factors of individual parameters."""
    trained: Callable[[Any], Any]
    """Maps parameters to a tree of booleans: False for frozen parameters."""


def make_optimizer(
    *,
    name: str,
    learning_rate: float,
    schedule: str,
    steps: Steps,
    warmup_epochs: float,
    weight_decay: float,
    decay_pattern: str,
    clip_norm: float,
    momentum: float,
    b2: float,
    layer_decay: float,
    rates: Sequence[Any],
    depth: int,
    num_epochs: float,
    steps_per_epoch: float,
) -> Optimizer:
    """Make an optimizer with a learning-rate schedule, weight decay, clipping and per-parameter learning rates.

    Patterns are regular expressions that must match a parameter's whole path, such as `blocks/attn/qkv/kernel`.

    Args:
        name: Optimizer, a key of `OPTIMIZERS`.
        learning_rate: Peak learning rate.
        schedule: Learning-rate schedule, a key of `SCHEDULES`.
        steps: Steps of the schedule "steps": (epoch, fraction of the peak) pairs, the first at epoch 0, such as
            `((0, 1.0), (11, 0.1))`. Instead of an epoch, a pair may give a part of the run as text, such as `"11/15"`.
        warmup_epochs: Epochs in which the learning rate rises linearly from 0 to its peak.
        weight_decay: Weight decay of the parameters that match `decay_pattern`.
        decay_pattern: Pattern of the parameters that decay.
        clip_norm: Maximum global norm of the gradient; 0 disables clipping. Frozen parameters don't count.
        momentum: Momentum of SGD, or the first beta of the other optimizers, in [0, 1).
        b2: Second beta, in [0, 1). SGD ignores it.
        layer_decay: Factor of the learning rate per layer below the classifier, in (0, 1]; 1.0 disables it. The classifier and
            the last LayerNorm have the factor 1, the last block `layer_decay`, and the embeddings
            `layer_decay ** (depth + 1)` (Bao et al. 2022).
        rates: (pattern, factor) pairs. The first pattern that matches a parameter sets the factor of its learning rate, at
            least 0; None or 0 freezes the parameter. Every parameter must match a pattern.
        depth: Number of the model's blocks.
        num_epochs: Length of the run in epochs.
        steps_per_epoch: Optimizer steps per epoch.

    Returns:
        The optimizer, its learning rate over time and the parameters that it trains.

    Raises:
        InputError: If a name is unknown, a pattern is not a regular expression, or a number is out of range.
    """
    check_choice("name", name, OPTIMIZERS)
    for field, value, valid in (
        ("weight_decay", weight_decay, weight_decay >= 0),
        ("clip_norm", clip_norm, clip_norm >= 0),
        ("momentum", momentum, 0 <= momentum < 1),
        ("b2", b2, 0 <= b2 < 1),
        ("layer_decay", layer_decay, 0 < layer_decay <= 1),
    ):
        if not valid:
            bounds = (
                "above 0 and at most 1"
                if field == "layer_decay"
                else "at least 0" + (" and below 1" if field in ("momentum", "b2") else "")
            )
            raise InputError(f"{field} must be {bounds}, got {value}.")
    decays = _compile("decay_pattern", decay_pattern)
    rate = _rate_of_path(rates)

    def by_path(choose: Callable[[str, Any], Any]) -> Mask:
        return lambda params: jax.tree_util.tree_map_with_path(lambda keys, leaf: choose(path_of(keys), leaf), params)

    trained = by_path(lambda path, _: rate(path) is not None)
    given = Settings(weight_decay, by_path(lambda path, _: decays.fullmatch(path) is not None), momentum, b2)
    learning_rate_at = make_schedule(
        name=schedule,
        learning_rate=learning_rate,
        warmup_epochs=warmup_epochs,
        steps=steps,
        num_epochs=num_epochs,
        steps_per_epoch=steps_per_epoch,
    )
    moving = optax.chain(
        # Always in the chain, so that checkpoints are compatible with and without clipping.
        optax.clip_by_global_norm(clip_norm) if clip_norm else optax.identity(),
        *OPTIMIZERS[name](given),
        optax.stateless(lambda updates, params: _times(updates, layer_factors(updates, layer_decay, depth, rate))),
        optax.scale_by_learning_rate(learning_rate_at),
    )
    labels = by_path(lambda path, _: "frozen" if rate(path) is None else "moving")
    # Frozen parameters have no moments and are excluded from the gradient's norm.
    transformation = optax.partition({"moving": moving, "frozen": optax.set_to_zero()}, labels)
    return Optimizer(transformation, learning_rate_at, trained)


def frozen_paths(rates: Sequence[Any], params: Any) -> list[str]:
    """Paths of the parameters that `rates` freezes; the optimizer's state has no arrays for them."""
    rate = _rate_of_path(rates)
    paths = (path_of(keys) for keys, _ in jax.tree_util.tree_flatten_with_path(params)[0])
    return [path for path in paths if rate(path) is None]


def _rate_of_path(rates: Sequence[Any]) -> Callable[[str], float | None]:
    """Compile `rates` into a function from a parameter's path to its factor, or None if the parameter is frozen."""
    if not all(
        isinstance(rate, tuple | list) and len(rate) == 2 and isinstance(rate[0], str) and _is_factor(rate[1]) for rate in rates
    ):
        raise InputError(
            f"rates must be (pattern, factor of at least 0 or None) pairs, such as (('.*', 1.0),); got {tuple(rates)}."
        )
    table = [(_compile("rates", pattern), factor) for pattern, factor in rates]

    def rate(path: str) -> float | None:
        for pattern, factor in table:
            if pattern.fullmatch(path):
                return factor or None
        raise InputError(f"rates has no pattern for the parameter {path}: end it with ('.*', 1.0), or ('.*', None).")

    return rate


def layer_factors(params: Any, layer_decay: float, depth: int, rate: Callable[[str], float | None]) -> Any:
    """Factor of each parameter's learning rate: a scalar, or `[depth, 1, ...]` for stacked blocks.

    Args:
        params: Parameters, or updates of them.
        layer_decay: As in `make_optimizer`.
        depth: Number of the model's blocks.
        rate: Maps a parameter's path to its factor, None if it is frozen.
    """

    def factor(keys: Any, leaf: Any) -> Any:
        path = path_of(keys)
        below: Any = 0  # number of layers below the classifier
        if block := re.match(r"blocks_(\d+)/", path):
            below = depth - int(block[1])
        elif path.startswith("blocks/"):
            below = (depth - jnp.arange(depth)).reshape(depth, *(1,) * (leaf.ndim - 1))
        elif not path.startswith(("head/", "norm/")):
            below = depth + 1
        return (rate(path) or 0.0) * jnp.asarray(layer_decay, jnp.float32) ** below

    return jax.tree_util.tree_map_with_path(factor, params)


def _times(updates: Any, factors: Any) -> Any:
    return jax.tree.map(lambda update, factor: update * factor.astype(update.dtype), updates, factors)


def _times_trust_ratio(updates: Any, params: Any) -> Any:
    """Like optax's `scale_by_trust_ratio`, but with a separate ratio for each stacked block."""

    def scale(keys: Any, update: Array, param: Array) -> Array:
        axes = tuple(range(int(path_of(keys).startswith("blocks/")), update.ndim))
        length, step = (jnp.sqrt(jnp.square(x).sum(axis=axes, keepdims=True)) for x in (param, update))
        ratio = jnp.where((length == 0) | (step == 0), 1.0, length / jnp.where(step == 0, 1.0, step))
        return update * ratio.astype(update.dtype)

    return jax.tree_util.tree_map_with_path(scale, updates, params)


def _is_factor(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and value >= 0)


def _compile(field: str, pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise InputError(f"{field} has {pattern!r}, which is not a regular expression: {error}.") from error
