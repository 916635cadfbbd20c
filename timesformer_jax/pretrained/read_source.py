"""Read a file, folder or checkpoint of any format: parameters, model fields, labels and preprocessing."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from timesformer_jax.errors import InputError
from timesformer_jax.modeling import TimeSformer, flatten_params, parameter_shapes, unstack_blocks
from timesformer_jax.pretrained.convnets import match_convnet
from timesformer_jax.pretrained.file_checks import check_fields
from timesformer_jax.pretrained.file_notes import (
    fields_of_notes,
    fields_of_official_config,
    labels_of_notes,
    notes_of_ours,
    objective_of_notes,
    objective_of_official_config,
    preprocess_of_notes,
)
from timesformer_jax.pretrained.fit_to_model import HEAD
from timesformer_jax.pretrained.huggingface_config import (
    REGRESSION,
    preprocess_of_preprocessor,
    scaling_of_images,
    scaling_of_videos,
)
from timesformer_jax.pretrained.infer_config import HEADS, fields_of_parameters, known_heads, merge_fields
from timesformer_jax.pretrained.matching import ESSENTIAL, Recognised, count_heads, recognise, translate, width
from timesformer_jax.pretrained.orbax import checkpoint_entries, checkpoint_fields, find_checkpoint, read_checkpoint, read_notes
from timesformer_jax.pretrained.processor_files import read_processor
from timesformer_jax.pretrained.rewrite_parameters import rewrite
from timesformer_jax.pretrained.sidecar import read_sidecars
from timesformer_jax.pretrained.tensor_files import Tensors, open_tensors
from timesformer_jax.pretrained.weight_formats import OWN, Format


class Guess(NamedTuple):
    """Guess of a model field that neither the weights nor their configurations state."""

    value: Any
    """The guessed value."""
    why: str
    """Basis of the guess, phrased to follow "guessed"."""


class Contents(NamedTuple):
    """Contents of a file, folder or checkpoint of any format, in this library's terms."""

    format: Format
    """The format, with a title for the report."""
    given: dict[str, np.ndarray]
    """Maps parameter paths to arrays in our layout."""
    fields: dict[str, Any]
    """Fields of the model that the file determines."""
    problems: list[str]
    """Errors of single tensors, reported together with everything that doesn't fit the model."""
    unknown: dict[str, tuple[int, ...]]
    """Maps tensors that don't belong to the format to their shapes."""
    ignored: dict[str, str]
    """Maps tensors that the model doesn't use to the reason."""
    preprocess: Mapping[str, Any]
    """Known entries of `Preprocess`."""
    labels: Sequence[str] | None
    """Names of the classes; None if unknown."""
    notes: list[str]
    """Notes for the report."""
    objective: Any
    """The objective as the file spells it; None if the file doesn't state it."""
    short: Mapping[str, str] = MappingProxyType({})
    """Maps tensor names to the names without a prefix."""
    entry: str | None = None
    """Entry of the file that holds the tensors."""
    other_entries: tuple[str, ...] = ()
    """Other entries that hold tensors by name."""
    guesses: Mapping[str, Guess] = MappingProxyType({})
    """Guesses of model fields that neither the weights nor their configurations state."""
    zeros: tuple[str, ...] = ()
    """Parameters that the file lacks and that are zero, in addition to the format's."""
    folded: Mapping[str, str] = MappingProxyType({})
    """Maps parameters to the factor that was folded into them."""
    pooled: str | None = None
    """Input of the file's classifier, if it isn't the class token; such a classifier is ignored."""


