"""Metrics against plain reference code or scikit-learn, and the bootstrap against resampled videos."""

import time
import warnings
from typing import Any

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

import timesformer_jax as tsf
from timesformer_jax import evaluation
from timesformer_jax.evaluation import METRICS, Predictions

RANDOM = np.random.default_rng(3)


def predictions_of(scores: np.ndarray, labels: np.ndarray) -> Predictions:
    return Predictions([f"{i:06d}" for i in range(len(scores))], labels, scores, np.ones(len(scores), int))


def single_label(videos: int = 200, classes: int = 9) -> Predictions:
    """Scores that are somewhat right, with ties; the last class has no video."""
    labels = RANDOM.integers(0, classes - 1, videos)
    logits = RANDOM.normal(size=(videos, classes)) + 1.5 * (np.arange(classes) == labels[:, None])
    odds = np.exp(logits)
    return predictions_of((odds / odds.sum(axis=1, keepdims=True)).round(2).astype(np.float32), labels)


def multi_label(videos: int = 150, classes: int = 6) -> Predictions:
    """As `single_label` with several labels; the last class has no video, and some videos have no label."""
    labels = (RANDOM.random((videos, classes)) < 0.2) * (np.arange(classes) < classes - 1)
    scores = 1 / (1 + np.exp(-RANDOM.normal(size=labels.shape) - labels))
    return predictions_of(scores.round(1).astype(np.float32), labels.astype(np.float32))


def expected_top(predictions: Predictions, k: int) -> float:
    best = evaluation.best_labels(predictions.scores, k)
    own = [[label] if np.ndim(label) == 0 else np.flatnonzero(label) for label in predictions.labels]
    return float(np.mean([bool(set(a) & set(b)) for a, b in zip(best.tolist(), own, strict=True)]))


def expected_calibration_error(predictions: Predictions) -> float:
    confidence = predictions.scores.max(axis=1).astype(float)
    right = predictions.scores.argmax(axis=1) == predictions.labels
    error = 0.0
    for low, high in zip(np.linspace(0, 1, 16)[:-1], np.linspace(0, 1, 16)[1:], strict=True):
        inside = (confidence > low) & (confidence <= high)
        if inside.any():
            error += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    return error


def expected_map(predictions: Predictions) -> float:
    seen = np.flatnonzero(predictions.labels.any(axis=0))
    score = sklearn_metrics.average_precision_score
    return float(np.mean([score(predictions.labels[:, i], predictions.scores[:, i]) for i in seen])) if len(seen) else 0.0


EXPECTED: dict[str, Any] = {
    "top1": lambda predictions: expected_top(predictions, 1),
    "top5": lambda predictions: expected_top(predictions, 5),
    "mean_class_accuracy": lambda predictions: sklearn_metrics.balanced_accuracy_score(
        predictions.labels, predictions.scores.argmax(axis=1)
    ),
    "calibration_error": expected_calibration_error,
    "map": expected_map,
}


@pytest.fixture(scope="module", params=[single_label, multi_label])
def predictions(request: pytest.FixtureRequest) -> Predictions:
    return request.param()


def test_metrics_match_the_references(predictions: Predictions):
    found = evaluation.measure(predictions)
    names = METRICS.keys() - ({"map"} if predictions.labels.ndim == 1 else {"mean_class_accuracy", "calibration_error"})
    assert found.keys() == names
    for name in names:
        with warnings.catch_warnings():  # scikit-learn warns about a class that is predicted but never true
            warnings.simplefilter("ignore", UserWarning)
            assert found[name] == pytest.approx(EXPECTED[name](predictions), abs=1e-6), name
    accuracies = evaluation.accuracies(predictions)
    assert accuracies == {name: found[name] for name in accuracies}
    assert evaluation.measure(predictions, ["top5"]) == {"top5": found["top5"]}


def test_intervals_match_resampled_videos(predictions: Predictions):
    """The reference resamples the videos themselves, with the same seed, and measures each sample."""
    random, count = np.random.default_rng(0), len(predictions.names)
    values: dict[str, list[float]] = {name: [] for name in evaluation.measure(predictions)}
    for _ in range(40):
        drawn = random.integers(count, size=count)
        again = predictions_of(predictions.scores[drawn], predictions.labels[drawn])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            for name, found in values.items():
                found.append(EXPECTED[name](again))
    got = evaluation.intervals(predictions, resamples=40)
    assert got.keys() == values.keys()
    for name, found in values.items():
        if name in ("top1", "top5"):
            continue  # intervals of proportions need no draws
        assert got[name] == pytest.approx(tuple(np.percentile(found, (2.5, 97.5))), abs=2e-6), name
    assert got == evaluation.intervals(predictions, resamples=40)
    assert got != evaluation.intervals(predictions, resamples=40, seed=1)


