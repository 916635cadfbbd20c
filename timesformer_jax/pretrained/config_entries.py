"""Contents of a configuration next to the weights, and its typed entries."""

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


def entry_of(config: Mapping[str, Any], name: str, wanted: type, source: str) -> Any:
    """The entry, or None if it is missing or null; raises `InputError` for a value of another type, a key of `TYPES`."""
    value = config.get(name)
    if value is not None and not isinstance(value, wanted):
        raise InputError(f"{source}'s {name} should be {TYPES[wanted]}, got {shown(value)}.")
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


LARGEST = 10**9
"""No number of a configuration is larger."""


def read_entries(config: Mapping[str, Any], table: Mapping[str, tuple[str, type]], source: str) -> dict[str, Any]:
    """The fields in a configuration by `table`, entry -> (field, type); raises `InputError` for values of another type.

    A size in both directions, `[16, 16]`, is one number; the sides of `image_size` may differ.
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
    """Our name of an activation; raises `InputError` for one that the model doesn't have."""
    if name not in known:
        raise InputError(f"{source} must be one of {', '.join(known)}, got {shown(name)}.")
    return known[name]
