"""Recipes whose model follows the weights: fields of the config that aren't set are filled in before a job begins."""

import dataclasses
import logging
import math
from typing import Any

import timesformer_jax as tsf
from configs.common import FOLLOWING
from experiment.init_from import choice_of_init_from
from timesformer_jax.features import folder_at
from timesformer_jax.pretrained import Architecture, read_architecture
from timesformer_jax.pretrained.own import find_checkpoint
from timesformer_jax.video import Preprocess

log = logging.getLogger("timesformer_jax")

READ_ONLY = ("eval", "report")
"""Jobs that need a checkpoint."""

DEFAULTS: dict[str, Any] = {field.name: field.default for field in dataclasses.fields(tsf.TimeSformer)}
NO_WEIGHTS = Architecture({}, Preprocess(num_frames=DEFAULTS["num_frames"], crop_size=DEFAULTS["image_size"]))
"""What unset fields follow without any weights: `TimeSformer`'s defaults, the official pixels."""


def follow_weights(config: Any, workdir: str, mode: str) -> Any:
    """Fill in the fields of `FOLLOWING` that the config leaves unset; a config that sets all of them comes back itself.

    They follow the newest checkpoint of the workdir, or without one the weights of `init_from`, of which only shapes and notes
    are read. What is set stays, if the weights allow it.

    Args:
      config: the config, which is left as it is.
      workdir: the run's folder, local or in a bucket.
      mode: the job, a key of `MODES`.

    Raises:
      InputError: for a field that is set and that the weights have otherwise, and for weights that can't be read.
    """
    if all(config[section].get(name, "none") is not None for section, fields in FOLLOWING.items() for name in fields):
        return config
    checkpoint = find_checkpoint(folder_at(workdir) / "checkpoints")
    if checkpoint is None and mode in READ_ONLY:
        raise tsf.InputError(f"There is no checkpoint in {workdir}: train first with --mode=train.")
    source = str(checkpoint or config.init_from or "")
    remedy = REMEDY.format("--workdir" if checkpoint else "--config.init_from")
    config = _filled(
        config,
        _architecture(config, source, remedy, {} if checkpoint else choice_of_init_from(config)) if source else NO_WEIGHTS,
    )
    log.info("The model follows %s: %s.", f"the weights in {source}" if source else "the defaults", _in_words(config.model))
    return config


def check_fields(config: Any) -> None:
    """Raises `InputError` if a field of the config's model contradicts the weights of `init_from`."""
    _architecture(config, config.init_from, REMEDY_WITHOUT_FOLLOWING, choice_of_init_from(config))


REMEDY = "leave --config.model.{{name}} out, or choose other weights by {}"
REMEDY_WITHOUT_FOLLOWING = (
    "set --config.model.{name}={value}, or use a recipe whose model follows the weights, such as "
    "--config=configs/folder.py:video_folder,finetune"
)


def _architecture(config: Any, source: str, remedy: str, choice: dict[str, Any]) -> Architecture:
    """What the weights say of the model, once the fields that are given agree with it."""
    given = {name: value for name, value in config.model.items() if value is not None}
    open_fields = {name: given.get(name) for name in ("num_heads", "image_size", "num_frames")}
    architecture = read_architecture(source, allow=tuple(config.init_from_allow), **choice, **open_fields)
    _check_given(given, architecture, source, remedy)
    return architecture


def _check_given(given: dict[str, Any], architecture: Architecture, source: str, remedy: str) -> None:
    """Raises `InputError` if fields of the model that are given contradict what the weights fix."""
    for name, value in architecture.fixed.items():
        same = math.isclose(given[name], value) if isinstance(value, float) and name in given else given.get(name) == value
        if name in given and not same:
            raise tsf.InputError(
                f"model.{name}={given[name]} contradicts the weights in {source}, which have {name}={value}: "
                f"{remedy.format(name=name, value=value)}."
            )


def _in_words(model: Any) -> str:
    return (
        f"{model.attention_type}, {model.depth} blocks of {model.embed_dim}, {model.num_heads} heads, patches of "
        f"{model.patch_size}, {model.num_frames} frames of {model.image_size} px"
    )


def _filled(config: Any, architecture: Architecture) -> Any:
    """A copy of the config in which every field of `FOLLOWING` is set."""
    config = config.copy_and_resolve_references()
    with config.ignore_type(), config.unlocked():
        fields = {name: architecture.fields.get(name, DEFAULTS[name]) for name in FOLLOWING["model"]}
        _fill(config.model, fields)
        _fill(config.pixels, {name: getattr(architecture.preprocess, name) for name in FOLLOWING["pixels"]})
        if config.clips.sampling_rate is None and config.clips.span is not None:
            config.clips.sampling_rate = config.clips.span / config.model.num_frames
        if isinstance(config.model.image_size, int):
            _fill(config.clips, {"short_side": short_sides(config.model.image_size)})
        if "short_side" in config.data and config.data.short_side is None and config.clips.short_side is not None:
            config.data.short_side = config.clips.short_side[0]
    return config


def _fill(section: Any, values: dict[str, Any]) -> None:
    for name, value in values.items():
        if section[name] is None:
            section[name] = value


def short_sides(image_size: int) -> tuple[int, int]:
    """Range of a frame's short side for crops of this size: that of the released models, 256 to 320 for 224 and 448 to 512
    for 448."""
    smallest = image_size if image_size >= 448 else round(image_size * 8 / 7)
    return smallest, round(smallest * (8 / 7 if image_size >= 448 else 5 / 4))
