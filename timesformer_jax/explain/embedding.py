"""Two-dimensional embeddings of video features, coloured by label, and how well the features separate labels (Figure 8)."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from timesformer_jax._typing import Float, Int, ndarray
from timesformer_jax.checks import check_choice
from timesformer_jax.errors import InputError
from timesformer_jax.extras import needs
from timesformer_jax.plotting import encode_figure, new_figure
from timesformer_jax.printable import printable

FEWEST = 5
"""Minimum number of points that can be embedded."""

PERPLEXITY = 30.0
"""Maximum perplexity of t-SNE. It must be well below the number of points, so few points use about a third of their number."""

EXACT = 250
"""Up to this many points, t-SNE is computed exactly, since the Barnes-Hut approximation saves nothing."""

PCA_FIRST = 50
"""Number of principal components that t-SNE receives, as its authors advise: nearly the same result in less time."""


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
"""Maps `method` to its function: (values, seed) -> points."""

METHOD_NAMES = {"tsne": "t-SNE", "pca": "PCA"}


def embed_points(values: Float[ndarray, "N D"], method: str = "tsne", *, seed: int = 0) -> Float[ndarray, "N 2"]:
    """Embed one vector per video in the plane; the same values and seed give the same points.

    `method` is a key of `METHODS`. Raises `InputError` if there are fewer than `FEWEST` vectors, if all vectors are equal, or
    if scikit-learn is not installed.
    """
    check_choice("method", method, METHODS)
    _check_sklearn()
    if len(values) < FEWEST:
        raise InputError(f"Embedding needs at least {FEWEST} videos, got {len(values)}.")
    values = np.asarray(values, np.float32)
    if values.shape[1] < 2 or not np.ptp(values, axis=0).any():
        raise InputError("The features are all equal, or have a single component: there is nothing to embed.")
    return np.asarray(METHODS[method](values, seed), np.float32)


class Neighbours(NamedTuple):
    """Accuracy of a nearest-neighbour classifier.

    Attributes:
        accuracy: Share of the videos whose label wins the vote of their `k` nearest neighbours.
        k: Number of neighbours that vote.
        num_videos: Number of videos of labels with at least two videos; only these are counted.
        num_labels: Number of these labels.
        chance: Share of the pairs of these videos that share a label, which is the accuracy of a random neighbour.
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
    """Measure how well features separate labels, by a leave-one-out nearest-neighbour vote with cosine similarity.

    Only videos of labels with at least two videos are counted and vote. Ties are won by the label of the nearest neighbour.

    Args:
        values: One vector per video.
        labels: One label per video.
        most: Maximum number of neighbours that vote. If the rarest label has n videos, at most n - 1 vote, so that a
            well-separated label is never outvoted.

    Returns:
        The accuracy and what it was measured on; None if fewer than two labels have two videos.
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
    """Return only the accuracy of `nearest_neighbours`."""
    found = nearest_neighbours(values, labels, most=k)
    return None if found is None else found.accuracy


class Panel(NamedTuple):
    """Scatter plot of embedded features."""

    points: np.ndarray
    """Points `[N, 2]`."""
    labels: np.ndarray | None
    """Indices into the label names `[N]`; None if there are no labels."""
    title: str
    """Title above the plot."""


def draw_points(
    panels: Sequence[Sequence[Panel]], label_names: Sequence[str] | None = None, *, format: str = "png", dpi: int = 120
) -> bytes:
    """Draw rows of panels with a shared legend; the same points give the same bytes.

    Args:
        panels: Rows of scatter plots. A label has the same colour in every panel.
        label_names: Names for the legend; None for no legend.
        format: "png" or "svg".
        dpi: Resolution in dots per inch.

    Returns:
        The encoded image.

    Raises:
        InputError: If matplotlib is not installed.
    """
    with needs("matplotlib", "Drawing"):
        from matplotlib import colormaps

    columns, names = max(map(len, panels)), [printable(name) for name in label_names or ()]
    colours = [colormaps["tab10" if len(names) <= 10 else "tab20"](i) for i in range(max(len(names), 1))]
    longest = max(map(len, names), default=0)
    width = 3.6 * columns + (0.5 + 0.07 * min(longest, 40) if names else 0)
    with new_figure(width, 3.9 * len(panels)) as figure:
        for axes, row in zip(figure.subplots(len(panels), columns, squeeze=False), panels, strict=True):
            for axis, panel in zip(axes, row, strict=False):
                _draw_panel(axis, panel, colours)
            for axis in axes[len(row) :]:
                axis.axis("off")
        if names:
            dots = [_dot(figure, colour) for colour in colours]
            shown = [name if len(name) <= 40 else f"{name[:39]}…" for name in names]
            figure.legend(dots, shown, loc="outside right upper", fontsize=7, frameon=False)
        return encode_figure(figure, format=format, dpi=dpi)


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
    with needs("sklearn", "Placing points"):
        import sklearn  # noqa: F401
