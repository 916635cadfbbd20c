"""Fill in the config fields that follow the weights before a job begins, and log the differences."""

import contextlib
import dataclasses
import logging
import math
from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple

import timesformer_jax as tsf
from configs.common import FOLLOWING
from experiment.architectures import (
    check_architecture,
    class_of,
    following,
    is_cnn,
    model_fields,
    section_name,
    section_of,
)
from experiment.cnn_weights import read_cnn
from experiment.init_from import allowed_of_init_from, check_allow, choice_of_init_from
from experiment.modes import MODES
from experiment.unread import check_unread
from timesformer_jax.features import folder_at
from timesformer_jax.pretrained import Architecture, read_architecture
from timesformer_jax.pretrained.orbax import find_checkpoint
from timesformer_jax.video import Preprocess

log = logging.getLogger("timesformer_jax")

DRAWN = tuple(f"{part}.{name}" for part in ("clips", "pixels") for name in FOLLOWING[part])
"""Fields of `FOLLOWING` that `--mode=show` depends on, besides the model's frames and image size."""
SPAN = 256.0
"""Default span of a clip in frames at 30 fps, if nothing sets its rate: 8 x 32 and 16 x 16 in the released models."""

DEFAULTS: dict[str, Any] = {field.name: field.default for field in dataclasses.fields(tsf.TimeSformer)}
NO_WEIGHTS = Architecture({}, Preprocess(num_frames=DEFAULTS["num_frames"], crop_size=DEFAULTS["image_size"]))
"""Architecture that unset fields follow without any weights."""


def follow_weights(config: Any, workdir: str, mode: str, typed: Collection[str] = ()) -> Any:
    """Return a copy of the config in which every field of `FOLLOWING` is set.

    Values come from the workdir's newest checkpoint, else from `init_from`; only names, shapes and notes are read. Unset fields
    take the value of the weights, else their default. Fields that are set are kept, with one exception: a checkpoint's sampling
    and normalisation of clips take precedence over the config file. If the command line sets them differently, that is an error
    in training; the other modes use the command line's values. All differences are logged in one table.

    Args:
        config: The config, which is not changed.
        workdir: The run's folder, local or in a bucket.
        mode: The job, a key of `MODES`.
        typed: Dotted paths of the fields that the command line sets, such as "pixels.mean".

    Raises:
        InputError: If fields contradict the checkpoint or the weights, the weights can't be read or don't fit, or the config
            sets a field that nothing reads.
    """
    checkpoint = find_checkpoint(folder_at(workdir) / "checkpoints")
    if checkpoint is None and MODES[mode].needs_checkpoint:
        raise tsf.InputError(f"There is no checkpoint in {workdir}: train first with --mode=train.")
    given, config = config, config.copy_and_resolve_references()
    check_architecture(config)
    check_allow(config)
    source = str(checkpoint or config.init_from or "")
    drawn = (*DRAWN, *(f"{section_name(config)}.{name}" for name in ("num_frames", "image_size")))
    if mode in ("show", "prepare") and checkpoint is None and all(_value(config, path) is not None for path in drawn):
        source = ""
    weights = _read(config, source, {} if checkpoint else choice_of_init_from(config)) if source else NO_WEIGHTS
    if source and checkpoint is None:
        _check_fixed(config, weights, source, typed)
    span, rate = (path in typed and _value(config, path) is not None for path in ("clips.span", "clips.sampling_rate"))
    span_decides = span and not rate
    if span_decides:  # it takes precedence over a recipe's rate
        config.clips.sampling_rate = None
    choices = _Choices(
        "checkpoint" if checkpoint else "weights",
        training=MODES[mode].trains,
        typed=frozenset(typed) | ({"clips.sampling_rate"} if span_decides else set()),
        span_decides=span_decides,
        guesses=_guesses(weights),
    )
    with config.ignore_type(), config.unlocked():
        _fill(config, weights if source else None, choices)
    if choices.refused:
        raise tsf.InputError(
            f"{workdir} holds the checkpoint of a run with other settings: {'; '.join(choices.refused)}. Drop the "
            f"flag{'s'[: len(choices.refused) > 1]} to resume that run, or choose another --workdir."
        )
    check_unread(given, config, mode, typed)
    if checkpoint is None and source and MODES[mode].loads_init_from:
        model, allow = make_model(config), allowed_of_init_from(config)
        if is_cnn(config):
            tsf.load(source, model=model, num_classes=1, allow=allow, **choice_of_init_from(config))
        else:
            weights.check(source, model, allow)
    if source:
        log.info("The model follows the weights in %s: %s.", source, _in_words(config))
    if choices.rows:
        log.info("Differences between the %s in %s and this run's config:\n%s", choices.owner, source, choices.table())
    for path, why in choices.guessed.items():
        log.info("%s=%s is guessed %s. Set --config.%s to override it.", path, _shown(_value(config, path)), why, path)
    return config


