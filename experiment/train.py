"""`--mode=train`: start, or resume from the workdir's newest checkpoint; train to the end, then evaluate."""

import contextlib
import functools
import itertools
import json
import logging
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from etils import epath

import timesformer_jax as tsf
from configs.folder import FIELDS
from configs.recipes import SMALL_DATA
from experiment.architectures import is_cnn, section_of
from experiment.evaluate import evaluate, score_split
from experiment.files import lock_of
from experiment.setup import Run
from experiment.show import show
from input_pipeline import mix_clips
from timesformer_jax import evaluation, training
from timesformer_jax.cost import count_multiply_adds
from timesformer_jax.features import folder_at
from timesformer_jax.modeling import num_blocks
from timesformer_jax.os_errors import sentence
from timesformer_jax.pretrained.writer_limits import describe_unsupported
from timesformer_jax.processes import from_first
from timesformer_jax.run_lock import check_unlocked
from timesformer_jax.state_files import write_json
from timesformer_jax.training.damaged import set_damaged_aside

log = logging.getLogger("timesformer_jax")

CONFIG = "config.json"
"""File in the workdir with all fields of the last training run's config."""
DEBUG_STEPS = 4
OVERFIT_STEPS = 500
OVERFIT_LOSS = 0.02
"""Loss that counts as zero: the right label has a probability of 98 %, or for multi-label clips all classes jointly."""
FEW_STEPS = 50
"""Number of steps below which fine-tuning logs a hint about the recipe for few videos."""


def adjust(config: Any, workdir: str) -> tuple[Any, str]:
    """Adjust the config and the workdir for `debug` and `overfit_batch`, which work in their own folder.

    Checks that no other process trains there. A damaged newest checkpoint is renamed before anything is read from it.
    """
    if config.debug or config.overfit_batch:
        config, workdir = _rehearsal(config, workdir)
    from_first(lambda: check_unlocked(*lock_of(workdir, "train")), "the workdir's lock to be checked")
    # Arrays are compared when the checkpoint is restored.
    set_damaged_aside(str(folder_at(workdir) / "checkpoints"), wholly=False)
    return config, workdir


def _rehearsal(config: Any, workdir: str) -> tuple[Any, str]:
    """Apply `debug` and `overfit_batch` to a config, and empty their folder."""
    config = config.copy_and_resolve_references()
    folder = epath.Path(workdir) / ("overfit_batch" if config.overfit_batch else "debug")
    from_first(lambda: _empty(folder), "the folder of the rehearsal to be emptied")
    if config.overfit_batch:
        pixels = {name: getattr(config.pixels, name) for name in ("channel_order", "mean", "std")}
        config.pixels.update({name: type(value)() for name, value in config.pixels.items() if isinstance(value, float)})
        config.pixels.update({"flip": "off", "rand_augment": (0, 0.0), **pixels})
        config.mixing.update({"mixup": 0.0, "cutmix": 0.0})
        model = section_of(config)
        model.update({name: 0.0 for name in model if name.endswith("_rate")})
        config.train.update({"label_smoothing": 0.0, "ema_decay": 0.0, "log_every_steps": 10})
        config.optimizer.update({"schedule": "constant", "steps": (), "warmup_epochs": 0.0, "weight_decay": 0.0})
    return config, str(folder)


REHEARSAL = ".rehearsal"
"""File that marks the folder of a rehearsal, which may be removed."""


def _empty(folder: Any) -> None:
    """Make an empty folder for a rehearsal, in place of that of an earlier one.

    Raises:
        InputError: If there is anything else, or it can't be made.
    """
    try:
        if folder.exists():
            check_unlocked(*lock_of(str(folder), "train"))
            if not (folder / REHEARSAL).exists() and any(folder.iterdir()):
                raise tsf.InputError(
                    f"{folder} may be more than a rehearsal, since it lacks the file {REHEARSAL}: delete it, move it away, or "
                    "give another --workdir."
                )
            folder.rmtree()
        folder.mkdir(parents=True)
        (folder / REHEARSAL).write_text("")
    except OSError as error:
        raise tsf.InputError(sentence(error, f"{folder} can't be emptied for a rehearsal")) from error


