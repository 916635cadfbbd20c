"""Scores of the classes, from logits: which function depends on whether a video has one label or any number."""

from collections.abc import Callable

import jax

from timesformer_jax._typing import Array
from timesformer_jax.errors import InputError

SCORES: dict[str, Callable[[Array], Array]] = {
    "softmax": lambda logits: jax.nn.softmax(logits, axis=-1),
    "sigmoid": jax.nn.sigmoid,
}
"""Objective -> logits to probabilities: "softmax" for models of one label a video, "sigmoid" for any number of labels."""


def check_objective(objective: object) -> str:
    """Return `objective`; raises `InputError` if it is not a key of `SCORES`."""
    if not isinstance(objective, str) or objective not in SCORES:
        raise InputError(f"objective must be one of {', '.join(SCORES)}, got {objective!r}.")
    return objective
