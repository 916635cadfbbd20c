"""`--mode=probe`: evaluate frozen features by training many heads on them at once."""

import logging
import math
import sys
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from etils import epath
from tqdm import tqdm

import timesformer_jax as tsf
from experiment.architectures import check_reads
from experiment.follow import make_model
from experiment.frozen import check_frozen, frozen
from experiment.probe_plan import ProbePlan, describe_edges, plan_probe
from experiment.setup import Run
from timesformer_jax import evaluation, training
from timesformer_jax.features import folder_at
from timesformer_jax.modeling import describe_model, variables_of, weights_of
from timesformer_jax.pretrained.orbax import find_checkpoint, write_checkpoint
from timesformer_jax.processes import wait_for_all
from timesformer_jax.progress import number
from timesformer_jax.state_files import write_json
from timesformer_jax.training.clock import DeviceClock, Timing
from timesformer_jax.training.log_lines import epoch_text, rate_words

log = logging.getLogger("timesformer_jax")

FOLDER, FILE, TABLE = "probe", "probe.npz", "probe.json"
"""Names in the workdir: the model with the best linear head, the best attentive probe, and the accuracy of every head."""

Accuracies = dict[str, float | None]


def check_probe(config: Any, workdir: str) -> None:
    """Raise `InputError` for invalid options, before the data are prepared, which can take hours."""
    options = config.probe
    training.probe_rates(options.learning_rates, options.weight_decays)
    check_reads(config, "probe.kind", options.kind)
    _make_probe(config, make_model(config))
    if options.num_epochs is not None and not 0 < options.num_epochs < math.inf:
        raise tsf.InputError(f"probe.num_epochs must be above 0 and finite, got {options.num_epochs}.")
    if options.heads_at_once < 0:
        raise tsf.InputError(f"probe.heads_at_once must be at least 0 (all at once), got {options.heads_at_once}.")
    training.local_batch_size(*_batch_size(config), training.make_mesh(**config.mesh))
    folder = folder_at(workdir) / FOLDER
    if folder.exists() and find_checkpoint(folder) != folder:
        raise tsf.InputError(f"{folder}, where the probe is saved, is not a checkpoint of this project: move it away.")
    check_frozen(config, workdir, "probe")


def probe(run: Run) -> None:
    """Train all heads on the frozen model's features, evaluate them, and write probe.json and the best head.

    Nothing is written before the end, and no file is written partially; if interrupted, the same command starts over.
    """
    config, options = run.config, run.config.probe
    plan = _plan(run)
    batch_size, steps_per_epoch, total_steps = plan.batch_size, plan.steps_per_epoch, plan.total_steps
    local_batch_size = training.local_batch_size(_batch_size(config)[0], batch_size, run.model.mesh)
    rates = training.probe_rates(options.learning_rates, options.weight_decays)
    backbone, source = frozen(run)
    optimizer = training.make_probe_optimizer(
        rates=rates, num_epochs=total_steps / steps_per_epoch, steps_per_epoch=steps_per_epoch
    )
    module = _make_probe(config, run.model.module)
    parts = {"model": run.model.module, "probe": module, "kind": options.kind, "mesh": run.model.mesh}
    state = training.init_probe_state(**parts, optimizer=optimizer, num_heads=len(rates), seed=config.seed)
    each = {"objective": run.model.objective, "heads_at_once": options.heads_at_once}
    step_fn = training.make_probe_step(
        **parts, **each, optimizer=optimizer, prepare=run.model.prepare_training, seed=config.seed
    )
    score = training.make_probe_score_fn(**parts, **each, prepare=run.model.prepare_eval)
    log.info(
        "Probing (%s): %d heads of %s parameters each on %d training videos, %d steps of batches of %d clips.",
        options.kind,
        len(rates),
        f"{sum(x.size for x in jax.tree.leaves(state.params)) // len(rates):,}",
        run.data.num_videos("train"),
        total_steps,
        batch_size,
    )
    if plan.note:
        log.info("%s", plan.note)
    evaluate_every = max(round(config.train.evaluate_every_epochs * plan.raised * steps_per_epoch), 1)
    clock = DeviceClock()
    incoming = clock.batches(run.data.training_batches(local_batch_size, first_clip=0))
    bar = tqdm(total=total_steps, desc="probe", unit="step", dynamic_ncols=True, disable=not sys.stderr.isatty() or _further())
    try:
        for step in range(1, total_steps + 1):
            state, metrics = step_fn(state, backbone, training.to_devices(next(incoming), run.model.mesh))
            clock.dispatched(metrics)
            bar.update()
            if step == 1:  # exclude compilation and filling the pipeline from the rates
                clock.restart()
            if step % config.train.log_every_steps == 0 or step == total_steps:
                figures = jax.device_get(metrics)
                _tell_step(figures, step, total_steps, step / steps_per_epoch, clock.take(step), batch_size)
            if step % evaluate_every == 0 and step < total_steps:
                found, _ = _evaluate(run, score, (backbone, state.params), len(rates))
                log.info("After %d of %d steps the best head is %s.", step, total_steps, _named(found, rates))
                clock.restart()  # exclude the evaluation from the next log line
    finally:
        bar.close()
        clock.close()
    found, num_videos = _evaluate(run, score, (backbone, state.params), len(rates))
    notes = {"steps": total_steps, "num_videos": num_videos, "num_epochs": plan.num_epochs, "batch_size": batch_size}
    _write(run, module, backbone, state.params, rates, found, {**notes, **source})
    for edge in describe_edges(rates, [row[_judged_by(found)] for row in found]):
        log.warning("%s", edge)