def train(run: Run) -> None:
    """Train to the end, then evaluate."""
    config, data = run.config, run.data.dataset
    num_videos = data.num_videos("train")
    steps_per_epoch = num_videos * run.data.clips.clips_per_video / config.train.batch_size
    total_steps = max(round(config.train.num_epochs * steps_per_epoch), 1)
    if config.debug:
        total_steps = min(total_steps, DEBUG_STEPS)
    if config.overfit_batch:
        total_steps = OVERFIT_STEPS
    overfit_loss = OVERFIT_LOSS / (len(data.label_names) if data.several else 1)  # the multi-label loss is a mean over classes
    optimizer = training.make_optimizer(
        **config.optimizer,
        depth=num_blocks(run.model.module),
        num_epochs=total_steps / steps_per_epoch,
        steps_per_epoch=steps_per_epoch,
    )
    state = _begin(run, optimizer.transformation, total_steps)
    first_step = int(state.step)
    # A checkpoint records the number of clips used so far; the run resumes with the next one.
    first_clip = run.files.checkpoints.pipeline.get("next_clip", first_step * config.train.batch_size)
    _tell(run, state, total_steps)
    step = _make_step(run, optimizer)
    plan = _make_plan(config, total_steps, steps_per_epoch, overfit_loss)
    if config.debug:
        show(run)
    if jax.process_index() == 0:
        write_json(epath.Path(run.workdir) / CONFIG, json.loads(config.to_json_best_effort()))
    losses: list[float] = []
    writer = _metric_writer(run.workdir)

    def write_scalars(step: int, scalars: Any) -> None:
        losses.extend([scalars["train/loss"]] if "train/loss" in scalars else [])
        writer.write_scalars(step, scalars)

    with contextlib.closing(writer):  # flushed even if training stops early
        state = training.train(
            state=state,
            train_step=step,
            batches=_batches(run, first_clip),
            mesh=run.model.mesh,
            plan=plan,
            learning_rate=optimizer.learning_rate,
            # The backward pass takes twice as many operations as the forward pass.
            flops_per_clip=3 * 2 * count_multiply_adds(run.model.module, for_logits=True),
            write_scalars=write_scalars,
            checkpoints=run.files.checkpoints,
            pipeline_state=lambda step: {"next_clip": first_clip + (step - first_step) * config.train.batch_size},
            evaluate=functools.partial(_validate, run),
            profile=str(epath.Path(run.workdir) / "profile") if config.profile else None,
        )
    if config.overfit_batch:
        _judge(losses[-1] if losses else None, overfit_loss, int(state.step))
        return
    evaluate(run, state.best_weights, int(state.step))


def _make_step(run: Run, optimizer: training.Optimizer) -> Any:
    """Make the jitted training step of the config."""
    config, model = run.config, run.model
    return training.make_train_step(
        model=model.module,
        optimizer=optimizer.transformation,
        prepare=model.prepare_training,
        mix=functools.partial(mix_clips, options=model.mixing) if model.mixing.mixes else None,
        seed=config.seed,
        mesh=model.mesh,
        objective=model.objective,
        label_smoothing=config.train.label_smoothing,
        accumulation=config.train.accumulation,
        ema_decay=config.train.ema_decay,
        trained=optimizer.trained,
        donate=not config.debug,
    )


def _make_plan(config: Any, total_steps: int, steps_per_epoch: float, overfit_loss: float) -> training.Plan:
    """Plan when the loop logs, evaluates, saves and ends."""

    def every(epochs: float) -> int:
        return total_steps + 1 if config.overfit_batch else max(round(epochs * steps_per_epoch), 1)

    return training.Plan(
        total_steps=total_steps,
        batch_size=config.train.batch_size,
        log_every=1 if config.debug else config.train.log_every_steps,
        evaluate_every=every(config.train.evaluate_every_epochs),
        checkpoint_every=every(config.train.checkpoint_every_epochs),
        most_skipped=config.train.max_skipped_steps,
        steps_per_epoch=steps_per_epoch,
        stop_below=overfit_loss if config.overfit_batch else -math.inf,
        compiled_ahead=not config.debug,
    )


def _begin(run: Run, optimizer: Any, total_steps: int) -> training.TrainState:
    """Start from the workdir's newest checkpoint, else the weights of `init_from`, else random weights, and log which."""
    config, ema, start = run.config, run.config.train.ema_decay > 0, {}
    if (step := run.files.checkpoints.latest_step) is not None:
        state = run.files.checkpoints.restore(training.state_shapes(run.model.module, optimizer, run.model.mesh, ema=ema))
        rest = f"{total_steps - step} steps to go" if step < total_steps else "nothing left to train"
        log.info("Resuming from the checkpoint of step %d in %s: %s.", step, run.workdir, rest)
        if config.init_from:
            log.info("init_from=%s is ignored: it only applies to a workdir without a checkpoint.", config.init_from)
        return state
    if config.init_from:
        pretrained = run.model.load_init_from(run.config, run.data.label_names)
        start = {"params": pretrained.params, "batch_stats": getattr(pretrained, "batch_stats", None)}
        log.info("Starting from the weights of init_from=%s:\n%s", config.init_from, pretrained.report)
    else:
        log.info("Starting from random weights (seed %d): neither a checkpoint nor init_from.", config.seed)
    return training.init_state(run.model.module, optimizer, config.seed, run.model.mesh, **start, ema=ema)


