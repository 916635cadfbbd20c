"""Load I3D and SlowFast from the published formats of their weights."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from timesformer_jax.cnn3d import CONVNETS, I3D, STAGES, ConvNet, SlowFast
from timesformer_jax.digests import check_digests
from timesformer_jax.errors import InputError, did_you_mean, shown
from timesformer_jax.labels import check_labels, read_labels
from timesformer_jax.modeling import check_objective, flatten_params, weight_shapes
from timesformer_jax.modeling.description import ARCHITECTURE
from timesformer_jax.modeling.variables import STATISTICS as STATISTICS_ENTRY
from timesformer_jax.orbax_io import read_host_arrays
from timesformer_jax.pretrained.convnet_formats import CONVNET_FORMATS, STATISTICS, ConvnetFormat
from timesformer_jax.pretrained.file_notes import (
    entries_of_yaml,
    labels_of_notes,
    notes_of_ours,
    objective_of_notes,
    objective_of_official_config,
    preprocess_of_notes,
)
from timesformer_jax.pretrained.load_report import Report
from timesformer_jax.pretrained.orbax import checkpoint_entries, read_notes
from timesformer_jax.pretrained.pretrained import Pretrained
from timesformer_jax.pretrained.tensor_files import Tensors
from timesformer_jax.pretrained.tensor_names import list_problems, without_wrappers
from timesformer_jax.video import Preprocess

STEM = "pathway0/stem/conv/kernel"
"""The variable that every file of these models has."""


class Matched(NamedTuple):
    """Tensor names of a file, matched to the rows of one format."""

    format: ConvnetFormat
    """The format."""
    places: dict[str, tuple[Any, str]]
    """Name in the file -> (row, path of our variable)."""
    ignored: list[str]
    """Names that aren't part of the model."""
    unknown: list[str]
    """Names that match no row."""


def match_convnet(tensors: Tensors, format: str | None = None) -> Matched | None:
    """Match the tensors of a file to the format of I3D and SlowFast that fits best; None if they are of another model.

    Args:
        tensors: Tensors of the file.
        format: A key of `CONVNET_FORMATS`; by default detected from the names.
    """
    tried = [_match(tensors, CONVNET_FORMATS[name]) for name in ([format] if format else CONVNET_FORMATS)]
    best = max(tried, key=lambda matched: len(matched.places))
    return best if format or STEM in {path for _, path in best.places.values()} else None


def _match(tensors: Tensors, format: ConvnetFormat) -> Matched:
    named = {row.theirs: row for row in format.rows}
    matched = Matched(format, {}, [], [])
    for name in tensors.shapes:
        short = re.sub(r"^(module\.|model\.)+", "", without_wrappers(name))
        general, block = format.template(short)
        if general in named:
            matched.places[name] = named[general], named[general].ours.replace("{i}", block)
        else:
            (matched.ignored if re.fullmatch(format.ignored, short) else matched.unknown).append(name)
    return matched


def load_convnet(
    source: str | Path,
    tensors: Tensors,
    matched: Matched,
    wanted: Mapping[str, Any],
    *,
    model: ConvNet | None = None,
    labels: str | Path | Sequence[str] | None = None,
    preprocess: Preprocess | None = None,
    objective: str | None = None,
    allow: Sequence[str] = (),
    prefix: str | None = None,
    key: jax.Array | None = None,
) -> Pretrained:
    """Load the weights of an I3D or SlowFast.

    Args:
        source: The weights, as given to `load`.
        tensors: Tensors of the file.
        matched: Their names, matched to a format.
        wanted: Fields of the model that the caller set.
        model: The model to fill; None to build one from the weights.
        labels: As for `load`.
        preprocess: As for `load`.
        objective: As for `load`.
        allow: Patterns of tensors to ignore, as for `load`.
        prefix: Refused unless None: the names of these formats determine the tensors.
        key: Random key of a new classifier.

    Returns:
        The model with its weights.

    Raises:
        InputError: If the weights don't fit the model.
    """
    _check_no_choice(source, prefix=prefix)
    notes = notes_of_ours(tensors.notes)
    shapes = {path: tensors.shapes[name] for name, (_, path) in matched.places.items()}
    stated = objective_of_notes(notes) or objective_of_official_config(tensors.notes.get("cfg"))
    objective = check_objective(objective or stated or "softmax")
    read = {**_fields_of_shapes(shapes, str(source)), **_fields_of_notes(tensors.notes, notes)}
    target = model or _build(read, {**wanted, "objective": objective}, source)
    if model is not None:
        _check_given(model, read, wanted)
    report = Report(str(source), matched.format.title, target, entry=tensors.wrapper, other_entries=tensors.others)
    report.ignored |= dict.fromkeys(matched.ignored, "not part of the model")
    fresh_head = target.num_classes != read.get("num_classes")
    if fresh_head and "num_classes" not in wanted:
        raise InputError(
            f"{source} has {'a classifier of ' + str(read['num_classes']) if 'num_classes' in read else 'no classifier of'} "
            f"classes, and the model has {target.num_classes}: give num_classes={target.num_classes} for a new classifier (on "
            "the command line --num-classes)."
        )
    variables = _fill(tensors, matched, target, report, allow, key if fresh_head else None, fresh_head=fresh_head)
    if preprocess is None:
        values = preprocess_of_notes(notes, tensors.notes.get("cfg"), convnet=True)
        preprocess = _preprocess(target, values, report)
    if labels is not None:
        names = read_labels(labels) if isinstance(labels, str | Path) else labels
    else:
        names = None if fresh_head else labels_of_notes(tensors.notes, notes)
    if names is None:
        report.notes.append("the names of the classes are unknown: give labels=FILE")
    else:
        names = check_labels(names, target.num_classes, str(labels or source))
    return Pretrained(target, variables["params"], preprocess, names, report, objective, variables["batch_stats"])