def _read(config: Any, source: str, choice: dict[str, Any]) -> Architecture:
    """Read the architecture of the weights, given the heads, frames and image size that are set."""
    if is_cnn(config):
        return read_cnn(source, config, following(config))
    given = {name: config.model[name] for name in ("num_heads", "image_size", "num_frames")}
    with _naming_flags(config):
        return read_architecture(source, allow=tuple(config.init_from_allow), **choice, **given)


def make_model(config: Any) -> Any:
    """Make the config's model for one class; raises `InputError`, naming the flag, if a field is invalid."""
    with _naming_flags(config):
        return class_of(config)(num_classes=1, **model_fields(config))  # type: ignore[call-arg]


@contextlib.contextmanager
def _naming_flags(config: Any) -> Iterator[None]:
    """Turn the model's errors about its fields into errors about the flags."""
    try:
        yield
    except tsf.InputError as error:
        if str(error).partition(" ")[0] not in section_of(config):
            raise
        raise tsf.InputError(f"--config.{section_name(config)}.{error}") from error


REMEDIES = {
    True: "drop --config.{section}.{name}, or choose other weights with --config.init_from",
    False: "set --config.{section}.{name}={value}, or use a recipe whose model follows the weights, such as "
    "--config=configs/folder.py:video_folder,finetune",
}
"""Maps whether the command line sets a field that contradicts the weights to the remedy."""


def _check_fixed(config: Any, weights: Architecture, source: str, typed: Collection[str]) -> None:
    """Raise `InputError` if model fields that are set contradict the weights."""
    section = section_name(config)
    for name, value in weights.fixed.items():
        given = config[section].get(name)
        if given is not None and not _same(given, value):
            raise tsf.InputError(
                f"{section}.{name}={given} contradicts the weights in {source}, which have {name}={value}: "
                f"{REMEDIES[f'{section}.{name}' in typed].format(section=section, name=name, value=value)}."
            )


def _guesses(weights: Architecture) -> dict[str, str]:
    """Map guessed fields, stated neither by the tensors nor by anything next to them, to the reason for the guess."""
    paths = {"pixels": ("pixels.mean", "pixels.std")}
    return {path: why for name, why in weights.guesses.items() for path in paths.get(name, (f"model.{name}",))}


class Row(NamedTuple):
    """Row of the log's table of differences.

    Attributes:
        field: Dotted path of the field.
        known: Value of the checkpoint or the weights.
        run: Value of this run, with its origin.
        used: Which of the two is used.
    """

    field: str
    known: str
    run: str
    used: str


