"""Whether the paper's findings hold: means over seeds, what chance would do, and one sentence about all claims of a table."""

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.miniature.experiments import CLIPS_ROW, TASKS, Experiment, Size, cell_of, cells_of
from benchmarks.miniature.running import Result, read_result


class Measured(NamedTuple):
    """Top-1 in %: of each seed, and of how many videos each."""

    values: tuple[float, ...]
    num_videos: int

    @property
    def mean(self) -> float:
        return statistics.fmean(self.values)

    @property
    def spread(self) -> float | None:
        """The standard deviation between seeds; None of a single one."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None


Table = dict[tuple[str, str], Measured]
"""(row, task) -> what was measured; what wasn't run is missing."""


def results_of(experiment: Experiment, size: Size, results: Path) -> dict[tuple[str, str], list[Result]]:
    """(row, task) -> the results of those of its cells that are finished."""
    return {
        at: [result for cell in cells if (result := read_result(cell, size, results)) is not None]
        for at, cells in cells_of(experiment, size).items()
    }


def table_of(experiment: Experiment, size: Size, results: Path) -> Table:
    """What was measured; of Figure 6 a row is a number of clips."""
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
    """Task -> the variance between the unchanged model's seeds: what stands in for that of a row with one seed."""
    variances = {}
    for task in TASKS:
        found = (read_result(cell_of(task, {}, seed), size, results) for seed in size.seeds)
        values = [100 * result["results"]["top1"] for result in found if result is not None]
        variances[task] = statistics.variance(values) if len(values) > 1 else 0.0
    return variances


def chance(better: Measured, worse: Measured, seed_variance: float) -> float:
    """How far two equally good models may well lie apart, in points: two standard deviations, of seeds and of test videos.

    `seed_variance` is that of a model with one seed.
    """

    def variance(measured: Measured) -> float:
        share = measured.mean / 100
        of_videos = 1e4 * share * (1 - share) / measured.num_videos
        of_seeds = seed_variance if measured.spread is None else measured.spread**2
        return of_seeds / len(measured.values) + of_videos

    return 2 * math.sqrt(variance(better) + variance(worse))


UNTOLD = "can't be told"
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
"""(whether a claim is plainly so, whether one is undecided, whether one is broken) -> of the finding."""


class Verdict(NamedTuple):
    """`words`: one of `WORDS` or "was not tested"; `sentence`: with its reasons."""

    words: str
    sentence: str


def judge(experiment: Experiment, table: Table, variances: Mapping[str, float], words: Mapping[str, str]) -> Verdict:
    """Each claim against what was measured, together one sentence; `words`: what the tasks are called.

    A claim of "better" holds where the difference is plain, is broken where the opposite is, and is undecided otherwise.
    Claims of "not worse" that hold are told by their number.
    """
    reasons: dict[str, list[str]] = {"kept": [], "undecided": [], "broken": []}
    not_worse, shown = 0, False
    for task, better, worse, strictly in experiment.claims:
        if (better, task) not in table or (worse, task) not in table:
            continue
        one, other = table[better, task], table[worse, task]
        of_seeds = 0.0 if CLIPS_ROW in experiment.rows else variances[task]  # one training, tested in several ways
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
    """Of the claims that hold, of those that don't and of those that nothing speaks for or against, each with its reason.

    `shown`: whether one of `kept` is plainly so; None: all are.
    """
    if not kept and not broken and not undecided:
        return Verdict("was not tested", "At this size the finding **was not tested**.")
    words = WORDS[bool(kept) if shown is None else shown, bool(undecided), bool(broken)]
    reasons = "; but ".join("; ".join(reasons) for reasons in (kept, [*undecided, *broken]) if reasons)
    return Verdict(words, f"At this size the finding **{words}**: {reasons}.")
