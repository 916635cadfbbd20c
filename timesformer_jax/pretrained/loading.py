"""`tsf.load`: any published kind of weights -> a model that computes the same numbers."""

import dataclasses
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, cast

import jax
import numpy as np

from timesformer_jax.errors import InputError, did_you_mean, first_line, shown
from timesformer_jax.extras import MissingPackageError
from timesformer_jax.labels import check_labels, read_labels
from timesformer_jax.modeling import TimeSformer, check_objective
from timesformer_jax.modeling.checks import pair
from timesformer_jax.pretrained.claims import check_fields
from timesformer_jax.pretrained.classifier import take_rows
from timesformer_jax.pretrained.collapse import list_problems
from timesformer_jax.pretrained.contents import Contents, read_contents
from timesformer_jax.pretrained.fields import merge_fields
from timesformer_jax.pretrained.fitting import HEAD, POSITION_RESIZES, check_unknown, fit, plan_fit
from timesformer_jax.pretrained.formats import Tensors
from timesformer_jax.pretrained.kinds import KINDS, OWN
from timesformer_jax.pretrained.preprocessing import choose_preprocess, published_name
from timesformer_jax.pretrained.pretrained import Pretrained
from timesformer_jax.pretrained.reading import recognise, translate
from timesformer_jax.pretrained.report import Report, describe_not_finite
from timesformer_jax.pretrained.zoo import fetch
from timesformer_jax.video import Preprocess

log = logging.getLogger("timesformer_jax")

CHANGEABLE = ("num_classes", "num_frames", "image_size", "attention_type", "layer_norm_epsilon", "activation")
"""Fields that a user may want otherwise than the file has them; the other ones must agree."""


def load(
    source: str | Path,
    *,
    model: TimeSformer | None = None,
    num_classes: int | None = None,
    num_frames: int | None = None,
    image_size: int | tuple[int, int] | None = None,
    resize: str = "bicubic",
    allow: Sequence[str] = (),
    labels: str | Path | Sequence[str] | None = None,
    preprocess: Preprocess | None = None,
    kind: str | None = None,
    entry: str | None = None,
    prefix: str | None = None,
    objective: str | None = None,
    key: jax.Array | None = None,
    headless: bool = False,
    **fields: Any,
) -> Pretrained:
    """Weights of any published kind, with the model they are for.

    `source`: a file or folder (official `.pyth`, Hugging Face, mmaction2 `.pth`, a run or checkpoint of this project; image
    transformers of timm, DeiT, Hugging Face, CLIP, vision_transformer and big_vision: `KINDS`), told by its content; a name of
    `ZOO`; or `hf:ORGANISATION/MODEL`. `kind`: a key of `KINDS`, where the content leaves it open.

    The model follows from the weights: its scheme, sizes, frames and classes. `num_classes` with `labels` asks for a classifier
    of these labels: rows are taken over by name, the other ones are fresh (drawn from `key`), and the report counts both. If
    either side has no names, an equal `num_classes` keeps all rows and another one gives a fresh classifier. `num_frames` and
    `image_size` resize the embeddings by `resize` (a key of `POSITION_RESIZES`). Further `fields` are `TimeSformer`'s: `dtype`,
    `drop_path_rate`, ..., `attention_type` for an image transformer's video model, `num_heads` where neither file nor custom
    tells it. An image transformer's attention is copied into the extra attention steps, whose last layer starts at zero. With
    `model`, the weights go into that model instead, and whatever doesn't fit it is an error but for the embeddings' sizes (and
    for the classifier where `num_classes` is given).

    `entry`: which entry of a PyTorch file or a checkpoint of this project to load, such as "model_ema"; by default the model
    next to its moving average, or whichever is the only one (of our own checkpoints the average). `prefix`: what the names of
    the tensors to load begin with, such as "student.", where they don't tell; the other tensors are ignored.

    `labels`: names of the classes, or a file of them (`read_labels`); without `num_classes` they rename the file's.
    `preprocess`: where the file doesn't say how a video must be prepared, and `report.notes` names a wrong guess. `objective`:
    "softmax" for one label a video, "sigmoid" for any number; by default what the file says, else "softmax". `allow`: patterns
    of our parameters that may be missing from the file (they are initialised), or of what the file has and the model has not
    (it is ignored); both stand in the report.
    `headless`: load weights without a classifier as a model with `num_classes=0`, whose features are the same as with any.

    Raises `InputError` that lists at once everything that doesn't fit, and for files that hold no weights.
    """
    if resize not in POSITION_RESIZES:
        raise InputError(f"resize must be one of {', '.join(POSITION_RESIZES)}, got {resize!r}.")
    if kind is not None and kind not in KINDS:
        raise InputError(f"There is no kind of weights {kind!r}. Known ones: {', '.join(KINDS)}.")
    if objective is not None:
        check_objective(objective)
    allow = [allow] if isinstance(allow, str) else allow
    _check_patterns(allow)
    heads = model.num_heads if model is not None else fields.get("num_heads")
    size = model.image_size if model is not None else image_size
    contents = read_contents(_locate(source), kind, heads, entry=entry, prefix=prefix, allow=allow, image_size=size)
    if num_classes == 0:
        raise InputError("num_classes must be at least 1, got 0; headless=True loads weights without a classifier.")
    if headless and model is None and num_classes is None and not contents.fields.get("num_classes"):
        num_classes = 0
    wanted = {"num_classes": num_classes, "num_frames": num_frames, "image_size": image_size, **fields}
    wanted = {name: value for name, value in wanted.items() if value is not None}
    allowed = _allowed(allow, contents, "allowed by the caller")
    target = _target(contents, wanted, model, str(source), allowed)
    report = Report(
        str(source),
        contents.kind.title,
        target,
        ignored=dict(contents.ignored),
        folded=dict(contents.folded),
        entry=contents.entry,
        other_entries=contents.other_entries,
        notes=contents.notes,
    )
    given_names = _given_labels(labels, target, num_classes)
    if contents.pooled is not None and num_classes is None:
        raise _no_classifier(contents, str(source))
    fresh_head = False
    if num_classes is not None:
        rows = take_rows(contents, target, given_names, source=str(source), allow=allowed, key=key)
        report.classifier, fresh_head = rows.account if num_classes else None, not rows.kept
    if fresh_head:
        allowed[HEAD] = f"a fresh classifier of {num_classes} classes" if num_classes else "a model for its features alone"
        for path in [path for path in contents.given if re.fullmatch(HEAD, path)]:
            del contents.given[path]
            report.ignored[path] = allowed[HEAD]
    said = None if fresh_head else contents.objective
    if objective is None:
        check_fields({} if contents.objective is None else {"objective": contents.objective}, source)
        objective = "softmax" if said is None else check_objective(said)
    elif said is not None and said != objective:
        report.notes.append(f"objective is {shown(said)} where the classifier comes from and {objective!r} here")
    _report_guesses(contents, wanted, model, report)
    for name in ("activation", "layer_norm_epsilon"):
        if name in contents.guesses:
            continue
        theirs, ours = contents.fields.get(name, getattr(target, name)), getattr(target, name)
        if theirs != ours:
            report.notes.append(f"{name} is {theirs!r} where the weights come from and {ours!r} in this model: outputs differ")
    account = (report, contents.problems, contents.unknown)
    params = fit(contents.given, target, *account, **_fitting(contents, target), resize=resize, allow=allowed, key=key)
    if report.not_finite:
        log.warning("%s: %s.", source, describe_not_finite(report.not_finite))
    if preprocess is None:
        preprocess = choose_preprocess(contents.kind, contents.preprocess, contents.fields, target, str(source), report)
    named = target.num_classes > 0 or labels is not None
    names = _labels(given_names, contents, target, fresh_head, report) if named else None
    return Pretrained(target, params, preprocess, names, report, objective)


