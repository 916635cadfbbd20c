"""The model and the preprocessing of weights from names, shapes and notes alone; no number is read."""

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
    """`Architecture.said`: everything of a published model; else the format's pixels and what accompanies the weights.

    Pixels of a checkpoint of this project that has none, as the older ones, are unknown.
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
    """Raise what `load(source, model=model, num_classes=...)` would, for any number of classes.

    Names and shapes are read, numbers are not, so it is quick for files of any size but PyTorch's. What has to be fetched from
    the Hugging Face Hub is fetched, and is then in the cache.
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
