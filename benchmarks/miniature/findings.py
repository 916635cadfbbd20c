"""Verdicts on the paper's findings: paired differences over seeds, their intervals, and a line about each claim."""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from scipy import stats

from benchmarks.miniature.experiments import CLIPS_ROW, Experiment, Size, cells_of
from benchmarks.miniature.running import Result, read_result


class Measured(NamedTuple):
    """Top-1 in % by seed, and the number of videos per seed."""

    values: Mapping[int, float]
    num_videos: int

    @property
    def mean(self) -> float:
        return statistics.fmean(self.values.values())

    @property
    def spread(self) -> float | None:
        """Standard deviation between seeds; None for a single one."""
        return statistics.stdev(self.values.values()) if len(self.values) > 1 else None


Table = dict[tuple[str, str], Measured]
"""Maps (row, task) to its measurement, if it was run."""


def results_of(experiment: Experiment, size: Size, results: Path) -> dict[tuple[str, str], list[Result]]:
    """Map (row, task) to the results of its finished cells."""
    return {
        at: [result for cell in cells if (result := read_result(cell, size, results)) is not None]
        for at, cells in cells_of(experiment, size).items()
    }


def table_of(experiment: Experiment, size: Size, results: Path) -> Table:
    """Return the measurements of an experiment; the rows of Figure 6 are numbers of clips."""
    found = results_of(experiment, size, results)
    if CLIPS_ROW not in experiment.rows:
        return {at: _measured(of_row, lambda figures: figures["top1"]) for at, of_row in found.items() if of_row}
    return {
        (str(count), task): _measured(of_task, lambda figures, count=count: figures["by_num_clips"][str(count)]["top1"])
        for (_, task), of_task in found.items()
        for count in (size.clip_counts if of_task else ())
    }


def _measured(found: Sequence[Result], top1: Callable[[Mapping[str, Any]], float]) -> Measured:
    return Measured({each["seed"]: 100 * top1(each["results"]) for each in found}, int(found[0]["results"]["num_videos"]))


class Difference(NamedTuple):
    """Paired difference of two rows in points, over the seeds that both have.

    Attributes:
        mean: Mean over the seeds.
        low: Lower end of the 95 % t-interval; minus infinity for a single seed.
        high: Upper end.
        num_seeds: Number of seeds.
    """

    mean: float
    low: float
    high: float
    num_seeds: int


def difference(better: Measured, worse: Measured) -> Difference | None:
    """Compare two rows seed by seed; None if they share no seed."""
    seeds = sorted(better.values.keys() & worse.values.keys())
    if not seeds:
        return None
    each = [better.values[seed] - worse.values[seed] for seed in seeds]
    mean = statistics.fmean(each)
    if len(each) == 1:
        return Difference(mean, -math.inf, math.inf, 1)
    half = float(stats.t.ppf(0.975, len(each) - 1)) * statistics.stdev(each) / math.sqrt(len(each))
    return Difference(mean, mean - half, mean + half, len(each))


UNDECIDED = "is inconclusive"
WORDS = {
    (True, False, False): "holds",
    (True, True, False): "holds in part",
    (True, False, True): "holds in part",
    (True, True, True): "holds in part",
    (False, False, True): "does not hold",
    (False, True, True): "does not hold",
    (False, True, False): UNDECIDED,
}
"""Maps whether any claim is (kept, undecided, broken) to the verdict on the finding."""


class Verdict(NamedTuple):
    """A verdict on a finding.

    Attributes:
        words: A value of `WORDS`, or "was not tested".
        reasons: One line for each claim, with its own verdict.
    """

    words: str
    reasons: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The verdict and its reasons as Markdown."""
        lines = "\n".join(f"- {reason}" for reason in self.reasons)
        return f"At this size the finding **{self.words}**{':' if lines else '.'}" + (f"\n\n{lines}" if lines else "")


def judge(experiment: Experiment, table: Table, words: Mapping[str, str]) -> Verdict:
    """Decide each claim by the 95 % t-interval of its paired difference.

    A claim holds if the interval lies above zero, is broken if it lies below, and is undecided if it contains zero.

    Args:
        experiment: Experiment with the claims.
        table: Measurements of its rows.
        words: Display name of each task.

    Returns:
        One verdict on all claims.
    """
    reasons: dict[str, list[str]] = {"kept": [], "undecided": [], "broken": []}
    for task, better, worse in experiment.claims:
        if (better, task) not in table or (worse, task) not in table:
            continue
        found = difference(table[better, task], table[worse, task])
        if found is not None:
            kind = "kept" if found.low > 0 else "broken" if found.high < 0 else "undecided"
            reasons[kind].append(_sentence(found, better, worse, words[task]))
    return verdict(**reasons)


def _sentence(found: Difference, better: str, worse: str, task: str) -> str:
    above = "above" if found.mean >= 0 else "below"
    interval = f"95 % interval {found.low:.1f} to {found.high:.1f}" if found.num_seeds > 1 else "one seed, no interval"
    return f"{better} is {abs(found.mean):.1f} points {above} {worse} in {task} ({interval})"


def verdict(kept: Sequence[str], broken: Sequence[str], undecided: Sequence[str] = ()) -> Verdict:
    """Combine the reasons of claims into one verdict.

    Args:
        kept: Reasons of the claims that hold.
        broken: Reasons of the claims that don't hold.
        undecided: Reasons of the claims whose interval contains zero.
    """
    if not kept and not broken and not undecided:
        return Verdict("was not tested")
    titles = {"Holds": kept, "Does not hold": broken, "Inconclusive": undecided}
    reasons = tuple(f"{title}: {reason}." for title, of_title in titles.items() for reason in of_title)
    return Verdict(WORDS[bool(kept), bool(undecided), bool(broken)], reasons)