class Architecture(NamedTuple):
    """What weights say of the model that they are for."""

    fields: dict[str, Any]
    """`TimeSformer`'s fields, as far as the weights fix or suggest them; `num_classes` is their classifier's."""
    preprocess: Preprocess
    said: Mapping[str, Any] = MappingProxyType({})
    """Entries of `preprocess` that are the weights' own and no default, and other entries that a checkpoint has with them."""
    objective: str | None = None
    """None if the weights don't say."""
    contents: Contents | None = None
    """The names and shapes that all this is from, for `check`."""
    guesses: Mapping[str, str] = MappingProxyType({})
    """What nothing states, a field of the model or "pixels" -> the end of "guessed ..."."""

    @property
    def fixed(self) -> dict[str, Any]:
        """The fields that a model with these weights can't have otherwise."""
        return {name: value for name, value in self.fields.items() if name not in (*CHANGEABLE, "resize")}

    def check(self, source: str | Path, model: TimeSformer, allow: Sequence[str] = ()) -> None:
        """Raise what `load(source, model=model, num_classes=...)` would, for any number of classes; reads nothing."""
        if self.contents is not None:
            _check_contents(self.contents, source, model, allow)


def read_architecture(
    source: str | Path, *, entry: str | None = None, prefix: str | None = None, allow: Sequence[str] = (), **given: Any
) -> Architecture:
    """The model and the preprocessing of what `load(source)` reads, from shapes and notes alone.

    Args:
      source: File, folder or name of the weights, as for `load`.
      entry: Entry of a PyTorch file or checkpoint to read, as for `load`.
      prefix: Beginning of the tensors' names, as for `load`.
      allow: Patterns of parameters that may be missing or left over, as for `load`.
      **given: `num_heads` and `image_size`, for weights that don't show them; `num_frames`. None means not given.

    Raises:
      InputError: If the files hold no weights, or the weights leave `num_heads` or `image_size` open.
    """
    given = {name: value for name, value in given.items() if value is not None}
    heads = given.pop("num_heads", None)
    choice = {"entry": entry, "prefix": prefix, "allow": allow}
    contents = read_contents(_locate(source), None, heads, **choice, image_size=given.get("image_size"), numbers=False)
    classes = contents.fields.get("num_classes", 1)
    target = _target(contents, {"num_classes": classes, **given}, None, str(source), _allowed(allow, contents, "allowed"))
    report = Report(str(source), contents.kind.title, target)
    preprocess = choose_preprocess(contents.kind, contents.preprocess, contents.fields, target, str(source), report)
    objective = None if contents.objective is None else check_objective(contents.objective)
    guesses = {**{name: guess.why for name, guess in contents.guesses.items()}, **report.reasons}
    return Architecture(contents.fields, preprocess, _said(contents, preprocess, source), objective, contents, guesses)


