"""Models that `architecture` can name, and the config fields that each reads."""

import dataclasses
from typing import Any

from flax import linen as nn

import timesformer_jax as tsf
from configs.common import FOLLOWING, SECTIONS, defaults
from timesformer_jax.architectures import ARCHITECTURES
from timesformer_jax.checks import check_choice

SECTION_OF = {"timesformer": "model", "i3d": "cnn", "slowfast": "cnn"}
"""Maps an architecture to the section of the config that has its fields."""


def class_of(config: Any) -> type[nn.Module]:
    """Return the class of the config's model."""
    return ARCHITECTURES[config.architecture]


def section_name(config: Any) -> str:
    """Return the name of the section that has the model's fields."""
    return SECTION_OF[config.architecture]


def section_of(config: Any) -> Any:
    """Return the section that has the model's fields."""
    return config[section_name(config)]


def reads(config: Any, section: str, field: str) -> bool:
    """Return whether the config's model reads a field of "model" or "cnn"."""
    names = {field.name for field in dataclasses.fields(class_of(config))}
    return section == section_name(config) and field in names


def model_fields(config: Any) -> dict[str, Any]:
    """Return the fields of the config's model, without the number of classes."""
    section = section_name(config)
    return {name: value for name, value in config[section].items() if reads(config, section, name)}


def following(config: Any) -> dict[str, Any]:
    """Map the model's fields that follow the weights to their values without weights, as `FOLLOWING` does."""
    own = {field.name: field.default for field in dataclasses.fields(class_of(config))}
    return {name: own[name] for name in FOLLOWING[section_name(config)] if name in own}


def check_architecture(config: Any) -> None:
    """Raise `InputError` if the architecture is unknown, or if the config sets a field that it doesn't read."""
    check_choice("architecture", config.architecture, ARCHITECTURES)
    for section in dict.fromkeys(SECTION_OF.values()):
        unset = dict.fromkeys(FOLLOWING.get(section, {}))
        for name, default in {**defaults(section), **unset}.items():
            value = config[section][name]
            if not reads(config, section, name) and value != default:
                raise tsf.InputError(
                    f"{section}.{name}={value} has no effect with architecture={config.architecture}, whose fields are in "
                    f"{section_name(config)}: drop it, or choose another architecture."
                )
    if config.optimizer.layer_decay != 1 and class_of(config) is not SECTIONS["model"]:
        raise tsf.InputError(
            f"optimizer.layer_decay={config.optimizer.layer_decay} needs the blocks of a TimeSformer: use 1.0 with "
            f"architecture={config.architecture}."
        )


def check_reads(config: Any, field: str, kind: str) -> None:
    """Raise `InputError` if a convolutional network has no features of this kind: it pools all places into one vector."""
    if is_cnn(config) and kind not in ("cls", "linear"):
        only = "linear" if field == "probe.kind" else "cls"
        raise tsf.InputError(
            f"{field}={kind} needs the tokens of a TimeSformer, and architecture={config.architecture} has only the pooled "
            f"input of its classifier: use {field}={only}."
        )


def is_cnn(config: Any) -> bool:
    """Return whether the model is a convolutional network."""
    return section_name(config) == "cnn"