def _tell(run: Run, state: training.TrainState, total_steps: int) -> None:
    """Log the data, the model and the length of the training."""
    config, data = run.config, run.data.dataset
    names = data.label_names
    log.info("Labels: %s.", ", ".join(names[:20]) + (", ..." if len(names) > 20 else ""))
    log.info("Sharding of the parameters:\n%s", training.sharding_table(state.params, state.opt_state, run.model.mesh))
    shards = training.batch_shards(run.model.mesh)
    parts = config.train.accumulation
    log.info(
        "%d training and %d validation videos, %d labels; %s parameters; %d device(s) (%s); batches of %d clips: %d shard(s) x "
        "%d micro-batch(es) x %d; %d steps in %.4g epochs.",
        data.num_videos("train"),
        data.num_videos("val"),
        len(names),
        f"{sum(x.size for x in jax.tree.leaves(state.params)):,}",
        run.model.mesh.size,
        training.describe_mesh(run.model.mesh),
        config.train.batch_size,
        shards,
        parts,
        config.train.batch_size // shards // parts,
        total_steps,
        config.train.num_epochs,
    )
    steps = config.optimizer.steps if config.optimizer.schedule == "steps" else ()
    late = [begin for begin, _ in steps if not isinstance(begin, str) and begin >= config.train.num_epochs]
    if late:
        log.warning(
            "optimizer.steps begin at epoch %s, which this run of %.4g epochs does not reach: the learning rate stays higher "
            'than intended. Use other epochs, or fractions of the run, such as ("11/15", 0.1).',
            ", ".join(f"{begin:g}" for begin in late),
            config.train.num_epochs,
        )
    if note := run.files.note:
        log.info("%s", note)
    if hint := hint_at_small(config, data.num_videos("train"), total_steps):
        log.info("%s", hint)
    if not is_cnn(config) and (limits := describe_unsupported(run.model.module)):
        log.info("%s", limits)
    if config.pixels.flip == "auto":
        reason = {"on": "no label mentions a side", "off": "some labels mention a side"}
        log.info("Flips are %s: %s.", run.model.pixels.flip, reason[run.model.pixels.flip])


def hint_at_small(config: Any, num_videos: int, total_steps: int) -> str | None:
    """Suggest `finetune,small` if fine-tuning has fewer than `FEW_STEPS` steps and that variant would make more.

    Args:
        config: The run's config; no hint without `init_from`.
        num_videos: Size of the training split.
        total_steps: Optimizer steps of the whole run.
    """
    if not config.init_from or config.debug or config.overfit_batch or config.data.name not in FIELDS:
        return None
    small = round(SMALL_DATA["train"]["num_epochs"] * num_videos / SMALL_DATA["train"]["batch_size"])
    if total_steps >= min(FEW_STEPS, small):
        return None
    return (
        f"{total_steps} steps in all are few to learn from; --config=configs/folder.py:{config.data.name},finetune,small "
        f"would make {small} (docs/small_data.md)."
    )


def _batches(run: Run, first_clip: int) -> Iterator[dict[str, np.ndarray]]:
    batches = run.data.training_batches(run.data.local_batch_size, first_clip)
    if not (run.config.debug or run.config.overfit_batch):
        return batches
    first = next(batches)
    described = ", ".join(f"{name} {array.dtype} {list(array.shape)}" for name, array in first.items())
    log.info("This process's share of a batch: %s.", described)
    return itertools.repeat(first) if run.config.overfit_batch else itertools.chain([first], batches)


def _validate(run: Run, state: training.TrainState, check: Callable[[], None]) -> tuple[dict[str, float], float]:
    """Evaluate one clip and crop of every validation video; `check` is called between batches."""
    scores = score_split(run, state.best_weights, "val", None, between=check)
    found = evaluation.accuracies(scores.predictions(run.config.eval.average))
    figures = {"loss": evaluation.mean_loss(scores), **found}
    return {f"val/{name}": value for name, value in figures.items()}, found.get("map", found["top1"])


def _judge(loss: float | None, low_enough: float, steps: int) -> None:
    if loss is None or not loss < low_enough:
        raise tsf.InputError(
            f"overfit_batch: the loss of a single batch is still {loss} after {steps} steps, not below {low_enough:.2g}. Try "
            "another optimizer.learning_rate; if that doesn't help, look at the clips and labels with --mode=show."
        )
    log.info("overfit_batch: the loss of the first batch is %.4f after %d steps, as it should be.", loss, steps)


def _metric_writer(workdir: str) -> Any:
    """Make a writer of TensorBoard files and the log in the first process."""
    from clu import metric_writers  # loads TensorFlow, so only after input_pipeline has silenced it

    writers = [metric_writers.SummaryWriter(workdir), metric_writers.LoggingWriter()]
    return metric_writers.MultiWriter(writers if jax.process_index() == 0 else [])