def _make_probe(config: Any, model: Any) -> Any:
    options = config.probe
    return training.make_probe(kind=options.kind, model=model, depth=options.depth, num_heads=options.num_heads)


def _batch_size(config: Any) -> tuple[str, int]:
    """Batch size, and the name of the field that sets it."""
    given = config.probe.batch_size
    return ("train.batch_size", config.train.batch_size) if given is None else ("probe.batch_size", given)


def _plan(run: Run) -> ProbePlan:
    """Plan the training of this job's probe."""
    config, per_video = run.config, run.data.clips.clips_per_video
    return plan_probe(
        run.data.num_videos("train") * per_video,
        num_epochs=config.probe.num_epochs,
        batch_size=config.probe.batch_size,
        train_batch_size=config.train.batch_size,
        multiple=math.lcm(training.batch_shards(run.model.mesh), run.data.share.count * per_video),
    )


def _further() -> bool:
    """Return True in all processes but the first, which logs and writes."""
    return jax.process_index() > 0


def _tell_step(metrics: Any, step: int, total_steps: int, epoch: float, timing: Timing | None, batch_size: int) -> None:
    finite = np.isfinite(metrics["loss"])
    words = [
        f"step {step}/{total_steps} (epoch {epoch_text(epoch)})",
        f"loss {number(float(metrics['loss'][finite].min(initial=math.inf)))} (best head)",
        f"{number(float(metrics['loss'][finite].max(initial=-math.inf)))} (worst head)",
    ]
    if timing is not None:
        seconds = timing.seconds / timing.steps
        rates = {"clips_per_second": batch_size / seconds, "waiting_for_data": timing.waited / timing.seconds}
        words += rate_words(rates, (total_steps - step) * seconds if step < total_steps else None)
    if not finite.all():
        words.append(f"{(~finite).sum()} of {len(finite)} heads have diverged")
    log.info("%s", " ".join(words))


def _evaluate(run: Run, score: Any, params: Any, num_heads: int) -> tuple[list[Accuracies], int]:
    """Evaluate all heads on the validation videos, one clip and crop each, with a single pass of the model.

    Returns:
        The accuracies of each head, None if it has diverged, and the number of videos.
    """
    predictions = evaluation.predict_videos(
        score,
        params,
        run.data.eval_batches("val", None),
        average="probabilities",
        averages=("probabilities",),
        num_crops=1,
        mesh=run.model.mesh,
        objective=run.model.objective,
    )
    by_head = predictions.scores.reshape(len(predictions.names), num_heads, -1)
    found: list[Accuracies] = []
    for i in range(num_heads):
        finite = np.isfinite(by_head[:, i]).all()
        shown = predictions._replace(scores=by_head[:, i] if finite else np.zeros_like(by_head[:, i]))
        found.append({name: value if finite else None for name, value in evaluation.accuracies(shown).items()})
    return found, len(predictions.names)