def test_interval_of_a_hit_rate_is_binomial():
    """The interval of a hit rate is the binomial one and contains the measured value."""
    scores = np.eye(2, dtype=np.float32)[(RANDOM.random(2000) < 0.7).astype(int)]
    found = evaluation.intervals(predictions_of(scores, np.ones(2000, int)))["top1"]
    share = float(scores[:, 1].mean())
    half = 1.96 * (share * (1 - share) / 2000) ** 0.5
    assert found == pytest.approx((share - half, share + half), abs=0.2 * half)


@pytest.mark.parametrize(
    ("hits", "videos", "expected"),
    [(8, 8, (0.6756, 1.0)), (0, 8, (0.0, 0.3244)), (7, 8, (0.5291, 0.9776)), (81, 263, (0.2553, 0.3662))],
)
def test_intervals_of_proportions_match_wilson(hits: int, videos: int, expected: tuple[float, float]):
    """Eight hits of eight are not certain. The last case is Newcombe's example (1998), 0.2553 to 0.3662."""
    scores = np.eye(2, dtype=np.float32)[(np.arange(videos) < hits).astype(int)]
    found = evaluation.intervals(predictions_of(scores, np.ones(videos, int)))
    assert found["top1"] == pytest.approx(expected, abs=5e-5)
    assert found["top1"][0] <= hits / videos <= found["top1"][1]


def test_too_few_videos_give_no_interval():
    """Resampling a few videos, or videos that are all correct, would suggest certainty."""
    scores = np.eye(2, dtype=np.float32)[np.arange(100) % 2]
    all_right = evaluation.intervals(predictions_of(scores, np.arange(100) % 2))
    assert all_right["mean_class_accuracy"] is None
    few = evaluation.intervals(predictions_of(scores[:29], np.arange(29) % 3 % 2))
    assert few["mean_class_accuracy"] is few["calibration_error"] is None
    enough = evaluation.intervals(predictions_of(scores[:30], np.arange(30) % 3 % 2))
    assert enough["mean_class_accuracy"] is not None


def test_intervals_of_a_large_data_set_are_fast():
    """With 20,000 videos and 400 classes, intervals must not add minutes to an evaluation."""
    scores = RANDOM.random((20_000, 400), dtype=np.float32)
    predictions = predictions_of(scores, RANDOM.integers(0, 400, 20_000))
    began = time.process_time()
    evaluation.intervals(predictions)
    assert time.process_time() - began < 20


def test_confusion_matrix_and_class_table():
    predictions = single_label()
    best = predictions.scores.argmax(axis=1)
    expected = sklearn_metrics.confusion_matrix(predictions.labels, best, labels=range(9))
    np.testing.assert_array_equal(evaluation.confusion_matrix(predictions), expected)
    accuracy, counts = evaluation.class_accuracies(predictions)
    for i in range(8):
        own = predictions.labels == i
        assert counts[i] == own.sum()
        assert accuracy[i] == pytest.approx((best[own] == i).mean())
    assert counts[8] == 0
    assert np.isnan(accuracy[8])


def test_ties_rank_the_first_class_first():
    """Ranks and top labels break ties alike; scores that aren't numbers are an error."""
    predictions = predictions_of(np.full((2, 3), 1 / 3, np.float32), np.array([0, 2]))
    assert evaluation.label_ranks(predictions).tolist() == [0, 2]
    assert evaluation.accuracies(predictions, top=(1, 2, 3)) == {"top1": 0.5, "top2": 0.5, "top3": 1.0}
    assert evaluation.prediction_rows(predictions, list("xyz"))[1]["best"][0][0] == "x"
    lost = predictions._replace(scores=np.full((2, 3), np.nan, np.float32))
    for function in (evaluation.measure, evaluation.accuracies):
        with pytest.raises(tsf.InputError, match="scores are not finite"):
            function(lost)


@pytest.mark.parametrize("objective", ["softmax", "sigmoid"])
def test_mean_loss_uses_the_mean_logits_of_each_video(objective: str):
    """The videos have one, three and two clips of two crops each; the sums stored with the logits don't contribute."""
    num_clips, logits = np.array([1, 3, 2]), RANDOM.normal(size=(6, 2, 4)).astype(np.float32)  # [clips, crops, classes]
    labels = np.array([2, 0, 3]) if objective == "softmax" else np.array([[1, 0, 0, 1], [0, 0, 0, 0], [1, 1, 1, 0]], np.float32)
    sums = np.stack([np.full((6, 4), 9, np.float32), logits.sum(axis=1)], axis=1)
    scores = evaluation.ClipScores(list("abc"), labels, num_clips, sums, 2, ("probabilities", "logits"), objective)
    expected = []
    for clips, label in zip(np.split(logits, [1, 4]), labels, strict=True):
        mean = clips.reshape(-1, 4).mean(axis=0).astype(np.float64)
        if objective == "softmax":
            expected.append(np.log(np.exp(mean).sum()) - mean[label])
        else:
            odds = 1 / (1 + np.exp(-mean))
            expected.append(-(label * np.log(odds) + (1 - label) * np.log(1 - odds)).mean())
    assert evaluation.mean_loss(scores) == pytest.approx(np.mean(expected), rel=1e-5)
