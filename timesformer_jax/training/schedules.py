"""Learning rates over time, as functions of the epoch; the paper's and the usual ones."""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import optax

from timesformer_jax.errors import InputError

Factor = Callable[[Any], Any]
"""Epochs since the beginning (a fraction) -> the learning rate's share of its peak."""


def _constant(warmup: float, epochs: float, steps: Sequence[tuple[float, float]]) -> Factor:
    return lambda epoch: jnp.ones_like(epoch)


def _linear(warmup: float, epochs: float, steps: Sequence[tuple[float, float]]) -> Factor:
    return lambda epoch: 1 - _progress(epoch, warmup, epochs)


def _cosine(warmup: float, epochs: float, steps: Sequence[tuple[float, float]]) -> Factor:
    return lambda epoch: 0.5 * (1 + jnp.cos(math.pi * _progress(epoch, warmup, epochs)))


def _progress(epoch: Any, warmup: float, epochs: float) -> Any:
    """From 0 at the end of the warm-up to 1 at the end."""
    return jnp.clip((epoch - warmup) / max(epochs - warmup, 1e-9), 0.0, 1.0)


def _steps(warmup: float, epochs: float, steps: Sequence[tuple[float, float]]) -> Factor:
    """The official `steps_with_relative_lrs`: `(0, 1), (11, 0.1), (14, 0.01)`."""
    valid = all(isinstance(step, Sequence) and len(step) == 2 for step in steps) and len(steps) > 0
    if not valid or steps[0][0] != 0 or any(a[0] >= b[0] for a, b in itertools.pairwise(steps)):
        raise InputError(
            "optimizer.steps must be (epoch, share of learning_rate) pairs, the first at epoch 0 and each later than the one "
            f"before, such as ((0, 1.0), (11, 0.1), (14, 0.01)); got {tuple(steps)}."
        )

    def factor(epoch: Any) -> Any:
        value = jnp.full_like(epoch, steps[0][1])
        for begin, share in steps[1:]:
            value = jnp.where(epoch >= begin, share, value)
        return value

    return factor


SCHEDULES: dict[str, Callable[[float, float, Sequence[tuple[float, float]]], Factor]] = {
    "constant": _constant,
    "linear": _linear,
    "cosine": _cosine,
    "steps": _steps,
}
"""Name -> (epochs of warm-up, epochs in all, `optimizer.steps`) -> the factor. Source: official `utils/lr_policy.py`."""


def make_schedule(
    *,
    name: str,
    learning_rate: float,
    warmup_epochs: float,
    steps: Sequence[tuple[float, float]],
    num_epochs: float,
    steps_per_epoch: float,
) -> optax.Schedule:
    """The learning rate at each step: its peak `learning_rate`, reached after `warmup_epochs` of linear rise from 0, times
    the factor of `SCHEDULES[name]`.

    Raises `InputError` for another name, or numbers that can't be.
    """
    if name not in SCHEDULES:
        raise InputError(f"optimizer.schedule must be one of {', '.join(SCHEDULES)}, got {name!r}.")
    if warmup_epochs < 0 or learning_rate <= 0:
        raise InputError(
            f"optimizer.learning_rate must be positive and warmup_epochs not negative, got {learning_rate} and {warmup_epochs}."
        )
    factor = SCHEDULES[name](warmup_epochs, num_epochs, steps)

    def schedule(step: Any) -> Any:
        epoch = jnp.asarray(step, jnp.float32) / steps_per_epoch
        rise = jnp.clip(epoch / warmup_epochs, 0.0, 1.0) if warmup_epochs else jnp.float32(1.0)
        return learning_rate * rise * factor(epoch)

    return schedule
