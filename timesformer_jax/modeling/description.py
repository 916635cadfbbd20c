"""A model as plain values that JSON can hold, and back: what stands beside its weights."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from timesformer_jax.errors import InputError
from timesformer_jax.modeling.timesformer import TimeSformer

NOT_OF_THE_WEIGHTS = frozenset(
    {"drop_path_rate", "dropout_rate", "attention_dropout_rate", "initialization", "dtype"}
    | {"remat", "attention_implementation", "parent", "name"}
)
"""Fields of the model that may differ between a checkpoint and the model that goes on from it."""

_FIELDS = {field.name: field.default for field in dataclasses.fields(TimeSformer) if field.name not in NOT_OF_THE_WEIGHTS}


def describe_model(model: TimeSformer) -> dict[str, Any]:
    """The fields that decide what a model's weights mean, as JSON."""
    fields = {name: getattr(model, name) for name in _FIELDS}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in fields.items()}


def complete_description(description: Mapping[str, Any]) -> dict[str, Any]:
    """A description that may be older than some fields, which then have their defaults: they did not exist.

    Raises `InputError` for fields that don't exist here.
    """
    unknown = sorted(description.keys() - _FIELDS.keys())
    if unknown:
        raise InputError(f"This checkpoint is of a newer version of timesformer_jax: it has {', '.join(unknown)}.")
    defaults = {name: default for name, default in _FIELDS.items() if default is not dataclasses.MISSING}
    return {**defaults, **description}
