"""`--mode=eval`, and the end of training: score every video, compute the metrics, write the files."""

import dataclasses
import logging
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from etils import epath

from experiment.files import lock_workdir
from experiment.setup import Run
from input_pipeline import EvalViews
from timesformer_jax import evaluation
from timesformer_jax.evaluation import ClipScores, PartialEvaluation
from timesformer_jax.modeling import describe_model
from timesformer_jax.preemption import watch_preemption
from timesformer_jax.progress import Progress
from timesformer_jax.video import nearest_clips

log = logging.getLogger("timesformer_jax")

PARTIAL = "test.part"
"""Folder in the workdir with the progress of an interrupted evaluation."""


def evaluate(run: Run, params: Any, step: int) -> None:
    """Score every video of `eval.split` with all its views, and write results.json, predictions.jsonl and confusion.csv.

    An interrupted evaluation is resumed if its checkpoint, data and settings were the same. Raises `Preempted` after SIGTERM or
    Ctrl-C.
    """
    lock_workdir(run.workdir, "eval")
    if jax.process_index() == 0:
        evaluation.finish_results(run.workdir)
    options = run.config.eval
    scores, partial = _score(run, params, step)
    predictions = scores.predictions(options.average)
    unreadable = run.data.dataset.left_out.get(options.split, {})
    results = {
        "split": options.split,
        "num_videos": len(predictions.names),
        "unreadable": len(unreadable),
        "num_clips": _clips_per_video(run, predictions.num_views),
        "num_crops": options.num_crops,
        "placement": run.data.clips.placement,
        "preprocess": run.files.preprocess.as_dict(),
        "average": options.average,
        **evaluation.figures(scores, options.average, _subsets(run, scores)),
        "step": step,
        "model": describe_model(run.model.module),
        **({"note": run.files.note} if run.files.note else {}),
    }
    if jax.process_index() == 0:
        names = run.data.label_names
        rows = evaluation.prediction_rows(predictions, names, unreadable)
        confusion = None if run.data.dataset.several else (evaluation.confusion_matrix(predictions), names)
        evaluation.write_results(run.workdir, results, rows, confusion)
        partial.delete()
    low, high = results["intervals"]["top1"]
    log.info(
        "Evaluation on %d videos of '%s' (%d more can't be read), %g clip(s) x %d crop(s): top-1 %.2f %% (95 %% interval %.2f "
        "to %.2f), top-5 %.2f %%. See %s/results.json.",
        results["num_videos"],
        options.split,
        len(unreadable),
        results["num_clips"],
        options.num_crops,
        100 * results["top1"],
        100 * low,
        100 * high,
        100 * results["top5"],
        run.workdir,
    )


def _score(run: Run, params: Any, step: int) -> tuple[ClipScores, PartialEvaluation]:
    """Score every clip, resuming an interrupted evaluation; also returns the progress to delete once results are written."""
    split = run.config.eval.split
    batches = run.data.eval_batches(split, run.data.views)
    description = {
        "step": step,
        "params": evaluation.fingerprint(params, run.model.mesh),
        "model": describe_model(run.model.module),
        "data": run.data.dataset.describe(split),
        "views": dataclasses.asdict(run.data.views),
        "preprocess": run.files.preprocess.as_dict(),
        "batch_size": run.data.eval_batch_size,
        "processes": [jax.process_count(), run.data.share.count],
    }
    partial = PartialEvaluation(str(epath.Path(run.workdir) / PARTIAL), description, len(batches))
    progress = Progress(
        len(batches), "test", unit="batch", units="batches", initial=partial.num_done, quiet=jax.process_index() > 0
    )
    with progress, watch_preemption("the batches that are done") as stops:

        def incoming() -> Iterator[dict[str, np.ndarray]]:
            batches.skip(partial.num_done)
            for done in range(partial.num_done, len(batches)):
                if stops():
                    raise stops.preempted(f"{done} of {len(batches)} batches are evaluated")
                yield next(batches)
                progress.update()

        options: dict[str, Any] = {
            "num_crops": run.data.views.num_crops,
            "mesh": run.model.mesh,
            "objective": run.model.objective,
        }
        return evaluation.score_clips(run.model.score, params, incoming(), **options, partial=partial), partial


def score_split(
    run: Run, params: Any, split: str, views: EvalViews | None, *, between: Callable[[], None] | None = None
) -> ClipScores:
    """Score every clip of a split; the scores are complete in every process.

    Args:
        run: The run.
        params: Parameters of its model.
        split: "train" or "val".
        views: Views of each video; None for a single one.
        between: Called before every batch; may raise.
    """

    def batches() -> Iterator[dict[str, np.ndarray]]:
        for batch in run.data.eval_batches(split, views):
            if between is not None:
                between()
            yield batch

    num_crops = 1 if views is None else views.num_crops
    options: dict[str, Any] = {"num_crops": num_crops, "mesh": run.model.mesh, "objective": run.model.objective}
    return evaluation.score_clips(run.model.score, params, batches(), **options)


def _clips_per_video(run: Run, num_views: np.ndarray) -> float:
    """Number of clips of each video; their mean, rounded to a tenth, if they cover the videos ("tiled")."""
    if run.data.clips.placement != "tiled":
        return run.data.views.num_clips
    return round(float(num_views.mean()) / run.data.views.num_crops, 1)


def _subsets(run: Run, scores: ClipScores) -> dict[int, list[int]]:
    """Map smaller clip counts to the evaluated clips nearest to their sampling positions; empty if not applicable."""
    total, placement = run.config.eval.num_clips, run.data.clips.placement
    if total == 1 or placement == "tiled" or scores.clips_per_video != total:
        return {}
    return {count: nearest_clips(count, of=total, placement=placement) for count in range(1, total + 1)}
