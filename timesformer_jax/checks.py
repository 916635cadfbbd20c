"""Checks of arguments, each of which raises `InputError` with the name, what was expected and what was got."""

from collections.abc import Iterable
from numbers import Integral
from typing import Any

from timesformer_jax.errors import InputError


def check_choice(name: str, value: Any, choices: Iterable[str]) -> None:
    """Raise `InputError` if `value` is not one of `choices`."""
    if value not in choices:
        raise InputError(f"{name} must be one of {', '.join(choices)}, got {value!r}.")


def check_whole(name: str, value: Any, *, least: int = 1) -> None:
    """Raise `InputError` unless `value` is a whole number of at least `least`."""
    if not isinstance(value, Integral) or value < least:
        raise InputError(f"{name} must be a whole number of at least {least}, got {value!r}.")


def check_crops(num_crops: int) -> None:
    """Raise `InputError` unless `num_crops` is a number of crops that evaluation can take from a clip."""
    if num_crops not in (1, 3):
        raise InputError(f"num_crops must be 1 (centre) or 3 (along the long side), got {num_crops}.")
