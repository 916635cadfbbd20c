"""Evaluation on batches from any source: multi-view scores, metrics, result files and the report."""

from timesformer_jax.atomic_write import write_whole
from timesformer_jax.evaluation.clip_scores import (
    AVERAGE_NAMES,
    AVERAGES,
    ClipRows,
    ClipScores,
    Predictions,
    check_average,
)
from timesformer_jax.evaluation.comparison import ClassChange, Comparison, compare_predictions, paired_interval
from timesformer_jax.evaluation.figures import Curve, Points, Timeline
from timesformer_jax.evaluation.metrics import (
    METRICS,
    ClassAccuracies,
    accuracies,
    class_accuracies,
    confusion_matrix,
    intervals,
    label_ranks,
    mean_loss,
    measure,
    proportion_intervals,
    wilson_interval,
)
from timesformer_jax.evaluation.multi_view import make_score_fn, predict_videos, score_clips
from timesformer_jax.evaluation.partial import PartialEvaluation, fingerprint
from timesformer_jax.evaluation.render import render_report
from timesformer_jax.evaluation.report import (
    AVERAGE_TITLES,
    TITLES,
    ClassRow,
    Report,
    Row,
    ShownVideo,
    class_rows,
    pick_examples,
    pictured_videos,
)
from timesformer_jax.evaluation.results import (
    best_labels,
    figures,
    finish_results,
    is_right,
    labels_of,
    parse_rows,
    prediction_rows,
    read_results,
    write_results,
)
from timesformer_jax.renamed import renamed

__all__ = [
    "AVERAGES",
    "AVERAGE_NAMES",
    "AVERAGE_TITLES",
    "METRICS",
    "TITLES",
    "ClassAccuracies",
    "ClassChange",
    "ClassRow",
    "ClipRows",
    "ClipScores",
    "Comparison",
    "Curve",
    "PartialEvaluation",
    "Points",
    "Predictions",
    "Report",
    "Row",
    "ShownVideo",
    "Timeline",
    "accuracies",
    "best_labels",
    "check_average",
    "class_accuracies",
    "class_rows",
    "compare_predictions",
    "confusion_matrix",
    "figures",
    "fingerprint",
    "finish_results",
    "intervals",
    "is_right",
    "label_ranks",
    "labels_of",
    "make_score_fn",
    "mean_loss",
    "measure",
    "paired_interval",
    "parse_rows",
    "pick_examples",
    "pictured_videos",
    "predict_videos",
    "prediction_rows",
    "proportion_intervals",
    "read_results",
    "render_report",
    "score_clips",
    "wilson_interval",
    "write_results",
    "write_whole",
]

__getattr__ = renamed(__name__, {"PartialTest": "PartialEvaluation"})
