"""Determine the model and preprocessing of weights from names, shapes and notes alone, without reading tensor values."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from timesformer_jax.modeling import TimeSformer, check_objective
from timesformer_jax.pretrained.fit_to_model import HEAD, plan_fit
from timesformer_jax.pretrained.infer_config import choose_preprocess, published_name
from timesformer_jax.pretrained.load import CHANGEABLE, allowed_patterns, check_patterns, fit_options, target_model
from timesformer_jax.pretrained.load_report import Report
from timesformer_jax.pretrained.read_source import Contents, read_contents
from timesformer_jax.pretrained.weight_formats import OWN
from timesformer_jax.pretrained.zoo import locate
from timesformer_jax.video import Preprocess


class Architecture(NamedTuple):
    """Model, preprocessing and objective that weights determine."""

    fields: dict[str, Any]
    """Fields of `TimeSformer` that the weights fix or suggest; `num_classes` is that of their classifier."""
    preprocess: Preprocess
    """Preprocessing of the videos."""
    said: Mapping[str, Any] = MappingProxyType({})
    """Entries of `preprocess` that the weights state, as opposed to defaults, and other entries that a checkpoint adds."""
    objective: str | None = None
    """The objective; None if the weights don't state it."""
    contents: Contents | None = None
    """Names and shapes that everything else is derived from, for `check`."""
    guesses: Mapping[str, str] = MappingProxyType({})
    """Maps a guessed value (a model field, or "pixels") to the basis of the guess, phrased to follow "guessed"."""

    @property
    def fixed(self) -> dict[str, Any]:
        """Fields that every model with these weights must have."""
        return {name: value for name, value in self.fields.items() if name not in (*CHANGEABLE, "resize")}

    def check(self, source: str | Path, model: TimeSformer, allow: Sequence[str] = ()) -> None:
        """Raise what `load(source, model=model, num_classes=...)` would raise, whatever `num_classes` is; reads no file."""
        if self.contents is not None:
            _check_contents(self.contents, source, model, allow)


def read_architecture(
    source: str | Path, *, entry: str | None = None, prefix: str | None = None, allow: Sequence[str] = (), **given: Any
) -> Architecture:
    """Determine the model and the preprocessing of weights without reading the tensors' values.

    Args:
        source: Weights, as for `load`.
        entry: Entry of a file to read, as for `load`.
        prefix: Prefix of the tensors to read, as for `load`.
        allow: Patterns of tensors that may be missing or unknown, as for `load`.
        **given: `num_heads` and `image_size`, for weights that don't determine them, and `num_frames`. None means not given.

    Returns:
        The architecture that `load(source)` would build.

    Raises:
        InputError: If the file holds no weights, or if they don't determine `num_heads` or `image_size`.
    """
    given = {name: value for name, value in given.items() if value is not None}
    heads = given.pop("num_heads", None)
    choice = {"entry": entry, "prefix": prefix, "allow": allow}
    contents = read_contents(locate(source), None, heads, **choice, image_size=given.get("image_size"), numbers=False)
    classes = contents.fields.get("num_classes", 1)
    target = target_model(
        contents, {"num_classes": classes, **given}, None, str(source), allowed_patterns(allow, contents, "allowed")
    )
    report = Report(str(source), contents.format.title, target)
    preprocess = choose_preprocess(contents.format, contents.preprocess, contents.fields, target, str(source), report)
    objective = None if contents.objective is None else check_objective(contents.objective)
    guesses = {**{name: guess.why for name, guess in contents.guesses.items()}, **report.reasons}
    return Architecture(contents.fields, preprocess, _said(contents, preprocess, source), objective, contents, guesses)


def _said(contents: Contents, preprocess: Preprocess, source: str | Path) -> dict[str, Any]:
    """Return `Architecture.said`: all entries for a published model, else those of the file and the format's pixel values.

    The pixel values (mean, std, channel order) of this project's older checkpoints, which don't store them, are unknown.
    """
    prepared = preprocess.as_dict()
    if published_name(contents.format, contents.fields, str(source)) is not None:
        return prepared
    pixels = ("mean", "std", *(("channel_order",) if contents.format.image else ())) if contents.format is not OWN else ()
    return {**contents.preprocess, **{name: prepared[name] for name in {*pixels, *contents.preprocess} & prepared.keys()}}


def check_weights(
    source: str | Path,
    *,
    model: TimeSformer,
    allow: Sequence[str] = (),
    entry: str | None = None,
    prefix: str | None = None,
) -> None:
    """Raise what `load(source, model=model, num_classes=...)` would raise, whatever `num_classes` is.

    Only names and shapes are read, which is fast for files of any size, except for PyTorch's. Weights on the Hugging Face Hub
    are downloaded to the cache.

    Args:
        source: Weights, as for `load`.
        model: The model to fill.
        allow: Patterns of tensors that may be missing or unknown, as for `load`.
        entry: Entry of a file to read, as for `load`.
        prefix: Prefix of the tensors to read, as for `load`.

    Raises:
        InputError: If the weights can't be read or don't fit the model.
    """
    check_patterns(allow)
    choice = {"entry": entry, "prefix": prefix, "allow": allow, "image_size": model.image_size}
    contents = read_contents(locate(source), None, model.num_heads, **choice, numbers=False)
    _check_contents(contents, source, model, allow)


def _check_contents(contents: Contents, source: str | Path, model: TimeSformer, allow: Sequence[str]) -> None:
    check_patterns(allow)
    model = target_model(contents, {}, model, str(source))
    given = {path: array.shape for path, array in contents.given.items() if not re.fullmatch(HEAD, path)}
    allowed = allowed_patterns([HEAD, *allow], contents, "allowed")
    report = Report(str(source), contents.format.title, model)
    plan_fit(given, model, report, contents.problems, contents.unknown, **fit_options(contents, model), allow=allowed)