def read_contents(
    path: Path,
    format: str | None = None,
    num_heads: Any = None,
    *,
    entry: str | None = None,
    prefix: str | None = None,
    allow: Sequence[str] = (),
    image_size: Any = None,
    numbers: bool = True,
    tensors: Tensors | None = None,
) -> Contents:
    """Read the contents of a file, folder or checkpoint.

    Args:
        path: An existing file or folder.
        format: A key of `FORMATS`; by default detected from the names of the tensors.
        num_heads: Number of attention heads, for files that don't state it.
        entry: Entry of the file to read.
        prefix: Prefix of the tensors to read.
        allow: Patterns of tensor names that opt in to features which are refused otherwise.
        image_size: Size that the caller wants; determines the grid of positions that don't form a square.
        numbers: Whether to read the tensors' values; otherwise the arrays are zeros of the right shapes.
        tensors: Tensors of the path, if it has been opened.

    Returns:
        The contents, with at least the parameters in `ESSENTIAL`.

    Raises:
        InputError: If the path holds no weights, or weights of a model that TimeSformer doesn't compute.
    """
    checkpoint = find_checkpoint(path)
    if checkpoint is not None:
        return _read_own(checkpoint, entry, numbers=numbers)
    tensors = tensors or open_tensors(path, entry)
    if matched := match_convnet(tensors):
        raise InputError(f"{path} holds {matched.format.title}, which isn't a TimeSformer: load it with tsf.load.")
    if not numbers:
        shapes = tensors.shapes
        tensors = tensors._replace(take=lambda name: np.broadcast_to(np.float32(0), shapes[name]))
    found = recognise(tensors, str(path), format, prefix, allow)
    own, cfg = notes_of_ours(tensors.notes), tensors.notes.get("cfg")
    size = width(tensors, found)
    stated, notes = read_sidecars(path, found.format, size)
    said = {**stated.fields, **fields_of_official_config(cfg), **fields_of_notes(own)}
    notes = [*found.notes, *notes]
    check_fields(said, f"The description of {path}")
    shown_heads = count_heads(tensors, found) or said.get("num_heads")
    heads = (num_heads or shown_heads) if numbers else (shown_heads or num_heads)  # `target_model` compares them
    if heads is None:
        heads = known_heads(size)
    if isinstance(heads, bool) or not isinstance(heads, int) or heads < 1:
        raise InputError(f"num_heads must be a whole number of at least 1, got {heads!r}.")
    given, problems = translate(tensors, found, heads)
    if not given.keys() >= set(ESSENTIAL):
        raise InputError(f"{path} can't be read: " + "; ".join(problems) + ".")
    rewritten = rewrite(given, found, str(path), said.get("image_size"), image_size, numbers=numbers)
    problems += rewritten.problems
    notes += rewritten.notes
    if stated.pooled is not None:
        notes.append(f"the image model classifies by {stated.pooled}, this model by the class token")
        _drop_classifier(given, found, stated.pooled)
    shown = fields_of_parameters(given, found.format)
    if rewritten.image_size is not None:
        shown["image_size"] = rewritten.image_size
    labels = None
    if "num_classes" in shown:
        labels = labels_of_notes(tensors.notes, own) or stated.labels
    else:
        said.pop("num_classes", None)
    if labels is not None:
        said["num_classes"] = len(labels)
    fields = merge_fields(
        ("the description", said),
        ("the tensors", shown),
        ("num_heads=", {"num_heads": heads}),
        remedy=_remedy(path, stated.fields),
    )
    preprocessor, file = read_processor(path) if found.format.config else ({}, "")
    scaling = scaling_of_images(preprocessor, file) if found.format.image else scaling_of_videos(preprocessor, file)
    prepared = {
        **stated.preprocess,
        **scaling,
        **preprocess_of_preprocessor(preprocessor, file),
        **preprocess_of_notes(own, cfg),
    }
    objective = objective_of_notes(own) or objective_of_official_config(cfg) or stated.objective
    if objective == REGRESSION:
        objective = None
        if "num_classes" in shown:
            notes.append(QUANTITIES)
    title = found.format.title + (f" with LayerScale ({', '.join(found.scales)})" if rewritten.folded else "")
    return Contents(
        found.format._replace(title=title),
        given,
        {**found.format.fields, **fields},
        problems,
        found.unknown,
        found.ignored,
        prepared,
        labels,
        notes,
        objective,
        found.short,
        tensors.wrapper,
        tensors.others,
        _guesses(found.format, said, size, shown_heads),
        rewritten.zeros,
        rewritten.folded,
        stated.pooled or rewritten.pooled,
    )


def _remedy(path: Path, stated: Mapping[str, Any]) -> str:
    """Return what to do if the configurations next to the weights, which state these fields, contradict the tensors."""
    folder = path if path.is_dir() else path.parent
    files = [name for name in ("config.json", "open_clip_config.json") if stated and (folder / name).exists()]
    if not files:
        return ""
    return f"If {' and '.join(files)} in {folder} is another model's, correct it, or load the weights from a folder without it."


def _guesses(format: Format, said: Mapping[str, Any], size: int, shown_heads: int | None) -> dict[str, Guess]:
    """Return the fields that neither the tensors nor the notes state.

    Args:
        format: Format of the weights.
        said: Fields stated in or next to the file.
        size: Token width.
        shown_heads: Number of attention heads stated or shown by the tensors; None if unknown.
    """
    usual = {"activation": "gelu", "layer_norm_epsilon": 1e-6, **format.fields, "num_heads": HEADS.get(size)}
    why = {} if shown_heads else {"num_heads": f"from width {size}"}
    if format.image and "pre_norm" in format.fields:
        why["activation"] = CLIP_ACTIVATIONS  # the epsilon is the same for all CLIP models
    elif format.image and format.config:
        why |= dict.fromkeys(("activation", "layer_norm_epsilon"), "from the defaults of transformers")
    return {name: Guess(usual[name], reason) for name, reason in why.items() if name not in said}


QUANTITIES = (
    "config.json's problem_type is regression: the outputs are quantities, and the probabilities that predict makes of them "
    "mean nothing; give num_classes= for a new classifier"
)
CLIP_ACTIVATIONS = "because no tensor shows it: OpenAI's models have quick_gelu, most of OpenCLIP's and timm's gelu"


def _drop_classifier(given: dict[str, np.ndarray], found: Recognised, pooled: str) -> None:
    """Remove the classifier, whose input isn't the class token."""
    for name, (_, path) in found.places.items():
        if re.fullmatch(HEAD, path) and given.pop(path, None) is not None:
            found.ignored[name] = f"it classifies by {pooled}"


def _read_own(checkpoint: Path, entry: str | None, *, numbers: bool) -> Contents:
    notes = read_notes(checkpoint)
    entry, others = checkpoint_entries(checkpoint, notes, entry)
    fields = checkpoint_fields(checkpoint, notes)
    scanned = fields.pop("scan_layers")
    if numbers:
        params = read_checkpoint(checkpoint, entry)[0]
        given = flatten_params(unstack_blocks(params) if scanned else params)
    else:
        shapes = flatten_params(parameter_shapes(TimeSformer(**fields)))
        given = {name: np.broadcast_to(np.float32(0), leaf.shape) for name, leaf in shapes.items()}
    prepared, labels = notes.get("preprocess") or {}, labels_of_notes({}, notes)
    objective = objective_of_notes(notes)
    return Contents(OWN, given, fields, [], {}, {}, prepared, labels, [], objective, entry=entry, other_entries=others)
