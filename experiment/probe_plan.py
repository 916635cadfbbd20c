"""Plan a probe's training, and detect optima at the edge of its hyperparameter grid."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from timesformer_jax import training

EPOCHS = 20.0
STEPS = 300
"""Minimum number of steps if `num_epochs` isn't given: small data sets train for more than `EPOCHS` to reach it."""

SMALLEST_BATCH = 8
"""Lower limit to which `train.batch_size` is halved while an epoch has fewer than four batches."""


class ProbePlan(NamedTuple):
    """Length and batch size of a probe's training.

    Attributes:
        batch_size: Clips per batch over all devices.
        num_epochs: Number of epochs.
        steps_per_epoch: Steps per epoch, possibly below 1.
        raised: Factor, at least 1, by which `num_epochs` exceeds `EPOCHS` to make `STEPS` steps.
        note: Sentence for the log about adjustments for a small set, or an empty string.
    """

    batch_size: int
    num_epochs: float
    steps_per_epoch: float
    raised: float
    note: str

    @property
    def total_steps(self) -> int:
        """Number of steps, at least 1."""
        return max(round(self.num_epochs * self.steps_per_epoch), 1)


def plan_probe(
    num_clips: int, *, num_epochs: float | None, batch_size: int | None, train_batch_size: int, multiple: int = 1
) -> ProbePlan:
    """Plan a probe's training; values that are given are kept.

    Args:
        num_clips: Number of training clips per epoch.
        num_epochs: The config's `probe.num_epochs`, or None.
        batch_size: The config's `probe.batch_size`, or None.
        train_batch_size: Starting point for `batch_size` if that isn't given.
        multiple: Number that must divide a reduced batch size.
    """
    size, said = batch_size or train_batch_size, []
    if batch_size is None:
        while size // 2 >= max(num_clips / 4, SMALLEST_BATCH) and size % (2 * multiple) == 0:
            size //= 2
        if size < train_batch_size:
            said.append(f"batches of {size} clips instead of train.batch_size={train_batch_size} (probe.batch_size sets it)")
    steps_per_epoch, raised = num_clips / size, 1.0
    if num_epochs is None:
        raised = max(STEPS / (EPOCHS * steps_per_epoch), 1.0)
        num_epochs = EPOCHS * raised
        if raised > 1:
            said.append(f"{num_epochs:.4g} epochs instead of {EPOCHS:g}, to make {STEPS} steps (probe.num_epochs sets it)")
    note = f"A small training set of {num_clips} clips per epoch: {' and '.join(said)}." if said else ""
    return ProbePlan(size, num_epochs, steps_per_epoch, raised, note)


def describe_edges(rates: Sequence[training.Rates], scores: Sequence[float | None]) -> list[str]:
    """Warn about each hyperparameter (learning rate, weight decay) whose best value lies at the edge of its grid.

    Args:
        rates: Hyperparameters of the heads.
        scores: Accuracies of the heads, None for diverged ones. All heads with the highest accuracy count as best.
    """
    rated = np.array([-np.inf if score is None else score for score in scores])
    best = [rate for rate, score in zip(rates, rated, strict=True) if score == rated.max()]
    said = []
    for field, name in (("learning_rate", "learning rate"), ("weight_decay", "weight decay")):
        grid, found = sorted({getattr(rate, field) for rate in rates}), {getattr(rate, field) for rate in best}
        if len(grid) < 2 or len(found) > 1:
            continue
        (value,) = found
        edges = {grid[-1]: ("highest", (3 * value, 10 * value)), grid[0]: ("lowest", (value / 3, value / 10))}
        if value not in edges or value == 0:  # there are no values below 0
            continue
        edge, more = edges[value]
        beyond = "higher" if edge == "highest" else "lower"
        said.append(
            f"The best {name}, {value:g}, is the {edge} of its grid, and {beyond} ones may be better: add {more[0]:.1g} and "
            f"{more[1]:.1g} to probe.{field}s."
        )
    return said
