"""Optimizers and learning-rate schedules by name, from optax."""

import re
from collections.abc import Callable
from typing import Any

import jax
import optax

from timesformer_jax.errors import InputError


def _sgd(learning_rate: optax.Schedule, weight_decay: float, mask: Callable[[Any], Any]) -> optax.GradientTransformation:
    # As in PyTorch, decay joins the gradient before the momentum. Source: official `models/optimizer.py`.
    return optax.chain(optax.add_decayed_weights(weight_decay, mask), optax.sgd(learning_rate, momentum=0.9, nesterov=True))


def _adamw(learning_rate: optax.Schedule, weight_decay: float, mask: Callable[[Any], Any]) -> optax.GradientTransformation:
    return optax.adamw(learning_rate, weight_decay=weight_decay, mask=mask)


OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {"sgd": _sgd, "adamw": _adamw}

SCHEDULES: dict[str, Callable[[float, int], optax.Schedule]] = {
    "constant": lambda peak, steps: optax.constant_schedule(peak),
    "cosine": lambda peak, steps: optax.cosine_decay_schedule(peak, max(steps, 1)),
}
"""Name -> (peak learning rate, steps after the warm-up) -> schedule."""


def make_optimizer(
    *,
    name: str,
    learning_rate: float,
    schedule: str,
    warmup_steps: int,
    weight_decay: float,
    decay_pattern: str,
    clip_norm: float,
    total_steps: int,
) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """The optimizer and its learning rate as a function of the step.

    `learning_rate` is the peak, reached after `warmup_steps` of linear rise from 0. Parameters whose path (such as
    `blocks/attn/qkv/kernel`) matches `decay_pattern` whole decay by `weight_decay`. Gradients longer than `clip_norm` are
    shortened to it; 0 leaves them.

    Raises `InputError` for a name that isn't in `OPTIMIZERS` or `SCHEDULES`.
    """
    for field, value, table in (("name", name, OPTIMIZERS), ("schedule", schedule, SCHEDULES)):
        if value not in table:
            raise InputError(f"optimizer.{field} must be one of {', '.join(table)}, got {value!r}.")
    if warmup_steps < 0 or learning_rate <= 0:
        raise InputError(
            f"optimizer.learning_rate must be positive and warmup_steps not negative, got {learning_rate} and {warmup_steps}."
        )
    try:
        pattern = re.compile(decay_pattern)
    except re.error as error:
        raise InputError(f"optimizer.decay_pattern={decay_pattern!r} is no regular expression: {error}.") from error
    rate = SCHEDULES[schedule](learning_rate, total_steps - warmup_steps)
    if warmup_steps:
        rate = optax.join_schedules([optax.linear_schedule(0.0, learning_rate, warmup_steps), rate], [warmup_steps])

    def mask(params: Any) -> Any:
        return jax.tree_util.tree_map_with_path(
            lambda path, _: pattern.fullmatch("/".join(key.key for key in path)) is not None, params
        )

    # Always in the chain, so that a checkpoint fits whether gradients are clipped or not.
    clip = optax.clip_by_global_norm(clip_norm) if clip_norm else optax.identity()
    return optax.chain(clip, OPTIMIZERS[name](rate, weight_decay, mask)), rate
