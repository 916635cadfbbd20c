"""`--mode=eval`, and the end of training: every video's scores, the accuracies, the two files."""

import logging
from typing import Any

import jax

from experiment.setup import Job
from timesformer_jax import evaluation
from timesformer_jax.modeling import describe_model

log = logging.getLogger("timesformer_jax")


def test(job: Job, params: Any, step: int) -> None:
    """Scores every video of `eval.split` with all its views; writes results.json and predictions.jsonl."""
    options = job.config.eval
    views = {"num_clips": options.num_clips, "num_crops": options.num_crops}
    predictions = job.predict(params, options.split, **views)
    unreadable = job.data.left_out.get(options.split, {})
    results = {
        "split": options.split,
        "num_videos": len(predictions.names),
        "unreadable": len(unreadable),
        **views,
        "placement": job.clips.placement,
        "average": options.average,
        **evaluation.accuracies(predictions),
        "step": step,
        "model": describe_model(job.model),
    }
    if jax.process_index() == 0:
        rows = evaluation.prediction_rows(predictions, job.data.label_names, unreadable)
        evaluation.write_results(job.workdir, results, rows)
    log.info(
        "Test on %d videos of '%s' (%d more can't be read), %d clip(s) x %d crop(s): top-1 %.2f %%, top-5 %.2f %%. "
        "See %s/results.json.",
        results["num_videos"],
        options.split,
        len(unreadable),
        options.num_clips,
        options.num_crops,
        100 * results["top1"],
        100 * results["top5"],
        job.workdir,
    )
