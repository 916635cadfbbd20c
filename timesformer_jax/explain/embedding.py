"""Features of many videos as points in a plane, coloured by label: how well a model tells them apart (paper, Figure 8)."""

import io
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from timesformer_jax._typing import Float, Int, ndarray
from timesformer_jax.errors import InputError
from timesformer_jax.extras import MissingPackageError
from timesformer_jax.printable import printable

FEWEST = 5
"""Fewer points make no picture."""

PERPLEXITY = 30.0
"""t-SNE's, at most; of few points a third of their number, which it must be well below."""

EXACT = 250
"""So many points at most have their t-SNE computed without approximating far ones, which brings nothing there."""

PCA_FIRST = 50
"""t-SNE sees at most so many principal components, as its authors advise: nearly the same picture in less time."""


def _tsne(values: np.ndarray, seed: int) -> np.ndarray:
    from sklearn.manifold import TSNE

    perplexity = min(PERPLEXITY, (len(values) - 1) / 3)
    reduced = _pca(values, seed, min(PCA_FIRST, *values.shape))
    method = "exact" if len(values) <= EXACT else "barnes_hut"
    return TSNE(2, perplexity=perplexity, init="pca", method=method, random_state=seed).fit_transform(reduced)


def _pca(values: np.ndarray, seed: int, components: int = 2) -> np.ndarray:
    from sklearn.decomposition import PCA

    return PCA(components, random_state=seed).fit_transform(values)


METHODS: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {"tsne": _tsne, "pca": _pca}
"""`method` -> (values, seed) -> points."""

METHOD_NAMES = {"tsne": "t-SNE", "pca": "PCA"}


def embed_points(values: Float[ndarray, "N D"], method: str = "tsne", *, seed: int = 0) -> Float[ndarray, "N 2"]:
    """Points in a plane for one vector a video, by a key of `METHODS`; the same for the same numbers and seed.

    Raises `InputError` for fewer than `FEWEST` vectors, for vectors that are all alike, and where scikit-learn is missing.
    """
    if method not in METHODS:
        raise InputError(f"method must be one of {', '.join(METHODS)}, got {method!r}.")
    _check_sklearn()
    if len(values) < FEWEST:
        raise InputError(f"{len(values)} video(s) make no picture: at least {FEWEST} are needed.")
    values = np.asarray(values, np.float32)
    if values.shape[1] < 2 or not np.ptp(values, axis=0).any():
        raise InputError("These features are all alike, or single numbers: there is nothing to draw.")
    return np.asarray(METHODS[method](values, seed), np.float32)


class Neighbours(NamedTuple):
    """How well nearest neighbours name labels.

    Attributes:
      accuracy: share of the videos whose label most of their `k` nearest neighbours have.
      k: number of neighbours that vote.
      num_videos: the videos that were counted, of labels with at least two videos.
      num_labels: their labels.
      chance: share of the pairs of these videos that have one label, the accuracy of a random neighbour.
    """

    accuracy: float
    k: int
    num_videos: int
    num_labels: int
    chance: float

    def __str__(self) -> str:
        return (
            f"{self.k} nearest neighbour{'s' if self.k > 1 else ''}: {self.accuracy:.1%} of {self.num_videos} videos of "
            f"{self.num_labels} labels (chance {self.chance:.1%})"
        )


