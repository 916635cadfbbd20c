"""How good scores are, each figure as a function of how often every video counts: once, or as often as it was drawn again."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from timesformer_jax._typing import Float, Int, ndarray
from timesformer_jax.errors import InputError
from timesformer_jax.evaluation.clip_scores import ClipScores, Predictions
from timesformer_jax.training.objective import OBJECTIVES, make_targets

CALIBRATION_BINS = 15
RESAMPLES = 1000
RESAMPLES_AT_ONCE = 250
FEWEST_RESAMPLED = 30
"""Of fewer videos resampling says nothing."""
ROUNDING = 1e-6
"""Draws that differ by no more agree."""
Z = 1.959964
"""Standard deviations to either side that hold 95 % of a normal distribution."""
PROPORTIONS = ("top1", "top5")
"""Metrics that count videos: every one is right or wrong."""

Interval = tuple[float, float]

Statistic = Callable[[np.ndarray], np.ndarray]
"""How often each video counts, `[videos, resamples]`, adding up to the number of videos -> the figure, `[resamples]`."""


def label_ranks(predictions: Predictions) -> Int[ndarray, "videos"]:
    """How many classes stand before a video's label, or the best of its labels; of equal scores the first class stands first.

    A video without labels has the number of classes.
    """
    scores, labels = predictions.scores, predictions.labels
    rows = np.arange(len(scores))
    own = labels if labels.ndim == 1 else np.where(labels > 0, scores, -np.inf).argmax(axis=1)
    best = scores[rows, own][:, None]
    before = (scores > best).sum(axis=1) + ((scores == best) & (np.arange(scores.shape[1]) < own[:, None])).sum(axis=1)
    return before if labels.ndim == 1 else np.where(labels.any(axis=1), before, scores.shape[1])


def _top(k: int) -> Callable[[Predictions], Statistic]:
    def of(predictions: Predictions) -> Statistic:
        hit = label_ranks(predictions) < k
        return lambda counts: hit.astype(counts.dtype) @ counts / len(hit)

    return of


def _sums(groups: np.ndarray, num_groups: int, values: np.ndarray) -> Statistic:
    """Counts `[videos, resamples]` -> sums of values x counts over the videos of each group, `[groups, resamples]`.

    A video whose group is `num_groups` is in none.
    """
    from scipy.sparse import csr_array

    there = np.flatnonzero(groups < num_groups)
    matrix: Any = csr_array((values[there], (groups[there], there)), shape=(num_groups, len(groups)))
    return lambda counts: matrix.astype(counts.dtype) @ counts


def _mean_class_accuracy(predictions: Predictions) -> Statistic:
    labels, num_classes = predictions.labels, predictions.scores.shape[1]
    hit = label_ranks(predictions) < 1
    hits, videos = (_sums(labels, num_classes, values.astype(np.float64)) for values in (hit, np.ones_like(hit)))

    def of(counts: np.ndarray) -> np.ndarray:
        there = videos(counts)
        return (hits(counts) / np.maximum(there, 1)).sum(axis=0) / (there > 0).sum(axis=0)

    return of


def _calibration_error(predictions: Predictions) -> Statistic:
    confidence = predictions.scores.max(axis=1).astype(np.float64)
    bins = np.clip(np.ceil(confidence * CALIBRATION_BINS).astype(np.int64) - 1, 0, CALIBRATION_BINS - 1)
    gaps = _sums(bins, CALIBRATION_BINS, (label_ranks(predictions) < 1) - confidence)
    return lambda counts: np.abs(gaps(counts)).sum(axis=0) / len(bins)


def _mean_average_precision(predictions: Predictions) -> Statistic:
    """Over the classes that some (drawn) video has; 0 where none has any."""
    classes = [
        _average_precision(predictions.scores[:, i], positive)
        for i in range(predictions.scores.shape[1])
        if (positive := predictions.labels[:, i] > 0).any()
    ]

    def of(counts: np.ndarray) -> np.ndarray:
        total, seen = np.zeros(counts.shape[1]), np.zeros(counts.shape[1])
        for each in classes:
            precision = each(counts)
            seen += ~np.isnan(precision)
            total += np.nan_to_num(precision)
        return total / np.maximum(seen, 1)

    return of


def _average_precision(scores: np.ndarray, positive: np.ndarray) -> Statistic:
    """The mean over the videos with a label of the precision among all that score at least as high; NaN without any."""
    thresholds = np.unique(scores[positive])[::-1]  # descending: which of them a video reaches first decides where it counts
    step = np.searchsorted(-thresholds, -scores)
    own = np.where(positive, step, len(thresholds))
    videos, found = (_sums(groups, len(thresholds), np.ones(len(scores))) for groups in (step, own))

    def of(counts: np.ndarray) -> np.ndarray:
        new = found(counts)
        precision = new.cumsum(axis=0) / np.maximum(videos(counts).cumsum(axis=0), 1)
        with np.errstate(invalid="ignore"):
            return (new * precision).sum(axis=0) / new.sum(axis=0)

    return of


METRICS: dict[str, Callable[[Predictions], Statistic]] = {
    "top1": _top(1),
    "top5": _top(5),
    "mean_class_accuracy": _mean_class_accuracy,
    "calibration_error": _calibration_error,
    "map": _mean_average_precision,
}
"""Name -> what makes the statistic of some predictions.

`top1`, `top5`: share of the videos of which a label is among the best k. `mean_class_accuracy`: mean over the classes that have
videos of the share that is right. `calibration_error`: by how much the best score differs from the share of right answers, in
15 equally wide bins of it, averaged over the videos (expected calibration error; Guo et al. 2017). `map`: mean over the
classes that have videos of the average precision.
"""

ONE_LABEL = ("top1", "top5", "mean_class_accuracy", "calibration_error")
SEVERAL_LABELS = ("top1", "top5", "map")
"""Where videos have any number of labels: an answer isn't right or wrong there."""


