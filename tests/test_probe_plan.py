"""Training lengths of probes on small and large sets, and the note on a best rate at the edge of its grid."""

import re

import pytest

from experiment.probe_plan import STEPS, describe_edges, plan_probe
from timesformer_jax import training

UNSET = {"num_epochs": None, "batch_size": None}


@pytest.mark.parametrize(
    ("num_clips", "batch_size", "num_epochs", "total_steps"),
    [(32, 8, 75.0, 300), (25, 8, 96.0, 300), (200, 64, 96.0, 300), (960, 64, 20.0, 300), (9600, 64, 20.0, 3000)],
)
def test_probe_plan_has_enough_steps(num_clips: int, batch_size: int, num_epochs: float, total_steps: int):
    plan = plan_probe(num_clips, train_batch_size=64, **UNSET)
    assert (plan.batch_size, plan.num_epochs, plan.total_steps) == (batch_size, num_epochs, total_steps)
    assert plan.raised == num_epochs / 20
    assert ("batches of 8 clips instead of train.batch_size=64" in plan.note) == (batch_size == 8)
    assert (f"{num_epochs:g} epochs instead of 20, to make {STEPS} steps" in plan.note) == (num_epochs > 20)


def test_probe_plan_keeps_given_values():
    assert plan_probe(32, train_batch_size=64, num_epochs=20.0, batch_size=64) == (64, 20.0, 0.5, 1.0, "")
    assert plan_probe(32, train_batch_size=64, num_epochs=20.0, batch_size=None).total_steps == 80
    assert plan_probe(32, train_batch_size=64, num_epochs=None, batch_size=64).total_steps == STEPS
    assert plan_probe(3, train_batch_size=4, num_epochs=20.0, batch_size=None).note == ""


def test_probe_plan_keeps_batches_divisible():
    assert plan_probe(32, train_batch_size=64, multiple=16, **UNSET).batch_size == 16
    assert plan_probe(32, train_batch_size=24, multiple=8, **UNSET).batch_size == 24  # 12 isn't a multiple


RATES = training.probe_rates((0.1, 0.01, 0.001), (0.0, 0.5))


@pytest.mark.parametrize(
    ("scores", "words"),
    [
        (
            [0.9, 0.5, 0.5, 0.8, 0.5, 0.5],
            ["learning rate, 0.1, is the highest of its grid, and higher .* add 0.3 and 1 to"],
        ),
        (
            [0.5, 0.5, 0.5, 0.5, 0.5, 0.9],
            [
                "learning rate, 0.001, is the lowest .* add 0.0003 and 0.0001 to probe.learning_rates",
                "decay, 0.5, is the highest",
            ],
        ),
        ([0.5, 0.9, 0.5, 0.5, 0.5, 0.5], []),  # a weight decay of 0 isn't an edge
        ([0.9, 0.9, 0.5, 0.9, 0.5, 0.5], []),  # one of the best isn't at the edge
        ([None, 0.9, 0.5, None, 0.5, 0.5], []),  # diverged settings aren't an edge
    ],
)
def test_probe_warns_at_the_edge_of_the_grid(scores: list, words: list[str]):
    notes = describe_edges(RATES, scores)
    assert len(notes) == len(words)
    for sentence, pattern in zip(notes, words, strict=True):
        assert re.search(pattern, sentence)


def test_grid_of_one_has_no_edge():
    assert describe_edges(training.probe_rates((0.1,), (0.5,)), [0.9]) == []
