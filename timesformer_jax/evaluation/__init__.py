"""Testing on batches that someone else provides: multi-view scores, accuracies, result files."""

from timesformer_jax.evaluation.multi_view import AVERAGES, Predictions, make_score_fn, predict_videos
from timesformer_jax.evaluation.results import accuracies, best_labels, prediction_rows, write_results

__all__ = [
    "AVERAGES",
    "Predictions",
    "accuracies",
    "best_labels",
    "make_score_fn",
    "predict_videos",
    "prediction_rows",
    "write_results",
]
