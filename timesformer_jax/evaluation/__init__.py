"""Testing on batches that someone else provides: multi-view scores, accuracies, result files."""

from timesformer_jax.evaluation.multi_view import AVERAGES, Predictions, make_score_fn, predict_videos
from timesformer_jax.evaluation.report import METRICS, ClassRow, Report, ShownVideo, class_rows, render_report
from timesformer_jax.evaluation.results import accuracies, best_labels, prediction_rows, write_results

__all__ = [
    "AVERAGES",
    "METRICS",
    "ClassRow",
    "Predictions",
    "Report",
    "ShownVideo",
    "accuracies",
    "best_labels",
    "class_rows",
    "make_score_fn",
    "predict_videos",
    "prediction_rows",
    "render_report",
    "write_results",
]