def _best(found: Sequence[Accuracies]) -> int:
    """Index of the best head, by mean average precision if available, else by top-1; ties go to the first.

    Raises `InputError` if all heads have diverged.
    """
    name = _judged_by(found)
    rated = [-math.inf if (value := row[name]) is None else value for row in found]
    if max(rated) == -math.inf:
        raise tsf.InputError("Every head of the probe has diverged: lower probe.learning_rates.")
    return int(np.argmax(rated))


def _judged_by(found: Sequence[Accuracies]) -> str:
    """Name of the accuracy that selects the best head."""
    return "map" if "map" in found[0] else "top1"


def _named(found: Sequence[Accuracies], rates: Sequence[training.Rates]) -> str:
    best = _best(found)
    figures = ", ".join(f"{name} {value:.2%}" for name, value in found[best].items())
    return f"number {best} (learning rate {rates[best].learning_rate:g}, weight decay {rates[best].weight_decay:g}): {figures}"


def _intervals(found: Accuracies, num_videos: int) -> dict[str, tuple[float, float]]:
    known = {name: value for name, value in found.items() if value is not None}
    return evaluation.proportion_intervals(known, num_videos)


def _table(found: Sequence[Accuracies], rates: Sequence[training.Rates]) -> str:
    lines = [f"{'head':>4} {'learning rate':>14} {'weight decay':>13} " + " ".join(f"{name:>9}" for name in found[0])]
    for i, (row, each) in enumerate(zip(found, rates, strict=True)):
        figures = " ".join(f"{'diverged' if value is None else format(value, '.2%'):>9}" for value in row.values())
        lines.append(f"{i:>4} {each.learning_rate:>14g} {each.weight_decay:>13g} {figures}")
    return "\n".join(lines)


def _write(
    run: Run,
    module: Any,
    backbone: Any,
    heads: Any,
    rates: Sequence[training.Rates],
    found: Sequence[Accuracies],
    notes: dict[str, Any],
) -> None:
    """Write the best head and the table, replacing those of an earlier probe.

    Args:
        run: The run.
        module: Flax module of one head.
        backbone: Parameters of the frozen model.
        heads: Stacked parameters of all heads.
        rates: Hyperparameters of each head.
        found: Accuracies of each head.
        notes: Further entries of the table; must include `num_videos`.
    """
    options, best = run.config.probe, _best(found)
    log.info("Every head on %d videos of 'val', 1 clip x 1 crop:\n%s", notes["num_videos"], _table(found, rates))
    params = jax.jit(lambda heads: jax.tree.map(lambda x: x[best], heads))(heads)
    folder, file, table = (folder_at(run.workdir) / name for name in (FOLDER, FILE, TABLE))
    if not _further():
        for old in (table, file):  # the table first, so that it always describes the probe next to it
            old.unlink(missing_ok=True)
        if folder.exists():
            epath.Path(folder).rmtree()
    wait_for_all("the old probe to be removed")
    results = [{**each._asdict(), **row} for each, row in zip(rates, found, strict=True)]
    saved = folder if options.kind == "linear" else file
    results = {
        "kind": options.kind,
        **notes,
        "split": "val",
        "num_clips": 1,
        "num_crops": 1,
        "heads": results,
        "best": {"head": best, **results[best], "intervals": _intervals(found[best], notes["num_videos"])},
        "saved": saved.name,
        "model": describe_model(run.model.module),
    }
    model_notes = {
        "model": describe_model(run.model.module),
        "data": {"label_names": run.data.label_names},
        **run.files.notes,
    }
    about = {name: results[name] for name in ("kind", "backbone", "backbone_step", "best")}
    if options.kind == "linear":
        variables = variables_of(backbone)
        whole = weights_of({**variables["params"], **params}, variables.get("batch_stats"))
        write_checkpoint(folder, whole, {**model_notes, "probe": about})
    elif not _further():
        # For `Preprocess(**notes["preprocess"])`, so without the short sides that training draws from.
        notes_of_probe = {**model_notes, "preprocess": run.files.preprocess.as_dict(), **about}
        training.write_probe(file, module, jax.device_get(params), notes_of_probe)
    if not _further():
        write_json(table, results)
    wait_for_all("the probe to be written")
    low, high = results["best"]["intervals"]["top1"]
    log.info(
        "The best head is %s (top1: 95 %% interval %.2f%% to %.2f%%). It is in %s, the table in %s.",
        _named(found, rates),
        100 * low,
        100 * high,
        saved,
        table,
    )
