"""Verdicts on the paper's findings: means over seeds, chance levels, and a sentence about all claims of a table."""

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.miniature.experiments import CLIPS_ROW, TASKS, Experiment, Size, cell_of, cells_of
from benchmarks.miniature.running import Result, read_result


class Measured(NamedTuple):
    """Top-1 in % of each seed, and the number of videos per seed."""

    values: tuple[float, ...]
    num_videos: int

    @property
    def mean(self) -> float:
        return statistics.fmean(self.values)

    @property
    def spread(self) -> float | None:
        """Standard deviation between seeds; None for a single one."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None


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
    if CLIPS_ROW in experiment.rows:
        return _over_clips({task: of_task for (_, task), of_task in found.items()}, size.clip_counts)
    return {at: _measured([result["results"] for result in of_row]) for at, of_row in found.items() if of_row}


def _over_clips(found: Mapping[str, Sequence[Result]], counts: Sequence[int]) -> Table:
    table = {}
    for task, of_task in found.items():
        for count in counts if of_task else ():
            each = [
                {**result["results"]["by_num_clips"][str(count)], "num_videos": result["results"]["num_videos"]}
                for result in of_task
            ]
            table[str(count), task] = _measured(each)
    return table


def _measured(found: Sequence[Mapping[str, float]]) -> Measured:
    return Measured(tuple(100 * each["top1"] for each in found), int(found[0]["num_videos"]))


def seed_variances(size: Size, results: Path) -> dict[str, float]:
    """Map each task to the variance between seeds of the unchanged model, used for rows with a single seed."""
    variances = {}
    for task in TASKS:
        found = (read_result(cell_of(task, {}, seed), size, results) for seed in size.seeds)
        values = [100 * result["results"]["top1"] for result in found if result is not None]
        variances[task] = statistics.variance(values) if len(values) > 1 else 0.0
    return variances


def chance(better: Measured, worse: Measured, seed_variance: float) -> float:
    """Return the chance difference of two equally good models in points: two standard deviations over seeds and videos.

    `seed_variance` is assumed for a model with a single seed.
    """

    def variance(measured: Measured) -> float:
        share = measured.mean / 100
        of_videos = 1e4 * share * (1 - share) / measured.num_videos
        of_seeds = seed_variance if measured.spread is None else measured.spread**2
        return of_seeds / len(measured.values) + of_videos

    return 2 * math.sqrt(variance(better) + variance(worse))


UNTOLD = "is undecided"
WORDS = {
    (True, False, False): "holds",
    (True, True, False): "holds in part",
    (True, False, True): "holds in part",
    (True, True, True): "holds in part",
    (False, False, True): "does not hold",
    (False, True, True): "does not hold",
    (False, True, False): UNTOLD,
    (False, False, False): UNTOLD,
}
"""Maps whether any claim is (kept, undecided, broken) to the verdict on the finding."""


class Verdict(NamedTuple):
    """A verdict on a finding.

    Attributes:
        words: A value of `WORDS`, or "was not tested".
        sentence: The verdict with its reasons.
    """

    words: str
    sentence: str


def judge(experiment: Experiment, table: Table, variances: Mapping[str, float], words: Mapping[str, str]) -> Verdict:
    """Compare each claim with the measurements.

    A claim of "better" holds if the difference exceeds chance, is broken if the opposite does, and is undecided otherwise. Of
    the "not worse" claims that hold, only the number is reported.

    Args:
        experiment: Experiment with the claims.
        table: Measurements of its rows.
        variances: Variance between seeds, per task.
        words: Display name of each task.

    Returns:
        One verdict on all claims.
    """
    reasons: dict[str, list[str]] = {"kept": [], "undecided": [], "broken": []}
    not_worse, shown = 0, False
    for task, better, worse, strictly in experiment.claims:
        if (better, task) not in table or (worse, task) not in table:
            continue
        one, other = table[better, task], table[worse, task]
        of_seeds = 0.0 if CLIPS_ROW in experiment.rows else variances[task]  # one training, evaluated several times
        difference, by_chance = one.mean - other.mean, chance(one, other, of_seeds)
        apart = "more than" if abs(difference) > by_chance else "no more than"
        above = "above" if difference >= 0 else "below"
        reason = f"{better} is {abs(difference):.1f} points {above} {worse} in {words[task]}, {apart} chance ({by_chance:.1f})"
        shown |= difference > by_chance
        if difference < -by_chance:
            reasons["broken"].append(reason)
        elif not strictly:
            not_worse += 1
        else:
            reasons["kept" if difference > by_chance else "undecided"].append(reason)
    if not_worse:
        comparisons = f"{not_worse} {'other ' if reasons['kept'] else ''}{'comparison' if not_worse == 1 else 'comparisons'}"
        reasons["kept"].append(f"in {comparisons} the paper's better row is not worse by more than chance")
    return verdict(**reasons, shown=shown)


def verdict(kept: Sequence[str], broken: Sequence[str], undecided: Sequence[str] = (), *, shown: bool | None = None) -> Verdict:
    """Combine the reasons of claims into one verdict.

    Args:
        kept: Reasons of the claims that hold.
        broken: Reasons of the claims that don't hold.
        undecided: Reasons of the claims that are within chance.
        shown: Whether a claim in `kept` exceeds chance; None if all do.

    Returns:
        The verdict with its sentence.
    """
    if not kept and not broken and not undecided:
        return Verdict("was not tested", "At this size the finding **was not tested**.")
    words = WORDS[bool(kept) if shown is None else shown, bool(undecided), bool(broken)]
    reasons = "; but ".join("; ".join(reasons) for reasons in (kept, [*undecided, *broken]) if reasons)
    return Verdict(words, f"At this size the finding **{words}**: {reasons}.")
