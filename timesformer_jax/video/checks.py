"""Checks of arguments that several modules take."""

from typing import Any

import numpy as np

from timesformer_jax.errors import InputError


def check_whole(name: str, value: Any, *, least: int = 1) -> None:
    """Raise `InputError` unless a value is a whole number of at least `least`."""
    if not isinstance(value, int | np.integer) or value < least:
        raise InputError(f"{name} must be a whole number, at least {least}, got {value!r}.")


def check_crops(num_crops: int) -> None:
    """Raise `InputError` for another number of crops than evaluation takes from a clip."""
    if num_crops not in (1, 3):
        raise InputError(f"num_crops must be 1 (centre) or 3 (along the long side), got {num_crops}.")
