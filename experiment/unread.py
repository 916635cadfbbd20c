"""Config fields that are read only with some values of another field."""

from collections.abc import Collection
from typing import Any, NamedTuple

from configs.common import FOLLOWING, new_config
from timesformer_jax.errors import InputError
from timesformer_jax.modeling import SCHEMES
from timesformer_jax.training import OPTIMIZERS
from timesformer_jax.video import PLACEMENTS


class Reader(NamedTuple):
    """Condition under which a field is read."""

    field: str
    """Dotted path of the field that decides."""
    values: Collection[Any] = ()
    """Values of that field with which the other is read; empty for any value but None."""


UNIFORM = Reader("clips.sampling", ("uniform",))
RESIZED_CROP = Reader("clips.jitter", ("resized_crop",))
ATTENTIVE = Reader("probe.kind", ("attentive",))
WITH_INIT_FROM = Reader("init_from")

READERS: dict[str, Reader] = {
    "optimizer.steps": Reader("optimizer.schedule", ("steps",)),
    "optimizer.b2": Reader("optimizer.name", [name for name in OPTIMIZERS if name != "sgd"]),
    "clips.sampling_rate": UNIFORM,
    "clips.span": UNIFORM,
    "clips.placement": UNIFORM,
    "clips.area": RESIZED_CROP,
    "clips.aspect": RESIZED_CROP,
    "eval.num_clips": Reader("clips.placement", list(PLACEMENTS)),
    "model.attention_order": Reader("model.attention_type", [name for name, it in SCHEMES.items() if it.extra_steps]),
    "model.temporal_cls_key": Reader("model.attention_type", [name for name, it in SCHEMES.items() if "temporal" in it.steps]),
    "model.resize": Reader("model.position_embedding", ("space", "space_time")),
    "probe.depth": ATTENTIVE,
    "probe.num_heads": ATTENTIVE,
    "init_from_entry": WITH_INIT_FROM,
    "init_from_prefix": WITH_INIT_FROM,
    "init_from_allow": WITH_INIT_FROM,
}
"""Maps the dotted path of a field to the condition under which it is read; other fields are always read."""

_FOLLOWING = {f"{section}.{name}" for section, fields in FOLLOWING.items() for name in fields}


def check_unread(given: Any, config: Any, mode: str, typed: Collection[str] = ()) -> None:
    """Raise `InputError` if the config sets a field to another value than its default, and nothing reads it.

    A value of the config file passes if the command line sets the field that decides, as in
    `--config=configs/k400.py --config.optimizer.schedule=cosine`, or if either field follows the weights.

    Args:
        given: The config as given.
        config: The same config with every field set, as `follow_weights` returns it.
        mode: The job. Fields of `probe` are only checked by `--mode=probe`.
        typed: Dotted paths of the fields that the command line sets.
    """
    if all(path in typed and _value(given, path) is not None for path in ("clips.span", "clips.sampling_rate")):
        raise InputError("clips.span and clips.sampling_rate both set the distance between frames: drop one of them.")
    defaults = new_config()
    for path, (decides, values) in READERS.items():
        value, deciding = _value(given, path), _value(config, decides)
        read = deciding in values if values else deciding is not None
        if read or value == _value(defaults, path) or (path.startswith("probe.") and mode != "probe"):
            continue
        if path not in typed and (decides in typed or {path, decides} & _FOLLOWING):
            continue
        if values:
            reason, remedy = f"with {decides}={deciding}, only with {', '.join(values)}", f"change {decides}"
        else:
            reason, remedy = f"without --config.{decides}", "set that"
        raise InputError(f"{path}={value} has no effect {reason}: drop it, or {remedy}.")


def _value(config: Any, path: str) -> Any:
    for name in path.split("."):
        config = config[name]
    return config
