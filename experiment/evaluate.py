"""`--mode=eval`, and the end of training: every video's scores, the metrics, the files."""

import dataclasses
import logging
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from etils import epath

from experiment.setup import Job
from timesformer_jax import evaluation
from timesformer_jax.evaluation import ClipScores, PartialEvaluation
from timesformer_jax.modeling import describe_model
from timesformer_jax.preemption import watch_preemption
from timesformer_jax.progress import Progress
from timesformer_jax.video import nearest_clips

log = logging.getLogger("timesformer_jax")

PARTIAL = "test.part"
"""The folder in the workdir where a test that was stopped finds what it had."""


def evaluate(job: Job, params: Any, step: int) -> None:
    """Scores every video of `eval.split` with all its views; writes results.json, predictions.jsonl and confusion.csv.

    Resumes the same test if that was stopped. Raises `Preempted` after SIGTERM or Ctrl-C.
    """
    job.lock("eval")
    if jax.process_index() == 0:
        evaluation.finish_results(job.workdir)
    options = job.config.eval
    scores, partial = _score(job, params, step)
    predictions = scores.predictions(options.average)
    unreadable = job.data.left_out.get(options.split, {})
    results = {
        "split": options.split,
        "num_videos": len(predictions.names),
        "unreadable": len(unreadable),
        **dataclasses.asdict(job.views),
        "placement": job.clips.placement,
        "preprocess": job.preprocess.as_dict(),
        "average": options.average,
        **evaluation.figures(scores, options.average, _subsets(job, scores)),
        "step": step,
        "model": describe_model(job.model),
        **({"note": job.note} if job.note else {}),
    }
    if jax.process_index() == 0:
        names = job.data.label_names
        rows = evaluation.prediction_rows(predictions, names, unreadable)
        confusion = None if job.data.several else (evaluation.confusion_matrix(predictions), names)
        evaluation.write_results(job.workdir, results, rows, confusion)
        partial.delete()
    low, high = results["intervals"]["top1"]
    log.info(
        "Test on %d videos of '%s' (%d more can't be read), %d clip(s) x %d crop(s): top-1 %.2f %% (95 %% interval %.2f to "
        "%.2f), top-5 %.2f %%. See %s/results.json.",
        results["num_videos"],
        options.split,
        len(unreadable),
        options.num_clips,
        options.num_crops,
        100 * results["top1"],
        100 * low,
        100 * high,
        100 * results["top5"],
        job.workdir,
    )


def _score(job: Job, params: Any, step: int) -> tuple[ClipScores, PartialEvaluation]:
    """Every clip's scores, those of a test that was stopped among them; and what to delete when the results are written."""
    split = job.config.eval.split
    batches = job.eval_batches(split, job.views)
    description = {
        "step": step,
        "params": evaluation.fingerprint(params, job.mesh),
        "model": describe_model(job.model),
        "data": job.data.describe(split),
        "views": dataclasses.asdict(job.views),
        "preprocess": job.preprocess.as_dict(),
        "batch_size": job.eval_batch_size,
        "processes": [jax.process_count(), job.share.count],
    }
    partial = PartialEvaluation(str(epath.Path(job.workdir) / PARTIAL), description, len(batches))
    progress = Progress(
        len(batches), "test", unit="batch", units="batches", initial=partial.num_done, quiet=jax.process_index() > 0
    )
    with progress, watch_preemption("the batches that are done") as stops:

        def incoming() -> Iterator[dict[str, np.ndarray]]:
            batches.skip(partial.num_done)
            for done in range(partial.num_done, len(batches)):
                if stops():
                    raise stops.preempted(f"{done} of {len(batches)} batches of the test are done")
                yield next(batches)
                progress.update()

        options: dict[str, Any] = {"num_crops": job.views.num_crops, "mesh": job.mesh, "objective": job.objective}
        return evaluation.score_clips(job.score, params, incoming(), **options, partial=partial), partial


def _subsets(job: Job, scores: ClipScores) -> dict[int, list[int]]:
    """Number of clips -> which clips of each video a test with so many would have, where every video has all of them."""
    total, placement = job.config.eval.num_clips, job.clips.placement
    if total == 1 or placement == "tiled" or scores.clips_per_video != total:
        return {}
    return {count: nearest_clips(count, of=total, placement=placement) for count in range(1, total + 1)}
