"""Limits of the formats that can be written: the models that their readers compute."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from timesformer_jax.modeling import SCHEMES, TimeSformer
from timesformer_jax.pretrained.huggingface_config import HUGGINGFACE_ACTIVATIONS

OWN_FORMAT = "timesformer_jax"
"""Checkpoints of this project, which can hold any model."""


class Target(NamedTuple):
    """Limits of a format to write.

    Attributes:
        reader: The program that reads the format.
        values: Maps fields of `TimeSformer` to the values that the reader supports. Other fields may have any value.
        square: Whether `image_size` must be one number.
    """

    reader: str
    values: Mapping[str, tuple[Any, ...]] = MappingProxyType({})
    square: bool = True


_ALL: dict[str, tuple[Any, ...]] = {
    "attention_type": ("divided_space_time", "joint_space_time", "space_only"),
    "attention_order": ("time_then_space",),
    "temporal_cls_key": (False,),
    "position_embedding": ("space_time",),
    "pre_norm": (False,),
}
_FIXED: dict[str, tuple[Any, ...]] = {**_ALL, "layer_norm_epsilon": (1e-6,), "activation": ("gelu",)}

TARGETS: dict[str, Target] = {
    "huggingface": Target(
        "Hugging Face transformers",
        {
            **_ALL,
            "attention_type": ("divided_space_time", "joint_space_time"),  # for space_only it returns logits per frame
            "activation": tuple(dict.fromkeys(HUGGINGFACE_ACTIVATIONS.values())),
        },
    ),
    "official": Target("the official code", _FIXED),
    "mmaction2": Target("mmaction2", _FIXED),
    OWN_FORMAT: Target("timesformer_jax", square=False),
    "onnx": Target("an ONNX file", square=False),
}
"""Maps keys of `WRITERS` that hold a TimeSformer to their limits."""


def unsupported(model: TimeSformer, target: str) -> list[str]:
    """Return the fields, with their values, that the target's reader doesn't support; empty if it supports the model."""
    values, square = TARGETS[target].values, TARGETS[target].square
    problems = [
        f"{field}={getattr(model, field)!r}"
        for field in sorted(values, key=lambda field: field == "attention_type")
        if getattr(model, field) not in values[field] and not _without_meaning(model.attention_type, field)
    ]
    if square and not isinstance(model.image_size, int):
        problems.append(f"image_size={model.image_size}")
    return problems


def describe_unsupported(model: TimeSformer) -> str | None:
    """Return a log line that lists the formats that can't hold a model; None if all can."""
    found = {target: ", ".join(unsupported(model, target)) for target in TARGETS}
    reasons = dict.fromkeys(reason for reason in found.values() if reason)
    if not reasons:
        return None
    groups = [f"{', '.join(target for target in found if found[target] == reason)} ({reason})" for reason in reasons]
    return (
        f"Formats that can't hold this model: {'; '.join(groups)}. Checkpoints of runs and `timesformer convert "
        f"--to={OWN_FORMAT}` can."
    )


def _without_meaning(attention_type: str, field: str) -> bool:
    """Return True if the scheme has no attention step that the field affects."""
    return field in ("attention_order", "temporal_cls_key") and not SCHEMES[attention_type].extra_steps