def _names(predictions: Predictions) -> tuple[str, ...]:
    return ONE_LABEL if predictions.labels.ndim == 1 else SEVERAL_LABELS


def _check_finite(predictions: Predictions) -> None:
    if not np.isfinite(predictions.scores).all():
        raise InputError("The model's scores are not finite: its parameters have diverged. Test an earlier checkpoint.")


def _value(statistic: Statistic, num_videos: int) -> float:
    return float(statistic(np.ones((num_videos, 1)))[0])


def measure(predictions: Predictions, names: Sequence[str] | None = None) -> dict[str, float]:
    """Every metric that makes sense for these labels, or those named: see `METRICS`.

    Raises `InputError` for scores that are no numbers: a model that has diverged has no accuracy.
    """
    _check_finite(predictions)
    return {name: _value(METRICS[name](predictions), len(predictions.names)) for name in names or _names(predictions)}


def accuracies(predictions: Predictions, top: Sequence[int] = (1, 5)) -> dict[str, float]:
    """`top1`, `top5`, and where videos have any number of labels `map`: what a validation is judged by.

    Raises `InputError` as `measure` does.
    """
    _check_finite(predictions)
    wanted = {f"top{k}": _top(k) for k in top}
    if predictions.labels.ndim == 2:
        wanted["map"] = _mean_average_precision
    return {name: _value(metric(predictions), len(predictions.names)) for name, metric in wanted.items()}


def mean_loss(scores: ClipScores) -> float:
    """The training objective's loss of each video's mean logits, averaged over the videos; without label smoothing.

    Needs scores of which "logits" is one of the `averages`.
    """
    total = scores.sums[:, scores.averages.index("logits")]
    starts = np.cumsum(scores.num_clips) - scores.num_clips
    logits = np.add.reduceat(total, starts) / (scores.num_clips * scores.num_crops)[:, None].astype(np.float32)
    targets = make_targets(jnp.asarray(scores.labels), logits.shape[-1])
    return float(OBJECTIVES[scores.objective].loss(jnp.asarray(logits), targets).mean())


def wilson_interval(share: float, count: int) -> Interval:
    """95 % score interval of a proportion of `count` trials; never without width, not even at 0 or 1 (Wilson 1927)."""
    centre = (share + Z**2 / (2 * count)) / (1 + Z**2 / count)
    half = Z * math.sqrt(share * (1 - share) / count + Z**2 / (4 * count**2)) / (1 + Z**2 / count)
    # At the ends it reaches 0 or 1 but for rounding.
    return (0.0 if share == 0 else centre - half), (1.0 if share == 1 else centre + half)


def proportion_intervals(found: Mapping[str, float], num_videos: int) -> dict[str, Interval]:
    """Of figures of `measure` or `accuracies` those that are proportions of videos -> their Wilson intervals."""
    return {name: wilson_interval(found[name], num_videos) for name in PROPORTIONS if name in found}


def intervals(predictions: Predictions, *, resamples: int = RESAMPLES, seed: int = 0) -> dict[str, Interval | None]:
    """95 % interval of every metric of `measure`.

    Proportions of videos have Wilson's. The others have percentiles of what they are on equally many videos drawn with
    replacement (percentile bootstrap, Efron 1979; the model stays the same, `seed` decides the draws), or None if there are
    fewer than `FEWEST_RESAMPLED` videos or all draws agree: resampling can't know of errors that the videos don't show.
    """
    num_videos, random = len(predictions.names), np.random.default_rng(seed)
    names = _names(predictions)
    known = measure(predictions, [name for name in names if name in PROPORTIONS])
    statistics = {name: METRICS[name](predictions) for name in names if name not in PROPORTIONS}
    found: dict[str, list[np.ndarray]] = {name: [] for name in statistics}
    for first in range(0, resamples if num_videos >= FEWEST_RESAMPLED else 0, RESAMPLES_AT_ONCE):
        drawn = [
            np.bincount(random.integers(num_videos, size=num_videos), minlength=num_videos)
            for _ in range(first, min(first + RESAMPLES_AT_ONCE, resamples))
        ]
        counts = np.ascontiguousarray(np.stack(drawn).T, np.float32)  # whole numbers, exact up to 2^24
        for name, statistic in statistics.items():
            found[name].append(statistic(counts))
    ends = {name: _percentiles(values) for name, values in found.items()}
    return {name: {**ends, **proportion_intervals(known, num_videos)}[name] for name in names}


def _percentiles(values: list[np.ndarray]) -> Interval | None:
    if not values:
        return None
    low, high = np.percentile(np.concatenate(values), (2.5, 97.5))
    return (float(low), float(high)) if high - low > ROUNDING else None


def confusion_matrix(predictions: Predictions) -> Int[ndarray, "classes classes"]:
    """How many videos of each class (rows) got which as the best label (columns); one label a video."""
    num_classes = predictions.scores.shape[1]
    pairs = predictions.labels.astype(np.int64) * num_classes + predictions.scores.argmax(axis=1)
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


class ClassAccuracies(NamedTuple):
    """Of each class, the share of its videos that is right (NaN where it has none), and how many it has."""

    accuracy: Float[ndarray, "classes"]
    num_videos: Int[ndarray, "classes"]


def class_accuracies(predictions: Predictions) -> ClassAccuracies:
    """Per class, where videos have one label each."""
    confused = confusion_matrix(predictions)
    num_videos = confused.sum(axis=1)
    accuracy = np.where(num_videos > 0, np.diag(confused) / np.maximum(num_videos, 1), np.nan)
    return ClassAccuracies(accuracy, num_videos)