def nearest_neighbours(values: Float[ndarray, "N D"], labels: Int[ndarray, "N"], *, most: int = 5) -> Neighbours | None:
    """How well features separate labels, by leave-one-out nearest neighbours of cosine similarity.

    Only labels with at least two videos are counted, and vote. `k` is `most`, or if a label has too few videos the number of
    others that its videos have, so that a label which is apart from all others is never outvoted. If several labels have the
    most votes, the one with the nearest neighbour wins.

    Returns:
      None if fewer than two labels have two videos.
    """
    kept = [label for label, count in zip(*np.unique(labels, return_counts=True), strict=True) if count > 1]
    if len(kept) < 2:
        return None
    chosen = np.isin(labels, kept)
    unit, labels = np.asarray(values, np.float32)[chosen], np.asarray(labels)[chosen]
    unit = unit / np.maximum(np.linalg.norm(unit, axis=1, keepdims=True), 1e-12)
    counts = np.unique(labels, return_counts=True)[1]
    k, hits = min(most, int(counts.min()) - 1), 0
    for start in range(0, len(unit), 1024):
        near = unit[start : start + 1024] @ unit.T
        rows = np.arange(len(near))
        near[rows, start + rows] = -np.inf
        nearest = np.argsort(-near, axis=1, kind="stable")[:, :k]
        for row, votes in zip(rows, labels[nearest], strict=True):
            found, first, votes_of = np.unique(votes, return_index=True, return_counts=True)
            best = found[np.lexsort((first, -votes_of))[0]]
            hits += int(best == labels[start + row])
    chance = float((counts * (counts - 1)).sum() / (len(unit) * (len(unit) - 1)))
    return Neighbours(hits / len(unit), k, len(unit), len(kept), chance)


def nearest_neighbour_accuracy(values: Float[ndarray, "N D"], labels: Int[ndarray, "N"], *, k: int = 5) -> float | None:
    """The accuracy of `nearest_neighbours`, alone."""
    found = nearest_neighbours(values, labels, most=k)
    return None if found is None else found.accuracy


class Panel(NamedTuple):
    """One plot: points `[N, 2]`, their labels (numbers into the names; None for no labels), and what stands above."""

    points: np.ndarray
    labels: np.ndarray | None
    title: str


def draw_points(
    panels: Sequence[Sequence[Panel]], label_names: Sequence[str] | None = None, *, format: str = "png", dpi: int = 120
) -> bytes:
    """Rows of panels as a picture, PNG or SVG, with one legend for all; the same bytes for the same points.

    A label has the same colour in every panel. Raises `InputError` where matplotlib is missing.
    """
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingPackageError("matplotlib", "Drawing") from error

    columns, names = max(map(len, panels)), [printable(name) for name in label_names or ()]
    colours = [matplotlib.colormaps["tab10" if len(names) <= 10 else "tab20"](i) for i in range(max(len(names), 1))]
    longest = max(map(len, names), default=0)
    width = 3.6 * columns + (0.5 + 0.07 * min(longest, 40) if names else 0)
    with matplotlib.rc_context({"svg.hashsalt": "timesformer_jax", "text.parse_math": False}):
        figure = Figure(figsize=(width, 3.9 * len(panels)), layout="constrained")
        for axes, row in zip(figure.subplots(len(panels), columns, squeeze=False), panels, strict=True):
            for axis, panel in zip(axes, row, strict=False):
                _draw_panel(axis, panel, colours)
            for axis in axes[len(row) :]:
                axis.axis("off")
        if names:
            dots = [_dot(figure, colour) for colour in colours]
            shown = [name if len(name) <= 40 else f"{name[:39]}…" for name in names]
            figure.legend(dots, shown, loc="outside right upper", fontsize=7, frameon=False)
        written = io.BytesIO()
        figure.savefig(written, format=format, dpi=dpi, metadata={"Date": None} if format == "svg" else {"Software": None})
    return written.getvalue()


def _draw_panel(axis: Any, panel: Panel, colours: Sequence[Any]) -> None:
    size = float(np.clip(4000 / len(panel.points), 4, 30))
    colour = [colours[0]] if panel.labels is None else [colours[label] for label in panel.labels]
    axis.scatter(*panel.points.T, s=size, c=colour, linewidths=0, alpha=0.8)
    axis.set_title(printable(panel.title, newlines=True), fontsize=8)
    axis.set_xticks([])
    axis.set_yticks([])


def _dot(figure: Any, colour: Any) -> Any:
    from matplotlib.lines import Line2D

    return Line2D([], [], marker="o", linestyle="", markersize=5, color=colour, figure=figure)


def _check_sklearn() -> None:
    try:
        import sklearn  # noqa: F401
    except ImportError as error:
        raise MissingPackageError("sklearn", "Placing points") from error
