"""`tsf.load`: read weights of any published format into a model that computes the same outputs."""

import dataclasses
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import jax
import numpy as np

from timesformer_jax.checks import check_choice
from timesformer_jax.cnn3d import ConvNet
from timesformer_jax.errors import InputError, did_you_mean, shown
from timesformer_jax.labels import check_labels, read_labels
from timesformer_jax.modeling import TimeSformer, check_objective
from timesformer_jax.modeling.checks import pair
from timesformer_jax.pretrained.classifier_rows import take_rows
from timesformer_jax.pretrained.convnet_formats import CONVNET_FORMATS
from timesformer_jax.pretrained.convnets import is_convnet_run, load_convnet, load_convnet_run, match_convnet
from timesformer_jax.pretrained.file_checks import check_fields
from timesformer_jax.pretrained.fit_to_model import HEAD, POSITION_RESIZES, check_unknown, fit
from timesformer_jax.pretrained.infer_config import choose_preprocess, merge_fields
from timesformer_jax.pretrained.load_report import Report, describe_not_finite
from timesformer_jax.pretrained.matching import recognise, translate
from timesformer_jax.pretrained.orbax import find_checkpoint
from timesformer_jax.pretrained.pretrained import Pretrained
from timesformer_jax.pretrained.read_source import Contents, read_contents
from timesformer_jax.pretrained.tensor_files import Tensors, open_tensors
from timesformer_jax.pretrained.tensor_names import list_problems
from timesformer_jax.pretrained.weight_formats import FORMATS
from timesformer_jax.pretrained.zoo import locate
from timesformer_jax.video import Preprocess

log = logging.getLogger("timesformer_jax")

CHANGEABLE = ("num_classes", "num_frames", "image_size", "attention_type", "layer_norm_epsilon", "activation")
"""Fields that callers may set to values other than the file's. All other fields must agree with the file."""