def load_convnet_run(
    source: str | Path,
    checkpoint: Path,
    wanted: Mapping[str, Any],
    *,
    model: ConvNet | None = None,
    entry: str | None = None,
    labels: str | Path | Sequence[str] | None = None,
    preprocess: Preprocess | None = None,
    objective: str | None = None,
    allow: Sequence[str] = (),
    prefix: str | None = None,
    key: jax.Array | None = None,
) -> Pretrained:
    """Load an I3D or SlowFast from a checkpoint of this project, with the moving average of its parameters if it has one.

    The classifier is kept if the classes are the checkpoint's, by name and in order.

    Args:
        source: The weights, as given to `load`.
        checkpoint: The checkpoint that was found there.
        wanted: Fields of the model that the caller set.
        model: The model to fill; None to build one from the weights.
        entry: As for `load`.
        labels: As for `load`.
        preprocess: As for `load`.
        objective: As for `load`.
        allow: Refused unless empty, like `prefix`: the model has a place for all of a checkpoint's arrays.
        prefix: Refused unless None.
        key: Random key of a new classifier.

    Returns:
        The model with its weights.

    Raises:
        InputError: If the weights don't fit the model.
    """
    _check_no_choice(source, prefix=prefix, allow=allow or None)
    notes = read_notes(checkpoint)
    kind, fields = _model_of_notes(checkpoint, notes["model"])
    stored = kind(**fields)
    objective = check_objective(objective or objective_of_notes(notes) or "softmax")
    _check_known(kind, {} if model else wanted, source)
    target = model or kind(**{**fields, **wanted, "objective": objective})
    _check_given(target, {"num_pathways": len(kind.pathways)}, wanted)
    entry, others = checkpoint_entries(checkpoint, notes, entry)
    check_digests(checkpoint, (entry, STATISTICS_ENTRY))
    shapes = weight_shapes(stored)
    found = read_host_arrays(checkpoint, {entry: shapes["params"], STATISTICS_ENTRY: shapes[STATISTICS_ENTRY]})
    params, batch_stats = found[entry], found[STATISTICS_ENTRY]
    given = read_labels(labels) if isinstance(labels, str | Path) else labels
    given = None if given is None else check_labels(given, target.num_classes, str(labels))
    names = labels_of_notes({}, notes)
    report = Report(str(source), "a checkpoint of this project", target, entry=entry, other_entries=others)
    report.loaded += [*flatten_params(params), *flatten_params(batch_stats)]
    if target.num_classes != stored.num_classes or (given is not None and names is not None and list(given) != names):
        params["head"], names = new_classifier(target, key), None
        report.loaded = [path for path in report.loaded if not path.startswith("head/")]
        report.initialised |= dict.fromkeys(("head/kernel", "head/bias"), f"a fresh classifier of {target.num_classes} classes")
    wrong = [
        f"{path}: {shape} in the checkpoint"
        for path, shape in _differing(weight_shapes(target), {"params": params, STATISTICS_ENTRY: batch_stats})
    ]
    if wrong:
        raise InputError(f"{source} doesn't fit the {type(target).__name__}: {list_problems(wrong, 8)}.")
    if preprocess is None:
        stated = preprocess_of_notes(notes, None)
        if target.image_size != stored.image_size:
            stated = {name: value for name, value in stated.items() if name not in ("crop_size", "short_side")}
        preprocess = _preprocess(target, stated, report)
    chosen = given or names
    return Pretrained(target, params, preprocess, tuple(chosen) if chosen else None, report, objective, batch_stats)


