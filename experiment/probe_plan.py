"""How long a probe trains, and whether the best of its rates lies within its grid."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from timesformer_jax import training

EPOCHS = 20.0
STEPS = 300
"""Training of a probe whose `num_epochs` isn't given: `EPOCHS`, or on small sets as many as make `STEPS` steps."""

SMALLEST_BATCH = 8
"""`train.batch_size` is halved down to this, as long as an epoch has fewer than four batches."""


class ProbePlan(NamedTuple):
    """What a probe's training comes to.

    Attributes:
      batch_size: clips of all devices together.
      num_epochs: how many epochs, as asked for.
      steps_per_epoch: a fraction on small sets.
      raised: the factor by which `num_epochs` is above `EPOCHS` to make `STEPS` steps, at least 1.
      note: a sentence for the log on what follows from a small set, or nothing.
    """

    batch_size: int
    num_epochs: float
    steps_per_epoch: float
    raised: float
    note: str

    @property
    def total_steps(self) -> int:
        """The number of steps, at least one."""
        return max(round(self.num_epochs * self.steps_per_epoch), 1)


def plan_probe(
    num_clips: int, *, num_epochs: float | None, batch_size: int | None, train_batch_size: int, multiple: int = 1
) -> ProbePlan:
    """Training of a probe on `num_clips` clips per epoch; what is given stays as it is.

    Args:
      num_clips: training clips of an epoch.
      num_epochs, batch_size: the config's `probe`, None if not given.
      train_batch_size: what `batch_size` begins from if it isn't given.
      multiple: what a batch must be a multiple of.
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
    """A warning for each of learning rate and weight decay whose best value is the first or last of several.

    Args:
      rates: those of the heads.
      scores: the heads' accuracies, None for one that has diverged. Heads that are equally good are all the best.
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
        if value not in edges or value == 0:  # below 0 there is nothing to add
            continue
        edge, more = edges[value]
        beyond = "higher" if edge == "highest" else "lower"
        said.append(
            f"The best {name}, {value:g}, is the {edge} of its grid, and {beyond} ones may be better: add {more[0]:.1g} and "
            f"{more[1]:.1g} to probe.{field}s."
        )
    return said
