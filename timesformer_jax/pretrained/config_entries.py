"""What a configuration next to the weights states, and its typed entries."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from timesformer_jax.errors import InputError, shown


class Stated(NamedTuple):
    """The contents of a configuration, in this library's terms."""

    fields: Mapping[str, Any]
    """Fields of the model; `num_classes` is the classifier's, where the weights have one."""
    preprocess: Mapping[str, Any]
    """Entries of `Preprocess`, and `interpolation`, the way images were resized."""
    labels: Sequence[str] | None = None
    pooled: str | None = None
    """What the classifier reads, if that isn't the class token."""
    objective: Any = None
    """As the configuration spells it."""


TYPES: dict[type, str] = {str: "text", bool: "true or false", dict: "an object"}


def entry_of(config: Mapping[str, Any], name: str, kind: type, source: str) -> Any:
    """The entry, or None if it is missing or null; raises `InputError` for a value of another type, a key of `TYPES`."""
    value = config.get(name)
    if value is not None and not isinstance(value, kind):
        raise InputError(f"{source}'s {name} should be {TYPES[kind]}, got {shown(value)}.")
    return value


def read_interpolation(config: Mapping[str, Any], source: str) -> dict[str, Any]:
    """The entry `interpolation`, if there is one."""
    name = entry_of(config, "interpolation", str, source)
    return {} if name is None else {"interpolation": name}


def read_statistics(config: Mapping[str, Any], mean: str, std: str, source: str) -> dict[str, Any]:
    """`mean` and `std` of `Preprocess`, by the names of the entries; raises `InputError` for other than three numbers."""
    values: dict[str, Any] = {}
    for theirs, ours in ((mean, "mean"), (std, "std")):
        value = config.get(theirs)
        if value is None:
            continue
        if not isinstance(value, list | tuple) or len(value) != 3 or not all(map(_is_number, value)):
            raise InputError(f"{source}'s {theirs} should be three numbers, got {shown(value)}.")
        values[ours] = [float(number) for number in value]
    return values


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= 1e6
