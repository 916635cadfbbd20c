"""`tsf.load`: any published kind of weights -> a model that computes the same numbers."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import jax
import numpy as np

from timesformer_jax.errors import InputError, did_you_mean
from timesformer_jax.extras import MissingPackageError
from timesformer_jax.labels import check_labels, read_labels
from timesformer_jax.modeling import (
    TimeSformer,
    check_objective,
    complete_description,
    flatten_params,
    parameter_shapes,
    unstack_blocks,
)
from timesformer_jax.modeling.checks import pair
from timesformer_jax.pretrained.beside import fields_of_notes, labels_of, notes_of_ours, objective_of, preprocess_of_notes
from timesformer_jax.pretrained.fields import (
    fields_of_config,
    fields_of_official_config,
    fields_of_parameters,
    known_heads,
    merge_fields,
)
from timesformer_jax.pretrained.files import open_tensors, read_beside
from timesformer_jax.pretrained.fitting import HEAD, POSITION_RESIZES, fit, plan_fit
from timesformer_jax.pretrained.formats import Tensors
from timesformer_jax.pretrained.kinds import KINDS, OWN, Kind
from timesformer_jax.pretrained.own import find_checkpoint, read_checkpoint, read_notes
from timesformer_jax.pretrained.preprocessing import choose_preprocess
from timesformer_jax.pretrained.pretrained import Pretrained
from timesformer_jax.pretrained.reading import ESSENTIAL, count_heads, recognise, translate, width
from timesformer_jax.pretrained.report import Report
from timesformer_jax.pretrained.zoo import fetch
from timesformer_jax.video import Preprocess

CHANGEABLE = ("num_classes", "num_frames", "image_size", "attention_type", "layer_norm_epsilon", "activation")
"""Fields that a user may want otherwise than the file has them; the other ones must agree."""


class _Contents(NamedTuple):
    """What a file, folder or checkpoint gives, whatever its kind."""

    kind: Kind
    given: dict[str, np.ndarray]
    fields: dict[str, Any]
    problems: list[str]
    unknown: dict[str, tuple[int, ...]]
    """Tensors that are none of its kind's, and their shapes."""
    ignored: dict[str, str]
    preprocess: Mapping[str, Any]
    """Entries of `Preprocess`, as far as they are known."""
    labels: Sequence[str] | None
    notes: list[str]
    objective: Any
    """As the file spells it; None if it doesn't say."""


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
    objective: str | None = None,
    key: jax.Array | None = None,
    **fields: Any,
) -> Pretrained:
    """Weights of any published kind, with the model they are for.

    `source`: a file or folder (official `.pyth`, Hugging Face, mmaction2 `.pth`, a run or checkpoint of this project; image
    transformers of timm, DeiT, Hugging Face, CLIP, vision_transformer and big_vision: `KINDS`), told by its content; a name of
    `ZOO`; or `hf:ORGANISATION/MODEL`. `kind`: a key of `KINDS`, where the content leaves it open.

    The model follows from the weights: its scheme, sizes, frames and classes. `num_classes` other than the file's gives a
    fresh classifier (drawn from `key`), `num_frames` and `image_size` resize the embeddings by `resize` (a key of
    `POSITION_RESIZES`). Further `fields` are `TimeSformer`'s: `dtype`, `drop_path_rate`, ..., `attention_type` for an image
    transformer's video model, `num_heads` where neither file nor custom tells it. An image transformer's attention is copied
    into the extra attention steps, whose last layer starts at zero. With `model`, the weights go into that model instead, and
    whatever doesn't fit it is an error but for the embeddings' sizes (and for the classifier where `num_classes` is given).

    `labels`: names of the classes, or a file of them (`read_labels`). `preprocess`: where the file doesn't say how a video
    must be prepared, and `report.notes` names a wrong guess. `objective`: "softmax" for one label a video, "sigmoid" for any
    number; by default what the file says, else "softmax". `allow`: patterns of our parameters that may be missing from the
    file (they are initialised), or of what the file has and the model has not (it is ignored); both stand in the report.

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
    contents = _read(_locate(source), kind, heads)
    wanted = {"num_classes": num_classes, "num_frames": num_frames, "image_size": image_size, **fields}
    wanted = {name: value for name, value in wanted.items() if value is not None}
    target = _target(contents, wanted, model, str(source))
    report = Report(str(source), contents.kind.title, target, ignored=dict(contents.ignored), notes=contents.notes)
    allowed = dict.fromkeys(allow, "allowed by the caller")
    fresh_head = num_classes is not None and contents.fields.get("num_classes") != num_classes
    if fresh_head:
        allowed[HEAD] = f"a fresh classifier of {num_classes} classes"
        for path in [path for path in contents.given if re.fullmatch(HEAD, path)]:
            del contents.given[path]
            report.ignored[path] = allowed[HEAD]
    if objective is None:
        objective = "softmax" if fresh_head or contents.objective is None else check_objective(contents.objective)
    for name in ("activation", "layer_norm_epsilon"):
        theirs, ours = contents.fields.get(name, getattr(target, name)), getattr(target, name)
        if theirs != ours:
            report.notes.append(f"{name} is {theirs!r} where the weights come from and {ours!r} in this model: outputs differ")
    account = (report, contents.problems, contents.unknown)
    params = fit(contents.given, target, *account, **_fitting(contents, target), resize=resize, allow=allowed, key=key)
    if preprocess is None:
        preprocess = choose_preprocess(contents.kind, contents.preprocess, contents.fields, target, str(source), report)
    names = _labels(labels, contents, target, fresh_head, report)
    return Pretrained(target, params, preprocess, names, report, objective)


class Architecture(NamedTuple):
    """What weights say of the model that they are for."""

    fields: dict[str, Any]
    """`TimeSformer`'s fields, as far as the weights fix or suggest them; `num_classes` is their classifier's."""
    preprocess: Preprocess

    @property
    def fixed(self) -> dict[str, Any]:
        """The fields that a model with these weights can't have otherwise."""
        return {name: value for name, value in self.fields.items() if name not in (*CHANGEABLE, "resize")}


