"""Paired comparison of two evaluations."""

from typing import Any

import numpy as np
import pytest

from timesformer_jax import InputError, evaluation


def row(video: str, label: str, predicted: str) -> dict[str, Any]:
    return {"video": video, "label": label, "best": [[predicted, 0.5]]}


def test_paired_interval_is_newcombes():
    """The example of his Table II, method 10."""
    assert evaluation.paired_interval(36, 12, 2, 0) == pytest.approx((0.0569, 0.3404), abs=5e-5)


@pytest.mark.parametrize("counts", [(53, 0, 0, 0), (0, 0, 0, 7), (10, 0, 0, 10), (0, 5, 5, 0)])
def test_paired_interval_without_a_difference_is_symmetric_and_not_empty(counts: tuple[int, int, int, int]):
    low, high = evaluation.paired_interval(*counts)
    assert low == pytest.approx(-high)
    assert 0 < high < 1


def test_paired_interval_swaps_with_the_runs():
    low, high = evaluation.paired_interval(30, 9, 4, 7)
    assert evaluation.paired_interval(30, 4, 9, 7) == pytest.approx((-high, -low))


def test_paired_interval_covers_the_true_difference():
    """Of 400 draws from correlated trials, about 95 % of the intervals contain it."""
    draw, cells = np.random.default_rng(0), (0.6, 0.15, 0.1, 0.15)
    covered = 0
    for counts in draw.multinomial(60, cells, size=400).tolist():
        low, high = evaluation.paired_interval(*counts)
        covered += low <= cells[1] - cells[2] <= high
    assert 0.925 < covered / 400 < 0.985


def test_comparison_pairs_videos_by_name():
    here = [row("1", "a", "a"), row("2", "a", "a"), row("3", "b", "b"), row("4", "b", "a"), row("5", "c", "c")]
    there = [row("5", "c", "c"), row("4", "b", "b"), row("3", "b", "a"), row("2", "a", "b"), row("1", "a", "b")]
    found = evaluation.compare_predictions(here, there, names=("x", "y"))
    assert (found.both, found.only_here, found.only_there, found.neither) == (1, 3, 1, 0)
    assert (found.here, found.there, found.difference) == (0.8, 0.4, pytest.approx(0.4))
    assert found.changes == [("a", 2, 1.0, 0.0), ("b", 2, 0.5, 0.5), ("c", 1, 1.0, 1.0)]
    assert found.interval == evaluation.paired_interval(1, 3, 1, 0)
    assert not found.is_clear
    assert found.other == "y"


@pytest.mark.parametrize(
    ("there", "words"),
    [
        (
            [row("1", "a", "a")],
            r"x and y have evaluated different videos \(2 and 1, of which 1 are the same; '2' is only in x\)",
        ),
        (
            [row("1", "a", "a"), row("2", "a", "a"), row("3", "a", "a")],
            r"\(2 and 3, of which 2 are the same; '3' is only in y\)",
        ),
        ([row("1", "a", "a"), row("2", "b", "a")], r"different labels for 1 of 2 videos \('2' is a and b\)"),
    ],
)
def test_other_videos_or_labels_are_refused(there: list[dict[str, Any]], words: str):
    with pytest.raises(InputError, match=words) as error:
        evaluation.compare_predictions([row("1", "a", "a"), row("2", "a", "a")], there, names=("x", "y"))
    assert str(error.value).count("\n") == 0


def test_nothing_to_compare_is_refused():
    with pytest.raises(InputError, match="no readable video"):
        evaluation.compare_predictions([], [], names=("x", "y"))
