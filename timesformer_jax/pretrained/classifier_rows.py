"""Transfer of classifier rows (kernel columns and biases) to a new set of labels: matched by name, the others initialised."""

import re
from collections import Counter
from collections.abc import Collection, Sequence
from typing import NamedTuple

import jax
import numpy as np

from timesformer_jax.errors import shown
from timesformer_jax.labels import check_labels
from timesformer_jax.modeling import TimeSformer, flatten_params, parameter_shapes
from timesformer_jax.pretrained.fit_to_model import HEAD, initialise
from timesformer_jax.pretrained.read_source import Contents

SHOWN = 5
"""Number of names listed per group in a report."""


class Rows(NamedTuple):
    """Origin of every row of a classifier.

    Attributes:
        origins: For each class, the index of its row in the weights; -1 for a fresh row.
        account: Counts of kept, fresh and dropped rows, for the report.
    """

    origins: np.ndarray
    account: str

    @property
    def kept(self) -> bool:
        """True if any row of the weights is taken over."""
        return bool((self.origins >= 0).any())

    @property
    def num_fresh(self) -> int:
        """Number of fresh rows."""
        return int((self.origins < 0).sum())

    def unchanged(self, theirs: int | None) -> bool:
        """Return True if the rows are all rows of weights with `theirs` classes, in their order."""
        return len(self.origins) == theirs and np.array_equal(self.origins, np.arange(len(self.origins)))

    def fill(self, fresh: np.ndarray, theirs: np.ndarray) -> np.ndarray:
        """Return `fresh` with the kept rows of `theirs`; rows are the last axis of both."""
        return np.where(self.origins >= 0, theirs[..., self.origins], fresh)


def match_rows(num_classes: int, labels: Sequence[str] | None, theirs: int | None, names: Sequence[str] | None) -> Rows:
    """Match the classes of a model to the rows of a classifier that was trained on other data.

    Names shared by several classes are not matched.

    Args:
        num_classes: Number of classes of the model.
        labels: Names of the model's classes; None if unknown.
        theirs: Number of classes of the weights' classifier; None if there is no usable one.
        names: Names of those classes; None if unknown.

    Returns:
        The rows matched by name. If either side has no names: all rows if the numbers of classes are equal, else none.
    """
    fresh, same = np.full(num_classes, -1), np.arange(num_classes)
    if theirs is None:
        return Rows(fresh, f"{num_classes} rows fresh: the weights have no classifier that this model could use")
    if labels is None or names is None:
        missing = "the weights don't name their classes" if names is None else "no labels were given"
        if theirs == num_classes:
            return Rows(same, f"{num_classes} rows kept, unchecked: the numbers are equal, but {missing}")
        return Rows(fresh, f"0 rows kept, {num_classes} fresh, {theirs} dropped: other numbers of classes, and {missing}")
    if list(labels) == list(names):
        return Rows(same, f"{num_classes} rows kept by label, 0 fresh, 0 dropped")
    row_of = {name: row for row, name in enumerate(names)}
    twice = {name for each in (labels, names) for name, count in Counter(each).items() if count > 1}
    origins = np.array([-1 if label in twice else row_of.get(label, -1) for label in labels])
    new = [label for label, row in zip(labels, origins, strict=True) if row < 0]
    old = sorted(set(range(theirs)) - set(origins.tolist()))
    account = (
        f"{num_classes - len(new)} rows kept by label, {len(new)} fresh{_examples(new)}, "
        f"{len(old)} dropped{_examples([names[row] for row in old])}"
    )
    ambiguous = [name for name in dict.fromkeys([*labels, *names]) if name in twice and name in row_of]
    if ambiguous:
        account += f"; not matched, as several classes share the name{_examples(ambiguous)}"
    return Rows(origins, account)


def take_rows(
    contents: Contents,
    target: TimeSformer,
    labels: Sequence[str] | None,
    *,
    source: str,
    allow: Collection[str] = (),
    key: jax.Array | None = None,
) -> Rows:
    """Replace the classifier in `contents` with one for the target's classes, unless no row is kept.

    Args:
        contents: Contents of the file; only the classifier is changed, in place.
        target: The model to fill, with any number of classes.
        labels: Names of the target's classes; None if unknown.
        source: The weights, for errors.
        allow: Patterns of tensors to ignore. Any other layer between the model and the classifier makes all rows unusable.
        key: Random key of the fresh rows.

    Returns:
        The origin of every row.
    """
    shapes = {path: leaf.shape for path, leaf in flatten_params(parameter_shapes(target)).items() if re.fullmatch(HEAD, path)}
    theirs = contents.fields.get("num_classes")
    layers = [name for name in contents.unknown if re.fullmatch(HEAD, contents.short.get(name, name))]
    blocked = any(not any(re.fullmatch(pattern, name) for pattern in allow) for name in layers)
    if blocked or not contents.given.keys() >= shapes.keys():
        theirs = None
    names = None if theirs is None or contents.labels is None else check_labels(contents.labels, theirs, source)
    rows = match_rows(target.num_classes, labels, theirs, names)
    if not rows.kept or rows.unchanged(theirs):
        return rows
    fresh = initialise(target, list(shapes), key)
    for path, shape in shapes.items():
        if contents.given[path].shape == (*shape[:-1], theirs):  # otherwise `fit` reports it
            contents.given[path] = rows.fill(fresh[path], contents.given[path])
    return rows


def _examples(names: Sequence[str]) -> str:
    """Format the first names as " (a, b and 3 more)"; empty if there are none."""
    if not names:
        return ""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f" ({', '.join(shown(name, 40) for name in names[:SHOWN])}{more})"