def read_architecture(source: str | Path, **given: Any) -> Architecture:
    """The model and the preprocessing of what `load(source)` reads, from shapes and notes alone.

    Args:
      source: as for `load`.
      given: `num_heads` and `image_size`, for weights that don't show them; `num_frames`. None means not given.

    Raises:
      InputError: for files that hold no weights, and for weights that leave `num_heads` or `image_size` open.
    """
    given = {name: value for name, value in given.items() if value is not None}
    contents = _read(_locate(source), None, given.pop("num_heads", None), numbers=False)
    target = _target(contents, {"num_classes": contents.fields.get("num_classes", 1), **given}, None, str(source))
    report = Report(str(source), contents.kind.title, target)
    preprocess = choose_preprocess(contents.kind, contents.preprocess, contents.fields, target, str(source), report)
    return Architecture(contents.fields, preprocess)


def check_weights(source: str | Path, *, model: TimeSformer, allow: Sequence[str] = ()) -> None:
    """Raise what `load(source, model=model, num_classes=...)` would, for any number of classes.

    Names and shapes are read, numbers are not, so it is quick for files of any size but PyTorch's. What has to be fetched from
    the Hugging Face Hub is fetched, and is then in the cache.
    """
    contents = _read(_locate(source), None, model.num_heads, numbers=False)
    model = _target(contents, {}, model, str(source))
    given = {path: array.shape for path, array in contents.given.items() if not re.fullmatch(HEAD, path)}
    allowed = dict.fromkeys([HEAD, *allow], "allowed")
    report = Report(str(source), contents.kind.title, model)
    plan_fit(given, model, report, contents.problems, contents.unknown, **_fitting(contents, model), allow=allowed)


