"""Typed entries of the configurations that accompany weights, and their contents in this library's terms."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from timesformer_jax.errors import InputError, shown


class Stated(NamedTuple):
    """Contents of a configuration, in this library's terms."""

    fields: Mapping[str, Any]
    """Fields of the model; `num_classes` is that of the classifier, if the weights have one."""
    preprocess: Mapping[str, Any]
    """Entries of `Preprocess`, and `interpolation`, the method by which images were resized."""
    labels: Sequence[str] | None = None
    """Names of the classes; None if unknown."""
    pooled: str | None = None
    """Input of the classifier, if it isn't the class token."""
    objective: Any = None
    """The objective as the configuration spells it."""


TYPES: dict[type, str] = {str: "text", bool: "true or false", dict: "an object"}


def entry_of(config: Mapping[str, Any], name: str, wanted: type, source: str) -> Any:
    """Return an entry, or None if it is missing or null.

    Args:
        config: The configuration.
        name: Name of the entry.
        wanted: Its type, a key of `TYPES`.
        source: Name of the configuration, for errors.

    Raises:
        InputError: If the value has the wrong type.
    """
    value = config.get(name)
    if value is not None and not isinstance(value, wanted):
        raise InputError(f"{source}'s {name} should be {TYPES[wanted]}, got {shown(value)}.")
    return value


def read_interpolation(config: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Return the entry `interpolation`, if there is one."""
    name = entry_of(config, "interpolation", str, source)
    return {} if name is None else {"interpolation": name}


def read_statistics(config: Mapping[str, Any], mean: str, std: str, source: str) -> dict[str, Any]:
    """Return whichever of `mean` and `std` of `Preprocess` the configuration has.

    Args:
        config: The configuration.
        mean: Name of the entry for the mean.
        std: Name of the entry for the standard deviation.
        source: Name of the configuration, for errors.

    Raises:
        InputError: If an entry is neither a list of three numbers nor one number, which counts for all channels.
    """
    values: dict[str, Any] = {}
    for theirs, ours in ((mean, "mean"), (std, "std")):
        value = config.get(theirs)
        if value is None:
            continue
        if _is_number(value):
            value = [value] * 3
        if not isinstance(value, list | tuple) or len(value) != 3 or not all(map(_is_number, value)):
            raise InputError(f"{source}'s {theirs} should be three numbers, got {shown(value)}.")
        values[ours] = [float(number) for number in value]
    return values


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= 1e6


LARGEST = 10**9
"""Upper bound of every number in a configuration."""


def read_entries(config: Mapping[str, Any], table: Mapping[str, tuple[str, type]], source: str) -> dict[str, Any]:
    """Read fields from a configuration by `table`, a mapping of entry -> (field, type).

    A list of equal sides, such as `[16, 16]`, becomes one number. Only the two sides of `image_size` may differ.

    Raises `InputError` for values of the wrong type.
    """
    fields: dict[str, Any] = {}
    for theirs, (ours, wanted) in table.items():
        value: Any = config.get(theirs)
        if value is None:
            continue
        sides = value if isinstance(value, list) and value else [value]
        if ours == "image_size" and len(sides) == 2 and sides[0] != sides[1] and all(_is_a(side, int) for side in sides):
            fields[ours] = tuple(sides)
        elif _is_a(sides[0], wanted) and all(side == sides[0] for side in sides):
            fields[ours] = wanted(sides[0])  # pyright: ignore[reportArgumentType]  (checked)
        else:
            expected = {int: "a whole number above 0", float: "a number above 0", str: "text"}[wanted]
            raise InputError(f"{source}'s {theirs} should be {expected}, got {shown(value)}.")
    return fields


def _is_a(value: Any, wanted: type) -> bool:
    if wanted is str:
        return isinstance(value, str)
    number = isinstance(value, int if wanted is int else int | float) and not isinstance(value, bool)
    return number and 0 < value <= LARGEST


def choose_activation(name: str, known: Mapping[str, str], source: str) -> str:
    """Return our name of an activation; raises `InputError` if the model doesn't have it."""
    if name not in known:
        raise InputError(f"{source} must be one of {', '.join(known)}, got {shown(name)}.")
    return known[name]