def is_convnet_run(checkpoint: Path) -> bool:
    """Return True if a checkpoint of this project holds an I3D or SlowFast."""
    described = read_notes(checkpoint)["model"]
    return isinstance(described, Mapping) and ARCHITECTURE in described


def _model_of_notes(checkpoint: Path, described: Mapping[str, Any]) -> tuple[type[ConvNet], dict[str, Any]]:
    """Return the class and the fields in a checkpoint's notes; raises `InputError` if they are unknown."""
    fields = dict(described)
    name = fields.pop(ARCHITECTURE)
    if name not in CONVNETS:
        raise InputError(f"The checkpoint {checkpoint} has architecture={shown(name)}, which this version doesn't know.")
    kind = CONVNETS[name]
    known = {field.name for field in dataclasses.fields(kind)}
    if unknown := sorted(fields.keys() - known):
        raise InputError(
            f"The checkpoint {checkpoint} has fields that a {name} doesn't have: {', '.join(map(shown, unknown))}."
        )
    return kind, fields


def _differing(expected: Mapping[str, Any], found: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Return path and shape of each array that the model doesn't have in this shape."""
    shapes = {path: leaf.shape for tree in expected.values() for path, leaf in flatten_params(tree).items()}
    arrays = {path: np.shape(leaf) for tree in found.values() for path, leaf in flatten_params(tree).items()}
    paths = sorted(shapes.keys() | arrays.keys())
    return [(path, arrays.get(path, "missing")) for path in paths if shapes.get(path) != arrays.get(path)]


def new_classifier(model: ConvNet, key: jax.Array | None) -> dict[str, np.ndarray]:
    """Initialise the parameters of the classifier, as NumPy arrays."""
    shape = weight_shapes(model)["params"]["head"]["kernel"].shape
    kernel = jax.random.normal(jax.random.key(0) if key is None else key, shape) * np.float32(0.01)
    return {"kernel": np.asarray(kernel), "bias": np.zeros(shape[-1], np.float32)}


def _fields_of_shapes(shapes: Mapping[str, tuple[int, ...]], source: str) -> dict[str, Any]:
    """Infer the fields that the tensors' names and shapes show."""
    depths = [
        1 + max((int(match[1]) for path in shapes if (match := re.match(rf"pathway0/{stage}_(\d+)/", path))), default=-1)
        for stage in STAGES
    ]
    fast = shapes.get("pathway1/stem/conv/kernel")
    stem = shapes.get(STEM, ())
    if len(stem) != 5 or 0 in stem or 0 in depths or sum(depths) > len(shapes) or (fast is not None and not all(fast)):
        raise InputError(f"{source} isn't a whole I3D or SlowFast: a stem or a stage is missing or damaged.")
    fields: dict[str, Any] = {"depths": tuple(depths), "width": stem[0], "num_pathways": 1 if fast is None else 2}
    if fast is not None:
        fields["beta_inv"] = max(1, stem[0] // fast[0])
    if shapes.get("head/bias"):
        fields["num_classes"] = shapes["head/bias"][0]
    return fields


def _fields_of_notes(notes: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields that our notes or PySlowFast's configuration state."""
    said = own.get("model", {})
    fields = {name: said[name] for name in ("num_frames", "image_size", "alpha") if name in said}
    if isinstance(notes.get("cfg"), str):
        config = entries_of_yaml(notes["cfg"])
        for theirs, ours in (("NUM_FRAMES", "num_frames"), ("TRAIN_CROP_SIZE", "image_size"), ("ALPHA", "alpha")):
            if re.fullmatch(r"[0-9]{1,9}", config.get(theirs, "")):
                fields[ours] = int(config[theirs])
    return fields


def _build(read: Mapping[str, Any], wanted: Mapping[str, Any], source: str | Path) -> ConvNet:
    kind = SlowFast if read["num_pathways"] == 2 else I3D
    known = _check_known(kind, wanted, source)
    for name, value in wanted.items():
        if name in ("width", "depths", "beta_inv") and read.get(name, value) != value:
            raise InputError(f"{name} is {read[name]} in {source}, but {value} by your arguments.")
    fields = {name: value for name, value in {**read, **wanted}.items() if name in known}
    if "num_classes" not in fields:
        raise InputError(f"{source} has no classifier: give num_classes=... (on the command line --num-classes).")
    return kind(**fields)


def _check_known(kind: type[ConvNet], wanted: Mapping[str, Any], source: str | Path) -> set[str]:
    """Return the names of a network's fields; raises `InputError` if the caller set another."""
    known = {field.name for field in dataclasses.fields(kind)} - {"parent", "name"}
    for name in wanted:
        if name not in known:
            raise InputError(
                f"{source} is a {kind.__name__}, and load has no argument {name} for it: a {kind.__name__} has no such field."
                f"{did_you_mean(name, known)}"
            )
    return known


def _check_no_choice(source: str | Path, **given: Any) -> None:
    """Raise `InputError` for arguments of `load` that choose among tensors, where there is no choice."""
    for name, value in given.items():
        if value is not None:
            raise InputError(f"{source} holds an I3D or SlowFast, of which all weights are loaded: omit {name}={value!r}.")


def _check_given(model: ConvNet, read: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    kind = SlowFast if read["num_pathways"] == 2 else I3D
    if type(model) is not kind:
        raise InputError(f"The weights are of {kind.__name__}, and the given model is a {type(model).__name__}.")
    differing = [name for name, value in wanted.items() if getattr(model, name, None) != value]
    if differing:
        raise InputError(f"{', '.join(differing)} differ(s) from the fields of the given model; change the model instead.")


def _fill(
    tensors: Tensors,
    matched: Matched,
    target: ConvNet,
    report: Report,
    allow: Sequence[str],
    key: jax.Array | None,
    *,
    fresh_head: bool,
) -> dict[str, Any]:
    """Return the variables of the model as NumPy arrays, and report each; raises `InputError` that lists what doesn't fit."""
    shapes = weight_shapes(target)
    expected = {path: leaf.shape for tree in shapes.values() for path, leaf in flatten_params(tree).items()}
    found: dict[str, np.ndarray] = {}
    problems = []
    for name in matched.unknown:
        if any(re.fullmatch(pattern, name) for pattern in allow):
            report.ignored[name] = "allowed by the caller"
        else:
            problems.append(f"{name} {tensors.shapes[name]}: no place in the model")
    for name, (row, path) in matched.places.items():
        if fresh_head and path.startswith("head/"):
            report.ignored[name] = f"a fresh classifier of {target.num_classes} classes"
            continue
        ranks = row.layout.ranks or (1,)
        array = row.layout.read(tensors.take(name), 1) if len(tensors.shapes[name]) in ranks else None
        if array is None or array.shape != expected.get(path):
            problems.append(f"{name} {tensors.shapes[name]}: {path} is {expected.get(path, 'not in the model')}")
        elif path in found:
            problems.append(f"{name}: the same variable as another tensor")
        else:
            found[path] = np.ascontiguousarray(array)
            report.loaded.append(path)
    for path in expected.keys() - found.keys():
        if not (fresh_head and path.startswith("head/")) and not any(path in problem for problem in problems):
            problems.append(f"{path}: missing from the file")
    if problems:
        raise InputError(
            f"{report.source} doesn't fit {type(target).__name__}: {list_problems(sorted(problems), 8)}. Only "
            "I3D and SlowFast 8x8 with bottleneck blocks are computed, and no relatives such as C2D or non-local networks."
        )
    if fresh_head:
        found |= {f"head/{name}": array for name, array in new_classifier(target, key).items()}
        fresh = f"a fresh classifier of {target.num_classes} classes"
        report.initialised |= dict.fromkeys(("head/kernel", "head/bias"), fresh)
    report.not_finite |= {path: count for path, array in found.items() if (count := int((~np.isfinite(array)).sum()))}
    for array in found.values():
        array.setflags(write=False)
    trees: dict[str, Any] = {"params": {}, "batch_stats": {}}
    for path, array in found.items():
        *outer, last = path.split("/")
        place = trees["batch_stats" if last in STATISTICS else "params"]
        for name in outer:
            place = place.setdefault(name, {})
        place[last] = array
    return trees


def _preprocess(target: ConvNet, stated: Mapping[str, Any], report: Report) -> Preprocess:
    """Return the stated preprocessing, else that of the model zoo: RGB, frames 64 / `num_frames` apart, 256 px for 224."""
    side = min(target.image_sides)
    usual = {"sampling_rate": 64 / target.num_frames, "crop_size": side * 8 // 7, "channel_order": "rgb"}
    if "sampling_rate" not in stated:
        report.notes.append(
            f"videos are prepared as in PySlowFast's evaluation ({target.num_frames} frames at stride "
            f"{usual['sampling_rate']:g}, {usual['crop_size']} px): give preprocess= if that is wrong"
        )
    try:
        return Preprocess.from_dict({**usual, **stated, "num_frames": target.num_frames})
    except (TypeError, ValueError) as error:
        raise InputError(f"The preprocessing in the description of the weights can't be used: {error}") from error
