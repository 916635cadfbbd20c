"""Paired comparison of two evaluations of the same videos."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from timesformer_jax.errors import InputError
from timesformer_jax.evaluation.metrics import Interval, wilson_interval
from timesformer_jax.evaluation.results import is_right, labels_of


class ClassChange(NamedTuple):
    """Accuracy of a class in two runs."""

    label: str
    """Name of the class."""
    videos: int
    """Number of its videos."""
    here: float
    """Share of correct predictions of this run."""
    there: float
    """Share of correct predictions of the other run."""

    @property
    def difference(self) -> float:
        return self.here - self.there


class Comparison(NamedTuple):
    """Top-1 accuracy of this run (`here`) and of another one (`there`) on the same videos.

    Attributes:
        other: Name of the other run.
        videos: Number of videos.
        here: Accuracy of this run.
        there: Accuracy of the other run.
        interval: 95 % interval of the difference.
        both: Number of videos that both predict correctly.
        only_here: Number of videos that only this run predicts correctly.
        only_there: Number of videos that only the other run predicts correctly.
        neither: Number of videos that both predict wrongly.
        changes: Changes of the classes, largest first.
    """

    other: str
    videos: int
    here: float
    there: float
    interval: Interval
    both: int
    only_here: int
    only_there: int
    neither: int
    changes: Sequence[ClassChange]

    @property
    def difference(self) -> float:
        return self.here - self.there

    @property
    def is_clear(self) -> bool:
        """Whether the interval excludes 0."""
        return not self.interval[0] <= 0 <= self.interval[1]


def compare_predictions(
    here: Sequence[Mapping[str, Any]], there: Sequence[Mapping[str, Any]], *, names: tuple[str, str]
) -> Comparison:
    """Compare two runs' rows of `predictions.jsonl`, paired by video.

    Args:
        here: Rows of this run's readable videos.
        there: Rows of the other run's readable videos.
        names: Names of the two runs.

    Raises:
        InputError: If the runs have evaluated different videos, or the videos have different labels.
    """
    ours, theirs = ({row["video"]: row for row in rows} for rows in (here, there))
    _check_same_videos(ours, theirs, names)
    counts = {(True, True): 0, (True, False): 0, (False, True): 0, (False, False): 0}
    of_class: dict[str, list[tuple[bool, bool]]] = {}
    for video, row in ours.items():
        pair = is_right(row), is_right(theirs[video])
        counts[pair] += 1
        for label in labels_of(row):
            of_class.setdefault(label, []).append(pair)
    both, only_here, only_there, neither = counts.values()
    total = len(ours)
    changes = [
        ClassChange(label, len(pairs), sum(a for a, _ in pairs) / len(pairs), sum(b for _, b in pairs) / len(pairs))
        for label, pairs in of_class.items()
    ]
    return Comparison(
        names[1],
        total,
        (both + only_here) / total,
        (both + only_there) / total,
        paired_interval(both, only_here, only_there, neither),
        both,
        only_here,
        only_there,
        neither,
        sorted(changes, key=lambda change: (-abs(change.difference), -change.videos, change.label)),
    )


def _check_same_videos(ours: Mapping[str, Any], theirs: Mapping[str, Any], names: tuple[str, str]) -> None:
    """Raise `InputError` unless the two runs have the same videos with the same labels."""
    only_ours, only_theirs = sorted(ours.keys() - theirs), sorted(theirs.keys() - ours)
    if only_ours or only_theirs:
        which, example = (0, only_ours[0]) if only_ours else (1, only_theirs[0])
        raise InputError(
            f"{names[0]} and {names[1]} have evaluated different videos ({len(ours)} and {len(theirs)}, of which "
            f"{len(ours.keys() & theirs)} are the same; {example!r} is only in {names[which]}): evaluate both on the same "
            "split of the same data with --mode=eval."
        )
    differing = [video for video, row in ours.items() if set(labels_of(row)) != set(labels_of(theirs[video]))]
    if differing:
        video = differing[0]
        raise InputError(
            f"{names[0]} and {names[1]} have different labels for {len(differing)} of {len(ours)} videos ({video!r} is "
            f"{', '.join(labels_of(ours[video])) or 'none'} and {', '.join(labels_of(theirs[video])) or 'none'}): only runs "
            "of the same labels can be compared."
        )
    if not ours:
        raise InputError(f"{names[0]} and {names[1]} have evaluated no readable video: there is nothing to compare.")


def paired_interval(both: int, only_first: int, only_second: int, neither: int) -> Interval:
    """Compute the 95 % interval of the difference of two proportions of the same trials.

    Newcombe 1998, "Improved confidence intervals for the difference between binomial proportions based on paired data",
    method 10: from the Wilson intervals of both proportions and their correlation. Its width is positive even if no trial
    differs.

    Args:
        both: Number of trials that succeed in both.
        only_first: Number of trials that succeed in the first only.
        only_second: Number of trials that succeed in the second only.
        neither: Number of trials that fail in both.

    Returns:
        Ends of the interval of the first proportion minus the second.
    """
    total = both + only_first + only_second + neither
    first, second = (both + only_first) / total, (both + only_second) / total
    (low1, high1), (low2, high2) = wilson_interval(first, total), wilson_interval(second, total)
    phi = _correlation(both, only_first, only_second, neither)

    def reach(a: float, b: float) -> float:
        return math.sqrt(max(a**2 - 2 * phi * a * b + b**2, 0.0))

    difference = first - second
    return (
        max(difference - reach(first - low1, high2 - second), -1.0),
        min(difference + reach(high1 - first, second - low2), 1.0),
    )


def _correlation(a: int, b: int, c: int, d: int) -> float:
    """Newcombe's phi, with his continuity correction for positive correlations; 0 if a margin is empty."""
    margins = (a + b) * (c + d) * (a + c) * (b + d)
    if not margins:
        return 0.0
    product = a * d - b * c
    corrected = max(product - (a + b + c + d) / 2, 0) if product > 0 else product
    return corrected / math.sqrt(margins)