def _said(contents: Contents, preprocess: Preprocess, source: str | Path) -> dict[str, Any]:
    """`Architecture.said`: everything of a published model; else the kind's pixels and what accompanies the weights.

    Pixels of a checkpoint of this project that has none, as the older ones, are unknown.
    """
    prepared = preprocess.as_dict()
    if published_name(contents.kind, contents.fields, str(source)) is not None:
        return prepared
    pixels = ("mean", "std", *(("channel_order",) if contents.kind.image else ())) if contents.kind is not OWN else ()
    return {**contents.preprocess, **{name: prepared[name] for name in {*pixels, *contents.preprocess} & prepared.keys()}}


def check_weights(
    source: str | Path,
    *,
    model: TimeSformer,
    allow: Sequence[str] = (),
    entry: str | None = None,
    prefix: str | None = None,
) -> None:
    """Raise what `load(source, model=model, num_classes=...)` would, for any number of classes.

    Names and shapes are read, numbers are not, so it is quick for files of any size but PyTorch's. What has to be fetched from
    the Hugging Face Hub is fetched, and is then in the cache.
    """
    _check_patterns(allow)
    choice = {"entry": entry, "prefix": prefix, "allow": allow, "image_size": model.image_size}
    contents = read_contents(_locate(source), None, model.num_heads, **choice, numbers=False)
    _check_contents(contents, source, model, allow)


def _check_contents(contents: Contents, source: str | Path, model: TimeSformer, allow: Sequence[str]) -> None:
    _check_patterns(allow)
    model = _target(contents, {}, model, str(source))
    given = {path: array.shape for path, array in contents.given.items() if not re.fullmatch(HEAD, path)}
    allowed = _allowed([HEAD, *allow], contents, "allowed")
    report = Report(str(source), contents.kind.title, model)
    plan_fit(given, model, report, contents.problems, contents.unknown, **_fitting(contents, model), allow=allowed)


def _fitting(contents: Contents, target: TimeSformer) -> dict[str, Any]:
    """Arguments of `fit` and `plan_fit` that follow from the kind of file."""
    scheme = contents.fields.get("attention_type", target.attention_type)
    return {
        "grid": _grid(contents.fields, target),
        "inflate": contents.kind.image or scheme != target.attention_type,
        "zeros": (*contents.kind.zeros, *contents.zeros),
    }


def params_from_official(tensors: Mapping[str, np.ndarray], model: TimeSformer) -> dict[str, Any]:
    """`model`'s parameters from an official state dict that is in memory (name -> array, PyTorch layouts).

    Raises `InputError` that lists at once everything that doesn't fit.
    """
    held = Tensors(
        {name: np.shape(array) for name, array in tensors.items()}, lambda name: np.asarray(tensors[name], np.float32)
    )
    found = recognise(held, "The state dict", "official")
    given, problems = translate(held, found, model.num_heads)
    return fit(given, model, Report("The state dict", found.kind.title, model), problems, found.unknown)


def _allowed(patterns: Sequence[str], contents: Contents, why: str) -> dict[str, str]:
    """`allow` of `fit`: the patterns, and the tensors that they match without their prefix."""
    short = [name for name in contents.unknown if any(re.fullmatch(p, contents.short.get(name, name)) for p in patterns)]
    return dict.fromkeys([*patterns, *map(re.escape, short)], why)


def _check_patterns(patterns: Sequence[str]) -> None:
    for pattern in patterns:
        try:
            re.compile(pattern)
        except re.error as error:
            raise InputError(f"allow takes regular expressions, and {pattern!r} is none: {error}.") from error


