"""Class scores from logits, for single-label and multi-label models."""

from collections.abc import Callable

import jax

from timesformer_jax._typing import Array
from timesformer_jax.errors import InputError

SCORES: dict[str, Callable[[Array], Array]] = {
    "softmax": lambda logits: jax.nn.softmax(logits, axis=-1),
    "sigmoid": jax.nn.sigmoid,
}
"""Maps an objective to its function from logits to probabilities: "softmax" for single-label, "sigmoid" for multi-label."""


def check_objective(objective: object) -> str:
    """Return `objective`. Raises `InputError` if it is not a key of `SCORES`."""
    if not isinstance(objective, str) or objective not in SCORES:
        raise InputError(f"objective must be one of {', '.join(SCORES)}, got {objective!r}.")
    return objective
