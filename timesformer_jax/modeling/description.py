"""Conversion between a model and the JSON description that accompanies its weights."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from timesformer_jax.errors import InputError
from timesformer_jax.modeling.timesformer import TimeSformer

NOT_OF_THE_WEIGHTS = frozenset(
    {"drop_path_rate", "dropout_rate", "attention_dropout_rate", "initialization", "dtype"}
    | {"remat", "attention_implementation", "parent", "name"}
)
"""Fields that may differ between a checkpoint and the model that resumes from it."""

_FIELDS = {field.name: field.default for field in dataclasses.fields(TimeSformer) if field.name not in NOT_OF_THE_WEIGHTS}


def describe_model(model: TimeSformer) -> dict[str, Any]:
    """Return the fields that determine the meaning of a model's weights, as JSON values."""
    fields = {name: getattr(model, name) for name in _FIELDS}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in fields.items()}


def complete_description(description: Mapping[str, Any]) -> dict[str, Any]:
    """Fill in the defaults of fields that were added after a description was written.

    Raises `InputError` if the description has unknown fields.
    """
    unknown = sorted(description.keys() - _FIELDS.keys())
    if unknown:
        raise InputError(
            f"This checkpoint was written by a newer version of timesformer_jax: its field(s) {', '.join(unknown)} are unknown."
        )
    defaults = {name: default for name, default in _FIELDS.items() if default is not dataclasses.MISSING}
    return {**defaults, **description}