def _locate(source: str | Path) -> Path:
    """Where the weights are: a path that exists, or what a name stands for."""
    name = str(source)
    if name.startswith(("http://", "https://")):
        raise InputError(f"Download {source} and give the path of the file.")
    if "://" in name:  # in a bucket
        try:
            from etils import epath
        except ImportError as error:
            raise MissingPackageError("etils", f"Reading {name}") from error
        return cast(Path, epath.Path(name))
    try:
        path = Path(source).expanduser()
        exists = bool(name) and path.exists()
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(f"{name[:80]!r} can't be a path: {getattr(error, 'strerror', None) or first_line(error)}.") from error
    if exists:
        return path
    if ("/" in name and not name.startswith("hf:")) or path.suffix:
        raise InputError(f"There is no file or folder {source}.")
    return fetch(name)


def _target(
    contents: Contents, wanted: Mapping[str, Any], model: TimeSformer | None, source: str, allowed: Mapping[str, str] = {}
) -> TimeSformer:
    """The model that the weights go into; before anything is asked for, tensors without a place are named."""
    read = dict(contents.fields)
    fixed = {name: value for name, value in read.items() if name not in CHANGEABLE}
    if model is not None:
        differing = [name for name, value in wanted.items() if getattr(model, name, None) != value]
        if differing:
            raise InputError(
                f"With model=, its fields decide: {', '.join(differing)} differ(s) from the model's; change the model instead."
            )
        merge_fields((source, fixed), ("the model", {name: getattr(model, name) for name in fixed if name != "resize"}))
        return model
    merge_fields((source, fixed), ("your arguments", {name: value for name, value in wanted.items() if name in fixed}))
    fields = {**read, **wanted}
    if "num_classes" not in fields or "image_size" not in read:
        check_unknown(contents.unknown, allowed, source)
    if not fields.get("num_classes") and "num_classes" not in wanted:
        raise _no_classifier(contents, source)
    if "image_size" not in read:
        positions = contents.given["pos_embed"].shape[1] - 1
        other = f", of which image_size={fields['image_size']} isn't the size" if "image_size" in fields else ""
        raise InputError(
            f"{source} has {positions} positions, which are no square: give image_size=(height, width) in pixels "
            f"(on the command line --image-size){other}."
        )
    unknown = fields.keys() - {field.name for field in dataclasses.fields(TimeSformer)}
    if unknown:
        hint = did_you_mean(min(unknown), [*CHANGEABLE, *(field.name for field in dataclasses.fields(TimeSformer))])
        raise InputError(f"load has no argument {', '.join(sorted(unknown))}, and TimeSformer no such field.{hint}")
    return TimeSformer(**fields)


def _report_guesses(contents: Contents, wanted: Mapping[str, Any], model: TimeSformer | None, report: Report) -> None:
    """Record what neither the weights nor the caller states; a model that has the guessed value may have it from a guess."""
    for name, (value, why) in contents.guesses.items():
        if model is None and name not in wanted:
            report.guess(name, value, why)
        elif model is not None and getattr(model, name) == value:
            report.guess(name, value, f"{why}, or as the given model has it")
        elif model is not None:
            report.notes.append(f"{name} is {getattr(model, name)!r} by the given model, and the weights don't state it")


def _no_classifier(contents: Contents, source: str) -> InputError:
    why = f" ({list_problems(contents.problems)})" if contents.problems else ""
    missing = f"has no classifier{why}"
    if contents.pooled is not None:
        missing = f"has a classifier of {contents.pooled}, and this model's is of the class token, so it can't be kept"
    return InputError(
        f"{source} {missing}: give the number of classes, num_classes=... (on the command line --num-classes), or "
        "headless=True to load it for features alone."
    )


def _grid(fields: Mapping[str, Any], target: TimeSformer) -> tuple[int, int]:
    """Rows and columns of patches that the file's position embedding is for."""
    if "image_size" not in fields:
        return target.grid
    height, width = pair(fields["image_size"])
    return height // target.patch_size, width // target.patch_size


def _given_labels(
    given: str | Path | Sequence[str] | None, target: TimeSformer, num_classes: int | None
) -> tuple[str, ...] | None:
    """The caller's names of the target's classes."""
    if given is None:
        return None
    source, names = (str(given), read_labels(given)) if isinstance(given, str | Path) else ("labels", given)
    if num_classes is None and len(names) != target.num_classes:
        raise InputError(
            f"{source} names {len(names)} labels, but the model has {target.num_classes} classes: give "
            f"num_classes={len(names)} for a classifier of these labels (on the command line --num-classes)."
        )
    return check_labels(names, target.num_classes, source)


def _labels(
    given: tuple[str, ...] | None, contents: Contents, target: TimeSformer, fresh_head: bool, report: Report
) -> tuple[str, ...] | None:
    if given is not None:
        return given
    if contents.labels is None or fresh_head:
        report.notes.append("no names of the classes: give labels=FILE")
        return None
    return check_labels(contents.labels, target.num_classes, report.source)
