"""Metrics of predictions, as functions of how often each video counts: once, or as often as a bootstrap resample draws it."""

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
"""Minimum number of videos for which resampling is meaningful."""
ROUNDING = 1e-6
"""Resampled values that differ by no more than this are considered equal."""
Z = 1.959964
"""Number of standard deviations to either side that contain 95 % of a normal distribution."""
PROPORTIONS = ("top1", "top5")
"""Metrics that are proportions of videos, each of which is either right or wrong."""

Interval = tuple[float, float]

Statistic = Callable[[np.ndarray], np.ndarray]
"""Maps counts `[videos, resamples]`, which sum to the number of videos, to a metric's values `[resamples]`."""


def label_ranks(predictions: Predictions) -> Int[ndarray, "videos"]:
    """Rank each video's label, or the best of its labels, among the classes; the best class has rank 0.

    Ties are ordered by class index. The rank of a video without labels is the number of classes.
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
    """Return a function from counts `[videos, resamples]` to each group's sum of values x counts, `[groups, resamples]`.

    Videos whose group is `num_groups` are excluded.
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
    """Average over the classes that occur among the (resampled) videos; 0 if no class occurs."""
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
    """Average, over the videos with a label, the precision among all videos that score at least as high; NaN if none has it."""
    thresholds = np.unique(scores[positive])[::-1]  # descending; a video counts from the first threshold that it reaches
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
"""Maps a metric's name to a function that makes its statistic from predictions.

- `top1`, `top5`: share of the videos with a label among the best k classes.
- `mean_class_accuracy`: share of correct predictions per class, averaged over the classes that have videos.
- `calibration_error`: absolute difference between the best score and the share of correct predictions in 15 equally wide bins
  of the score, averaged over the videos (expected calibration error; Guo et al. 2017).
- `map`: average precision per class, averaged over the classes that have videos.
"""

ONE_LABEL = ("top1", "top5", "mean_class_accuracy", "calibration_error")
SEVERAL_LABELS = ("top1", "top5", "map")
"""Metrics of multi-label videos, whose predictions are not simply right or wrong."""


def _names(predictions: Predictions) -> tuple[str, ...]:
    return ONE_LABEL if predictions.labels.ndim == 1 else SEVERAL_LABELS


def _check_finite(predictions: Predictions) -> None:
    if not np.isfinite(predictions.scores).all():
        raise InputError("The model's scores are not finite: its parameters have diverged. Evaluate an earlier checkpoint.")


def _value(statistic: Statistic, num_videos: int) -> float:
    return float(statistic(np.ones((num_videos, 1)))[0])


def measure(predictions: Predictions, names: Sequence[str] | None = None) -> dict[str, float]:
    """Compute all metrics that apply to the labels, or those named; see `METRICS`.

    Raises `InputError` if the scores are not finite, which means that the model has diverged.
    """
    _check_finite(predictions)
    return {name: _value(METRICS[name](predictions), len(predictions.names)) for name in names or _names(predictions)}


def accuracies(predictions: Predictions, top: Sequence[int] = (1, 5)) -> dict[str, float]:
    """Compute the validation metrics: top-k accuracies (`top1`, `top5`), and `map` for multi-label videos.

    Raises `InputError` if the scores are not finite.
    """
    _check_finite(predictions)
    wanted = {f"top{k}": _top(k) for k in top}
    if predictions.labels.ndim == 2:
        wanted["map"] = _mean_average_precision
    return {name: _value(metric(predictions), len(predictions.names)) for name, metric in wanted.items()}


def mean_loss(scores: ClipScores) -> float:
    """Compute the training loss of each video's mean logits, without label smoothing, averaged over the videos.

    `scores` must have "logits" among its `averages`.
    """
    total = scores.sums[:, scores.averages.index("logits")]
    starts = np.cumsum(scores.num_clips) - scores.num_clips
    logits = np.add.reduceat(total, starts) / (scores.num_clips * scores.num_crops)[:, None].astype(np.float32)
    targets = make_targets(jnp.asarray(scores.labels), logits.shape[-1])
    return float(OBJECTIVES[scores.objective].loss(jnp.asarray(logits), targets).mean())


def wilson_interval(share: float, count: int) -> Interval:
    """Compute the 95 % score interval of a proportion of `count` trials (Wilson 1927).

    Its width is positive even for a proportion of 0 or 1.
    """
    centre = (share + Z**2 / (2 * count)) / (1 + Z**2 / count)
    half = Z * math.sqrt(share * (1 - share) / count + Z**2 / (4 * count**2)) / (1 + Z**2 / count)
    # At 0 and 1, the interval ends there up to rounding.
    return (0.0 if share == 0 else centre - half), (1.0 if share == 1 else centre + half)


def proportion_intervals(found: Mapping[str, float], num_videos: int) -> dict[str, Interval]:
    """Compute the Wilson intervals of those metrics of `measure` or `accuracies` that are proportions of videos."""
    return {name: wilson_interval(found[name], num_videos) for name in PROPORTIONS if name in found}


def intervals(predictions: Predictions, *, resamples: int = RESAMPLES, seed: int = 0) -> dict[str, Interval | None]:
    """Compute the 95 % interval of every metric of `measure`.

    Proportions of videos have Wilson intervals. The others have percentile bootstrap intervals (Efron 1979), which resample the
    videos with replacement and keep the model fixed. These are None if there are fewer than `FEWEST_RESAMPLED` videos, or if
    all resamples agree, because resampling can't reveal errors that the videos don't show.

    Args:
        predictions: Scores of the videos.
        resamples: Number of bootstrap resamples.
        seed: Seed of the resampling.

    Returns:
        Maps each metric to its (low, high), or to None.
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
    """Count videos by true class (rows) and predicted class (columns); for single-label videos."""
    num_classes = predictions.scores.shape[1]
    pairs = predictions.labels.astype(np.int64) * num_classes + predictions.scores.argmax(axis=1)
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


class ClassAccuracies(NamedTuple):
    """Accuracy of each class."""

    accuracy: Float[ndarray, "classes"]
    """Share of the class's videos that are predicted correctly; NaN for classes without videos."""
    num_videos: Int[ndarray, "classes"]
    """Number of the class's videos."""


def class_accuracies(predictions: Predictions) -> ClassAccuracies:
    """Compute the accuracy of each class; for single-label videos."""
    confused = confusion_matrix(predictions)
    num_videos = confused.sum(axis=1)
    accuracy = np.where(num_videos > 0, np.diag(confused) / np.maximum(num_videos, 1), np.nan)
    return ClassAccuracies(accuracy, num_videos)