def load(
    source: str | Path,
    *,
    model: TimeSformer | ConvNet | None = None,
    num_classes: int | None = None,
    num_frames: int | None = None,
    image_size: int | tuple[int, int] | None = None,
    resize: str = "bicubic",
    allow: Sequence[str] = (),
    labels: str | Path | Sequence[str] | None = None,
    preprocess: Preprocess | None = None,
    format: str | None = None,
    entry: str | None = None,
    prefix: str | None = None,
    objective: str | None = None,
    key: jax.Array | None = None,
    headless: bool = False,
    kind: str | None = None,
    **fields: Any,
) -> Pretrained:
    """Load weights of any published format, with the model that they belong to.

    The weights determine the model: its attention scheme, sizes, frames and classes. Image transformers become video models:
    their attention is copied into the extra attention steps, whose last layer starts at zero, so that the video model's first
    outputs are the image model's. `Pretrained.report` lists what was loaded, resized, copied, initialised, ignored and guessed.

    Args:
        source: A file or folder, a name in `ZOO`, or `hf:ORGANISATION/MODEL`. The format of a file or folder is detected from
            its content: official `.pyth`, Hugging Face, mmaction2 `.pth`, a run or checkpoint of this project, or an image
            transformer of timm, DeiT, Hugging Face, CLIP, vision_transformer or big_vision (see `FORMATS`), or an I3D or
            SlowFast of PySlowFast or pytorchvideo (see `CONVNET_FORMATS`).
        model: The model to fill, instead of one built from the weights. Anything that doesn't fit it is an error, except for
            the sizes of its embeddings and, if `num_classes` is given, its classifier.
        num_classes: Number of classes. If both `labels` and the weights name their classes, the classifier keeps the rows
            whose names match and draws the others from `key`; the report counts both. If either has no names, all rows are kept
            if the numbers of classes are equal; otherwise the whole classifier is drawn from `key`.
        num_frames: Number of frames to resize the time embedding to.
        image_size: Size in pixels, an int or (height, width), to resize the position embedding to.
        resize: Interpolation of the embeddings, a key of `POSITION_RESIZES`.
        allow: Regular expressions. Parameters of the model that match may be missing from the file and are initialised.
            Tensors of the file that match may be unknown to the model and are ignored. The report lists both.
        labels: Names of the classes, or a file of names (see `read_labels`). Without `num_classes` they replace the file's.
        preprocess: Preprocessing of the videos; by default the file's, or a guess that `report.notes` mentions.
        format: A key of `FORMATS`, for files whose content leaves the format open.
        entry: Entry of a PyTorch file or of a checkpoint of this project, such as "model_ema". By default the only entry, or
            the model rather than its moving average; for checkpoints of this project, the moving average if there is one.
        prefix: Prefix of the tensors to load, such as "student.", for files in which several prefixes are possible. Tensors
            without it are ignored.
        objective: "softmax" for one label per video, "sigmoid" for multi-label models; by default the file's, else "softmax".
        key: Random key of parameters that are initialised; `jax.random.key(0)` by default.
        headless: Accept weights without a classifier, which give a model with `num_classes=0`, for its features.
        kind: Former name of `format`.
        **fields: Other fields of `TimeSformer`, such as `dtype` or `drop_path_rate`; `attention_type` for the video model of
            an image transformer; `num_heads` if neither the file nor the width determines it.

    Returns:
        The model, its parameters as read-only NumPy arrays, its preprocessing, labels and objective, and the report.

    Raises:
        InputError: If the file holds no weights, or if the weights don't fit the model. The message lists everything that
            doesn't fit.
    """
    format = kind if format is None else format
    check_choice("resize", resize, POSITION_RESIZES)
    known = {**FORMATS, **CONVNET_FORMATS}
    if format is not None and format not in known:
        raise InputError(f"There is no weight format {format!r}; format must be one of {', '.join(known)}.")
    if objective is not None:
        check_objective(objective)
    allow = [allow] if isinstance(allow, str) else allow
    check_patterns(allow)
    path = locate(source)
    checkpoint = find_checkpoint(path)
    tensors = None if checkpoint else open_tensors(path, entry)
    matched = tensors and match_convnet(tensors, format if format in CONVNET_FORMATS else None)
    is_run = checkpoint is not None and is_convnet_run(checkpoint)
    if matched or is_run:
        sizes = {"num_classes": num_classes, "num_frames": num_frames, "image_size": image_size}
        wanted = {name: value for name, value in {**sizes, **fields}.items() if value is not None}
        if isinstance(model, TimeSformer):
            held = matched.format.title if matched else "an I3D or SlowFast"
            raise InputError(f"{source} holds {held}, and the given model is a TimeSformer.")
        given = {"model": model, "labels": labels, "preprocess": preprocess, "objective": objective, "key": key}
        given |= {"prefix": prefix, "allow": allow}
        if tensors is not None and matched:
            return load_convnet(source, tensors, matched, wanted, **given)
        return load_convnet_run(source, cast(Path, checkpoint), wanted, entry=entry, **given)
    if isinstance(model, ConvNet):
        raise InputError(f"{source} holds no weights of {type(model).__name__} in a format of {', '.join(CONVNET_FORMATS)}.")
    heads = model.num_heads if model is not None else fields.get("num_heads")
    size = model.image_size if model is not None else image_size
    choice = {"entry": entry, "prefix": prefix, "allow": allow, "image_size": size}
    contents = read_contents(path, format, heads, **choice, tensors=tensors)
    if num_classes == 0:
        raise InputError("num_classes must be at least 1, got 0; headless=True loads weights without a classifier.")
    if headless and model is None and num_classes is None and not contents.fields.get("num_classes"):
        num_classes = 0
    wanted = {"num_classes": num_classes, "num_frames": num_frames, "image_size": image_size, **fields}
    wanted = {name: value for name, value in wanted.items() if value is not None}
    allowed = allowed_patterns(allow, contents, "allowed by the caller")
    target = target_model(contents, wanted, model, str(source), allowed)
    report = Report(
        str(source),
        contents.format.title,
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
    fresh_head = num_classes is not None and _take_classifier(contents, target, given_names, report, allowed, key)
    objective = _choose_objective(objective, contents, report, fresh_head=fresh_head)
    _report_guesses(contents, wanted, model, report)
    _report_differences(contents, target, report)
    account = (report, contents.problems, contents.unknown)
    params = fit(contents.given, target, *account, **fit_options(contents, target), resize=resize, allow=allowed, key=key)
    if report.not_finite:
        log.warning("%s: %s.", source, describe_not_finite(report.not_finite))
    if preprocess is None:
        preprocess = choose_preprocess(contents.format, contents.preprocess, contents.fields, target, str(source), report)
    named = target.num_classes > 0 or labels is not None
    names = _labels(given_names, contents, target, fresh_head, report) if named else None
    return Pretrained(target, params, preprocess, names, report, objective)


def _take_classifier(
    contents: Contents,
    target: TimeSformer,
    labels: Sequence[str] | None,
    report: Report,
    allowed: dict[str, str],
    key: jax.Array | None,
) -> bool:
    """Keep the classifier's rows that match the target's classes; drop the classifier if none does.

    Args:
        contents: Contents of the file; the classifier is changed in place.
        target: The model to fill.
        labels: Names of the target's classes; None if unknown.
        report: Receives the counts of rows.
        allowed: Maps patterns to reasons, as for `fit`; the classifier is added if it is dropped.
        key: Random key of the fresh rows.

    Returns:
        True if the classifier was dropped.
    """
    rows = take_rows(contents, target, labels, source=report.source, allow=allowed, key=key)
    classes = target.num_classes
    report.classifier = rows.account if classes else None
    if rows.kept:
        report.num_untrained = rows.num_fresh
        return False
    allowed[HEAD] = f"a fresh classifier of {classes} classes" if classes else "a model for its features alone"
    for path in [path for path in contents.given if re.fullmatch(HEAD, path)]:
        del contents.given[path]
        report.ignored[path] = allowed[HEAD]
    return True


def _choose_objective(wanted: str | None, contents: Contents, report: Report, *, fresh_head: bool) -> str:
    """Return the caller's objective, else the file's unless its classifier is dropped, else "softmax".

    Args:
        wanted: The caller's objective; None if not given.
        contents: Contents of the file.
        report: Receives a note if the two differ.
        fresh_head: Whether the file's classifier is dropped.
    """
    said = None if fresh_head else contents.objective
    if wanted is None:
        check_fields({} if contents.objective is None else {"objective": contents.objective}, report.source)
        return "softmax" if said is None else check_objective(said)
    if said is not None and said != wanted:
        report.notes.append(f"the classifier was trained with objective {shown(said)}, but {wanted!r} is used here")
    return wanted


def _report_differences(contents: Contents, target: TimeSformer, report: Report) -> None:
    """Note constants of the model whose values differ from those that the weights were trained with."""
    for name in ("activation", "layer_norm_epsilon"):
        theirs, ours = contents.fields.get(name, getattr(target, name)), getattr(target, name)
        if name not in contents.guesses and theirs != ours:
            report.notes.append(f"the weights were trained with {name} {theirs!r}, but this model has {ours!r}: outputs differ")


def fit_options(contents: Contents, target: TimeSformer) -> dict[str, Any]:
    """Arguments of `fit` and `plan_fit` that follow from the file's format."""
    scheme = contents.fields.get("attention_type", target.attention_type)
    return {
        "grid": _grid(contents.fields, target),
        "inflate": contents.format.image or scheme != target.attention_type,
        "zeros": (*contents.format.zeros, *contents.zeros),
    }


def params_from_official(tensors: Mapping[str, np.ndarray], model: TimeSformer) -> dict[str, Any]:
    """Convert an official state dict in memory (names to arrays in PyTorch's layouts) to parameters of `model`.

    Raises `InputError` if the tensors don't fit the model, and lists everything that doesn't.
    """
    held = Tensors({name: np.shape(array) for name, array in tensors.items()}, lambda name: np.array(tensors[name], np.float32))
    found = recognise(held, "The state dict", "official")
    given, problems = translate(held, found, model.num_heads)
    return fit(given, model, Report("The state dict", found.format.title, model), problems, found.unknown)


def allowed_patterns(patterns: Sequence[str], contents: Contents, why: str) -> dict[str, str]:
    """Return `allow` for `fit`: the patterns, and every unknown tensor whose name without its prefix matches one."""
    short = [name for name in contents.unknown if any(re.fullmatch(p, contents.short.get(name, name)) for p in patterns)]
    return dict.fromkeys([*patterns, *map(re.escape, short)], why)


def check_patterns(patterns: Sequence[str]) -> None:
    """Raise `InputError` for a pattern that is not a regular expression."""
    for pattern in patterns:
        try:
            re.compile(pattern)
        except re.error as error:
            raise InputError(f"allow takes regular expressions, and {pattern!r} isn't one: {error}.") from error


def target_model(
    contents: Contents, wanted: Mapping[str, Any], model: TimeSformer | None, source: str, allowed: Mapping[str, str] = {}
) -> TimeSformer:
    """Return the model to fill.

    Tensors that no model has a parameter for are reported before missing classes or sizes, whose absence they may explain.

    Args:
        contents: Contents of the file.
        wanted: Fields of the model that the caller set.
        model: The caller's model; None to build one from the weights.
        source: The weights, for errors.
        allowed: Maps patterns of unknown tensors that are ignored to the reason.
    """
    read = dict(contents.fields)
    fixed = {name: value for name, value in read.items() if name not in CHANGEABLE}
    if model is not None:
        differing = [name for name, value in wanted.items() if getattr(model, name, None) != value]
        if differing:
            raise InputError(f"{', '.join(differing)} differ(s) from the fields of the given model; change the model instead.")
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
        other = f"; image_size={fields['image_size']} doesn't fit them" if "image_size" in fields else ""
        raise InputError(
            f"{source} has {positions} positions, which don't form a square: give image_size=(height, width) in pixels "
            f"(on the command line --image-size){other}."
        )
    unknown = fields.keys() - {field.name for field in dataclasses.fields(TimeSformer)}
    if unknown:
        hint = did_you_mean(min(unknown), [*CHANGEABLE, *(field.name for field in dataclasses.fields(TimeSformer))])
        raise InputError(f"load has no argument {', '.join(sorted(unknown))}, and TimeSformer has no such field.{hint}")
    return TimeSformer(**fields)


def _report_guesses(contents: Contents, wanted: Mapping[str, Any], model: TimeSformer | None, report: Report) -> None:
    """Record fields that neither the weights nor the caller state.

    A given model's field counts as a guess too if it equals the guessed value, since the model may have been built from it.

    Args:
        contents: Contents of the file.
        wanted: Fields of the model that the caller set.
        model: The caller's model; None if it was built from the weights.
        report: Receives the guesses.
    """
    for name, (value, why) in contents.guesses.items():
        if model is None and name not in wanted:
            report.guess(name, value, why)
        elif model is not None and getattr(model, name) == value:
            report.guess(name, value, f"{why}, or taken from the given model")
        elif model is not None:
            report.notes.append(f"{name} is {getattr(model, name)!r} in the given model, and the weights don't state it")


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
    """Return the rows and columns of patches of the file's position embedding."""
    if "image_size" not in fields:
        return target.grid
    height, width = pair(fields["image_size"])
    return height // target.patch_size, width // target.patch_size


def _given_labels(
    given: str | Path | Sequence[str] | None, target: TimeSformer, num_classes: int | None
) -> tuple[str, ...] | None:
    """Return the caller's names of the target's classes."""
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
        theirs = tuple(contents.labels or ())
        if not fresh_head and given != theirs and sorted(given) == sorted(theirs) and report.classifier is None:
            report.notes.append(
                "labels= has the weights' own class names in another order and renames the classes: omit it to keep "
                "the weights' names, or give num_classes= to reorder the classifier instead"
            )
        return given
    if contents.labels is None or fresh_head:
        report.notes.append("the names of the classes are unknown: give labels=FILE")
        return None
    return check_labels(contents.labels, target.num_classes, report.source)
