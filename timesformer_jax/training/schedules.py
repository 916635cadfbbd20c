"""Learning-rate schedules as functions of the epoch: the paper's and other common ones."""

import itertools
import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import jax.numpy as jnp
import optax

from timesformer_jax.checks import check_choice
from timesformer_jax.errors import InputError

Factor = Callable[[Any], Any]
"""Maps the (fractional) epoch to the learning rate as a fraction of its peak."""


Steps = Sequence[tuple[float | str, float]]
"""(epoch, fraction of the peak) pairs; the epoch may also be a part of the run as text, such as "11/15"."""


def _constant(warmup: float, epochs: float, steps: Steps) -> Factor:
    return lambda epoch: jnp.ones_like(epoch)


def _linear(warmup: float, epochs: float, steps: Steps) -> Factor:
    return lambda epoch: 1 - _progress(epoch, warmup, epochs)


def _cosine(warmup: float, epochs: float, steps: Steps) -> Factor:
    return lambda epoch: 0.5 * (1 + jnp.cos(math.pi * _progress(epoch, warmup, epochs)))


def _progress(epoch: Any, warmup: float, epochs: float) -> Any:
    """Progress from 0 at the end of the warm-up to 1 at the end of the run."""
    return jnp.clip((epoch - warmup) / max(epochs - warmup, 1e-9), 0.0, 1.0)


def _steps(warmup: float, epochs: float, steps: Steps) -> Factor:
    """Piecewise-constant schedule, like the official `steps_with_relative_lrs`.

    Example steps: `(0, 1), (11, 0.1), (14, 0.01)`, or `("11/15", 0.1)` for any number of epochs.
    """
    begins = [_begin(step, epochs) for step in steps]
    shares = [step[1] for step in steps if isinstance(step, Sequence) and len(step) == 2]
    if not all(isinstance(share, int | float) and 0 <= share < math.inf for share in shares):
        raise InputError(f"steps must have shares of learning_rate of at least 0, got {tuple(steps)}.")
    if None in begins or not begins or begins[0] != 0 or any(a >= b for a, b in itertools.pairwise(begins)):
        raise InputError(
            "steps must be (epoch, share of learning_rate) pairs, the first at epoch 0 and each later than the one "
            "before, such as ((0, 1.0), (11, 0.1), (14, 0.01)); instead of an epoch a fraction of the run can be given as "
            f'text, such as "11/15"; got {tuple(steps)}.'
        )

    def factor(epoch: Any) -> Any:
        value = jnp.full_like(epoch, steps[0][1])
        for begin, (_, share) in zip(begins[1:], steps[1:], strict=True):
            value = jnp.where(epoch >= begin, share, value)
        return value

    return factor


def _begin(step: Any, epochs: float) -> Any:
    """Epoch at which a step begins; None if `step` is malformed."""
    if not isinstance(step, Sequence) or len(step) != 2:
        return None
    if not isinstance(step[0], str):
        return step[0] if isinstance(step[0], int | float) and math.isfinite(step[0]) else None
    try:
        share = Fraction(step[0])
    except (ValueError, ZeroDivisionError):
        return None
    return float(share * Fraction(epochs)) if 0 <= share < 1 else None


SCHEDULES: dict[str, Callable[[float, float, Steps], Factor]] = {
    "constant": _constant,
    "linear": _linear,
    "cosine": _cosine,
    "steps": _steps,
}
"""Maps a name to a function (warm-up epochs, epochs, `optimizer.steps`) -> factor. Source: official `utils/lr_policy.py`."""


def make_schedule(
    *,
    name: str,
    learning_rate: float,
    warmup_epochs: float,
    steps: Steps,
    num_epochs: float,
    steps_per_epoch: float,
) -> optax.Schedule:
    """Make a schedule that maps a step to its learning rate.

    The learning rate is the peak times the factor of `SCHEDULES[name]`, with a linear warm-up from 0.

    Args:
        name: A key of `SCHEDULES`.
        learning_rate: Peak learning rate.
        warmup_epochs: Epochs of warm-up.
        steps: Steps of the schedule "steps".
        num_epochs: Length of the run in epochs.
        steps_per_epoch: Optimizer steps per epoch.

    Raises:
        InputError: If the name is unknown or a value is out of range.
    """
    check_choice("schedule", name, SCHEDULES)
    if not warmup_epochs >= 0 or not learning_rate > 0:  # also true of NaN
        raise InputError(
            f"learning_rate must be positive and warmup_epochs must not be negative, got {learning_rate} and {warmup_epochs}."
        )
    factor = SCHEDULES[name](warmup_epochs, num_epochs, steps)

    def schedule(step: Any) -> Any:
        epoch = jnp.asarray(step, jnp.float32) / steps_per_epoch
        rise = jnp.clip(epoch / warmup_epochs, 0.0, 1.0) if warmup_epochs else jnp.float32(1.0)
        return learning_rate * rise * factor(epoch)

    return schedule
