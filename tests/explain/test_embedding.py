"""Features as points: the projection, the separation of labels, and the image."""

import numpy as np
import pytest

from timesformer_jax import InputError
from timesformer_jax.explain.embedding import (
    METHODS,
    Panel,
    draw_points,
    embed_points,
    nearest_neighbour_accuracy,
    nearest_neighbours,
)

RANDOM = np.random.default_rng(0)
LABELS = np.repeat(np.arange(3), 12)
CENTRES = 8 * np.eye(3, 16)
GROUPS = (CENTRES[LABELS] + RANDOM.normal(size=(36, 16))).astype(np.float32)


@pytest.mark.parametrize("method", METHODS)
def test_embedding_separates_clusters_and_is_deterministic(method: str):
    points = embed_points(GROUPS, method)
    assert points.shape == (36, 2)
    assert np.isfinite(points).all()
    np.testing.assert_array_equal(points, embed_points(GROUPS.copy(), method))
    centres = np.stack([points[label == LABELS].mean(axis=0) for label in range(3)])
    nearest = np.linalg.norm(points[:, None] - centres, axis=-1).argmin(axis=1)
    np.testing.assert_array_equal(nearest, LABELS)


def test_pca_finds_the_directions_of_largest_variance():
    points = embed_points(GROUPS, "pca")
    variances = np.linalg.svd(GROUPS - GROUPS.mean(axis=0), compute_uv=False)[:2] ** 2 / 36
    np.testing.assert_allclose(points.var(axis=0), variances, rtol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_embedding_of_few_points(method: str):
    assert np.isfinite(embed_points(GROUPS[::7], method)).all()  # 6: less than any usual perplexity
    with pytest.raises(InputError, match=r"^Embedding needs at least 5 videos, got 4\.$"):
        embed_points(GROUPS[:4], method)
    with pytest.raises(InputError, match="all equal"):
        embed_points(np.ones((9, 16)), method)


def test_unknown_method_is_rejected():
    with pytest.raises(InputError, match="method must be one of tsne, pca, got 'umap'"):
        embed_points(GROUPS, "umap")


def by_hand(values: np.ndarray, labels: np.ndarray, k: int) -> float:
    hits = 0
    for i, row in enumerate(values):
        similar = [
            (-(row @ other) / np.linalg.norm(row) / np.linalg.norm(other), j) for j, other in enumerate(values) if j != i
        ]
        votes = [labels[j] for _, j in sorted(similar)[:k]]
        best = max(votes, key=lambda label: (votes.count(label), -votes.index(label)))
        hits += best == labels[i]
    return hits / len(values)


@pytest.mark.parametrize("most", [1, 4, 5, 50])
def test_nearest_neighbours(most: int):
    mixed = GROUPS + 3 * np.random.default_rng(1).normal(size=GROUPS.shape)
    found = nearest_neighbours(mixed, LABELS, most=most)
    assert found is not None
    assert found.k == min(most, 11)
    assert found.accuracy == pytest.approx(by_hand(mixed, LABELS, found.k)) == nearest_neighbour_accuracy(mixed, LABELS, k=most)
    assert 0.3 < found.accuracy < 1.0
    assert (found.num_videos, found.num_labels, found.chance) == (36, 3, pytest.approx(11 / 35))


@pytest.mark.parametrize("sizes", [(2,) * 8, (2, 20, 7), (3, 3), (12, 12, 12)])
def test_separated_labels_score_100_percent(sizes: tuple[int, ...]):
    """A label with few videos isn't outvoted by the others."""
    labels = np.repeat(np.arange(len(sizes)), sizes)
    values = 8 * np.eye(len(sizes), 16)[labels] + np.random.default_rng(0).normal(size=(len(labels), 16))
    found = nearest_neighbours(values, labels)
    assert found is not None
    assert (found.accuracy, found.k) == (1.0, min(5, min(sizes) - 1))


def test_label_with_one_video_is_not_counted():
    labels = np.array([0, 0, 0, 1, 1, 1, 2])
    values = np.concatenate([GROUPS[:3], GROUPS[12:15], GROUPS[:1]])  # it would be nearest to the first
    found = nearest_neighbours(values, labels)
    assert found == (1.0, 2, 6, 2, pytest.approx(12 / 30))
    assert str(found) == "2 nearest neighbours: 100.0% of 6 videos of 2 labels (chance 40.0%)"
    assert nearest_neighbours(GROUPS[:5], np.array([0, 0, 0, 0, 1])) is None
    assert nearest_neighbour_accuracy(GROUPS[:1], np.array([0])) is None


@pytest.mark.parametrize(("format", "begins"), [("png", b"\x89PNG"), ("svg", b"<?xml")])
def test_points_are_drawn_in_every_format(format: str, begins: bytes):
    points = embed_points(GROUPS, "pca")
    panels = [[Panel(points, LABELS, "$one_two\nof them"), Panel(points, None, "no labels")], [Panel(points, LABELS, "below")]]
    picture = draw_points(panels, ["a label", "another", "$x_y"], format=format)
    assert picture.startswith(begins)
    assert picture == draw_points(panels, ["a label", "another", "$x_y"], format=format)
    if format == "svg":
        for words in (b"$one_two", b"no labels", b"another", b"$x_y"):
            assert b"<!-- " + words in picture
        assert len(draw_points([[panels[0][1]]], format=format)) < len(picture)