def _fitting(contents: _Contents, target: TimeSformer) -> dict[str, Any]:
    """Arguments of `fit` and `plan_fit` that follow from the kind of file."""
    scheme = contents.fields.get("attention_type", target.attention_type)
    return {
        "grid": _grid(contents.fields, target),
        "inflate": contents.kind.image or scheme != target.attention_type,
        "zeros": contents.kind.zeros,
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
        raise InputError(f"{name[:80]!r} can't be a path: {error}.") from error
    if exists:
        return path
    if ("/" in name and not name.startswith("hf:")) or path.suffix:
        raise InputError(f"There is no file or folder {source}.")
    return fetch(name)


def _read(path: Path, kind: str | None, num_heads: Any, *, numbers: bool = True) -> _Contents:
    """The contents of a file, folder or checkpoint; with `numbers=False` arrays of the right shapes, of zeros."""
    checkpoint = find_checkpoint(path)
    if checkpoint is not None:
        return _read_own(checkpoint, numbers=numbers)
    tensors = open_tensors(path)
    if not numbers:
        shapes = tensors.shapes
        tensors = tensors._replace(take=lambda name: np.broadcast_to(np.float32(0), shapes[name]))
    found = recognise(tensors, str(path), kind)
    own = notes_of_ours(tensors.notes)
    config = read_beside(path, "config.json") if found.kind.config else {}
    said = {**fields_of_config(config), **fields_of_official_config(tensors.notes.get("cfg")), **fields_of_notes(own)}
    notes = [found.kind.note] if found.kind.note else []
    shown_heads = count_heads(tensors, found) or said.get("num_heads")
    heads = (num_heads or shown_heads) if numbers else (shown_heads or num_heads)  # what is only shown is compared later
    if heads is None:
        heads = known_heads(width(tensors, found))
        notes.append(f"{heads} attention heads, as models of this width have: give num_heads= if it is another number")
    if isinstance(heads, bool) or not isinstance(heads, int) or heads < 1:
        raise InputError(f"num_heads must be a whole number of at least 1, got {heads!r}.")
    given, problems = translate(tensors, found, heads)
    if not given.keys() >= set(ESSENTIAL):
        raise InputError(f"{path} can't be read: " + "; ".join(problems) + ".")
    shown = fields_of_parameters(given, found.kind)
    labels = labels_of(config, tensors.notes, own) if "num_classes" in shown else None
    if labels is not None:
        said["num_classes"] = len(labels)
    fields = merge_fields(
        ("what stands beside the tensors", said), ("the tensors", shown), ("num_heads=", {"num_heads": heads})
    )
    preprocessor = read_beside(path, "preprocessor_config.json") if found.kind.config else {}
    ignored = dict.fromkeys(found.ignored, "no part of the model")
    prepared = preprocess_of_notes(preprocessor, tensors.notes.get("cfg"), own)
    return _Contents(
        found.kind,
        given,
        {**found.kind.fields, **fields},
        problems,
        found.unknown,
        ignored,
        prepared,
        labels,
        notes,
        objective_of(config, own),
    )


def _read_own(checkpoint: Path, *, numbers: bool) -> _Contents:
    notes = read_notes(checkpoint)
    fields = complete_description(notes["model"])
    scanned = fields.pop("scan_layers")
    if numbers:
        params = read_checkpoint(checkpoint)[0]
        # numpy's arrays share the memory of JAX's here.
        given = {
            name: np.asarray(array) for name, array in flatten_params(unstack_blocks(params) if scanned else params).items()
        }
    else:
        shapes = flatten_params(parameter_shapes(TimeSformer(**fields)))
        given = {name: np.broadcast_to(np.float32(0), leaf.shape) for name, leaf in shapes.items()}
    prepared, labels = notes.get("preprocess") or {}, labels_of({}, {}, notes)
    return _Contents(OWN, given, fields, [], {}, {}, prepared, labels, [], objective_of({}, notes))


def _target(contents: _Contents, wanted: Mapping[str, Any], model: TimeSformer | None, source: str) -> TimeSformer:
    """The model that the weights go into."""
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
    if "num_classes" not in fields:
        why = f" ({'; '.join(contents.problems)})" if contents.problems else ""
        raise InputError(f"{source} has no classifier{why}: say how many classes the model is to tell apart, num_classes=...")
    if "image_size" not in fields:
        positions = contents.given["pos_embed"].shape[1] - 1
        raise InputError(f"{source} has {positions} positions, which are no square: say image_size=(height, width) in pixels.")
    unknown = fields.keys() - {field.name for field in dataclasses.fields(TimeSformer)}
    if unknown:
        hint = did_you_mean(min(unknown), [*CHANGEABLE, *(field.name for field in dataclasses.fields(TimeSformer))])
        raise InputError(f"load has no argument {', '.join(sorted(unknown))}, and TimeSformer no such field.{hint}")
    return TimeSformer(**fields)


def _grid(fields: Mapping[str, Any], target: TimeSformer) -> tuple[int, int]:
    """Rows and columns of patches that the file's position embedding is for."""
    if "image_size" not in fields:
        return target.grid
    height, width = pair(fields["image_size"])
    return height // target.patch_size, width // target.patch_size


def _labels(
    given: str | Path | Sequence[str] | None, contents: _Contents, target: TimeSformer, fresh_head: bool, report: Report
) -> tuple[str, ...] | None:
    if given is not None:
        names = read_labels(given) if isinstance(given, str | Path) else given
        return check_labels(names, target.num_classes, str(given) if isinstance(given, str | Path) else "labels")
    if contents.labels is None or fresh_head:
        report.notes.append("no names of the classes: give labels=FILE")
        return None
    return check_labels(contents.labels, target.num_classes, report.source)
