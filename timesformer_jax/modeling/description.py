"""Conversion between a model and the JSON description that accompanies its weights."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from flax import linen as nn

from timesformer_jax.errors import InputError
from timesformer_jax.modeling.timesformer import TimeSformer

NOT_OF_THE_WEIGHTS = frozenset(
    {"drop_path_rate", "dropout_rate", "attention_dropout_rate", "initialization", "dtype"}
    | {"remat", "attention_implementation", "objective", "parent", "name"}
)
"""Fields that may differ between a checkpoint and the model that resumes from it."""

ARCHITECTURE = "architecture"
"""Entry of a description that names the class of a model that isn't a TimeSformer, in lower case."""


def _fields_of(model: Any) -> dict[str, Any]:
    """Map the fields that determine the meaning of a model's (or a class's) weights to their defaults."""
    return {field.name: field.default for field in dataclasses.fields(model) if field.name not in NOT_OF_THE_WEIGHTS}


_FIELDS = _fields_of(TimeSformer)


def describe_model(model: nn.Module) -> dict[str, Any]:
    """Return the fields that determine the meaning of a model's weights, as JSON values."""
    name = {} if isinstance(model, TimeSformer) else {ARCHITECTURE: type(model).__name__.lower()}
    fields = {name: getattr(model, name) for name in _fields_of(model)}
    return name | {name: list(value) if isinstance(value, tuple) else value for name, value in fields.items()}


def num_blocks(model: nn.Module) -> int:
    """Number of equal blocks, for learning rates per layer (`layer_decay`); 0 for models without them."""
    return getattr(model, "depth", 0)


def complete_description(description: Mapping[str, Any]) -> dict[str, Any]:
    """Fill in the defaults of a TimeSformer's fields that were added after a description was written.

    Descriptions of other models are returned as they are.

    Raises `InputError` if the description has unknown fields.
    """
    if ARCHITECTURE in description:
        return dict(description)
    unknown = sorted(description.keys() - _FIELDS.keys())
    if unknown:
        raise InputError(
            f"This checkpoint was written by a newer version of timesformer_jax: its field(s) {', '.join(unknown)} are unknown."
        )
    defaults = {name: default for name, default in _FIELDS.items() if default is not dataclasses.MISSING}
    return {**defaults, **description}