@dataclasses.dataclass
class _Choices:
    """Choose the value of each field, and collect differences for the log and conflicts for the error."""

    owner: str
    """Source of the known values: "checkpoint" or "weights"."""
    training: bool
    """True if the job trains."""
    typed: frozenset[str]
    """Dotted paths of the fields that the command line sets."""
    span_decides: bool = False
    """True if the command line sets the sampling rate by `clips.span`."""
    rows: list[Row] = dataclasses.field(default_factory=list)
    """Differences, for the log."""
    refused: list[str] = dataclasses.field(default_factory=list)
    """Conflicts with the checkpoint, for the error."""
    guesses: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Maps fields whose known value is a guess to the reason."""
    guessed: dict[str, str] = dataclasses.field(default_factory=dict)
    """Guesses that are used."""

    def choose(self, path: str, given: Any, known: Any, default: Any) -> Any:
        """Choose the value of a field, and record a difference.

        Args:
            path: Dotted path of the field.
            given: The config's value, or None.
            known: Value of the checkpoint or the weights, or None.
            default: Value if there is neither.
        """
        ours = default if given is None else given
        if given is None and known is not None and path in self.guesses:
            self.guessed[path] = self.guesses[path]
        # Values of the wrong type are passed on to the code that uses and refuses them.
        if known is None or _same(ours, known) or isinstance(ours, tuple | list) != isinstance(known, tuple | list):
            return ours
        origin = "default" if given is None else "command line" if path in self.typed else "config"
        # A checkpoint's model is compared as a whole later, and must be equal.
        decides = self.owner == "checkpoint" and not path.startswith(("model.", "cnn."))
        if decides and self.training and origin == "command line":
            by_span = self.span_decides and path == "clips.sampling_rate"
            typed = f"--config.clips.span makes {path}" if by_span else f"--config.{path} is"
            self.refused.append(f"{typed} {_shown(given)}, and the checkpoint has {_shown(known)}")
        takes_known = given is None or (decides and origin == "config")
        used = self.owner if takes_known else "this run"
        guess = " (guess)" if path in self.guesses else ""
        self.rows.append(Row(path, f"{_shown(known)}{guess}", f"{_shown(ours)} ({origin})", used))
        return known if takes_known else given

    def table(self) -> str:
        """Format the rows as a table with column titles."""
        rows = [Row("field", self.owner, "this run", "used"), *self.rows]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
        return "\n".join(f"  {line.rstrip()}" for line in lines)


def _fill(config: Any, weights: Architecture | None, choices: _Choices) -> None:
    """Set every field of `FOLLOWING`, and the short side of stored frames; `weights` is None if there are none."""
    section, model = section_name(config), section_of(config)
    for name, default in following(config).items():
        known = weights.fields.get(name) if weights else None
        model[name] = choices.choose(f"{section}.{name}", model[name], known, default)
    make_model(config)
    known = _known_settings(weights, config) if weights else {}
    defaults = {
        **{f"{section}.{name}": value for section in ("clips", "pixels") for name, value in FOLLOWING[section].items()},
        "clips.sampling_rate": SPAN / model.num_frames,
        "clips.short_side": _default_short_sides(weights, model.image_size),
    }
    for section in ("pixels", "clips"):
        for name in FOLLOWING[section]:
            path, given = f"{section}.{name}", config[section][name]
            if path == "clips.sampling_rate":
                given = _given_rate(config)
                if config.clips.sampling == "segments":  # it has no rate
                    config.clips.sampling_rate = given or known.get(path) or defaults[path]
                    continue
                if known.get("clips.sampling") == "segments":
                    known.pop(path, None)  # nor do the weights
            if path == "clips.placement" and config.clips.sampling == "segments" and known.get(path) == "tiled":
                del known[path]  # a clip of segments already covers the whole video
            config[section][name] = choices.choose(path, given, known.get(path), defaults[path])
    short_side = config.clips.short_side
    if "short_side" in config.data and config.data.short_side is None and isinstance(short_side, tuple):
        config.data.short_side = short_side[0]


def _given_rate(config: Any) -> float | None:
    """Sampling rate that the config sets, directly or by the span of a clip."""
    rate, span = config.clips.sampling_rate, config.clips.span
    return span / section_of(config).num_frames if rate is None and span is not None else rate


def _known_settings(weights: Architecture, config: Any) -> dict[str, Any]:
    """Clip and pixel settings of the weights, by dotted path, for a model of this size."""
    said, prepared, model = weights.said, weights.preprocess, section_of(config)
    crop_size = config.clips.eval_crop_size or model.image_size
    known = {f"pixels.{name}": getattr(prepared, name) for name in FOLLOWING["pixels"] if name in said}
    known |= {f"clips.{name}": getattr(prepared, name) for name in ("sampling", "placement") if name in said}
    if "sampling_rate" in said:
        # More frames cover the same span.
        frames = weights.fields.get("num_frames") or model.num_frames
        known["clips.sampling_rate"] = prepared.sampling_rate * frames / model.num_frames
    if said.get("crop_size", crop_size) == crop_size:
        if "short_sides" in said:
            known["clips.short_side"] = tuple(said["short_sides"])
        elif said.get("short_side") and prepared.sampling == "uniform":
            known["clips.short_side"] = _jittered(said["short_side"], crop_size)
    return known


def _default_short_sides(weights: Architecture | None, image_size: Any) -> Any:
    """Default range of short sides.

    With weights, it starts at the short side to which `timesformer_jax.load` scales frames, so that evaluation uses the same
    clips.
    """
    if not isinstance(image_size, int):
        return None
    if weights is None or weights.preprocess.sampling == "segments":
        return short_sides(image_size)
    return _jittered(weights.preprocess.short_side or image_size, image_size)


def short_sides(image_size: int) -> tuple[int, int]:
    """Range of short sides for crops of this size, as in the released models: 256 to 320 for 224, and 448 to 512 for 448."""
    return _jittered(image_size if image_size >= 448 else round(image_size * 8 / 7), image_size)


def _jittered(smallest: int, image_size: int) -> tuple[int, int]:
    """Range of short sides that starts at `smallest`."""
    return smallest, round(smallest * (8 / 7 if image_size >= 448 else 5 / 4))


def _value(config: Any, path: str) -> Any:
    section, _, name = path.partition(".")
    return config[section][name]


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, tuple | list) and isinstance(other, tuple | list):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, float) or isinstance(other, float):
        return isinstance(one, float | int) and isinstance(other, float | int) and math.isclose(one, other, rel_tol=1e-6)
    return one == other


def _shown(value: Any) -> str:
    if isinstance(value, tuple | list):
        return ", ".join(map(_shown, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _in_words(config: Any) -> str:
    model = section_of(config)
    if is_cnn(config):
        return f"{config.architecture}, {model.num_frames} frames of {model.image_size} px"
    return (
        f"{model.attention_type}, {model.depth} blocks of {model.embed_dim}, {model.num_heads} heads, patches of "
        f"{model.patch_size}, {model.num_frames} frames of {model.image_size} px"
    )
