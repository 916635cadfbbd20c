"""Set up a run from its config: data, model and files. Everything is checked before the data are prepared."""

import functools
import logging
from typing import Any, NamedTuple

from jax.sharding import Mesh

import timesformer_jax as tsf
from experiment.architectures import is_cnn
from experiment.checks import (
    OBJECTIVES,
    check_checkpoint,
    check_config,
    check_labels,
    check_objective,
    check_workdir,
    make_workdir,
)
from experiment.data import RunData, clip_options
from experiment.files import RunFiles, describe_fold, describe_run, lock_workdir
from experiment.follow import make_model
from experiment.model import RunModel
from experiment.modes import MODES, Mode
from experiment.sections import arguments_of
from input_pipeline import ClipOptions, EvalViews, MixingOptions, PixelOptions, check_clips_per_video, open_dataset
from timesformer_jax import training
from timesformer_jax.modeling import describe_model, num_blocks

log = logging.getLogger("timesformer_jax")


class Run(NamedTuple):
    """A run that is set up."""

    config: Any
    """Config with every field set, as `follow_weights` returns it."""
    workdir: str
    """Folder of the run, local or in a bucket."""
    data: RunData
    """Data set and batches."""
    model: RunModel
    """Model on its mesh."""
    files: RunFiles
    """Checkpoints and locks."""


def set_up(config: Any, workdir: str, mode: str, *, lock: bool = True) -> Run:
    """Check the config, open the data, make the model.

    Args:
        config: Config with every field set, as `follow_weights` returns it.
        workdir: The run's folder, local or in a bucket; created if it doesn't exist.
        mode: A key of `MODES`.
        lock: Whether to take the mode's lock.

    Raises:
        InputError: If the config, the data or the workdir can't be used.
    """
    needs = MODES[mode]
    check_config(config, needs.trains)
    mesh: Mesh = training.make_mesh(**config.mesh)
    training.batch_share(mesh)  # refuses a mesh that divides the clips unevenly, before the data are opened
    module = make_model(config)
    training.check_mesh(module, mesh)
    clips = clip_options(config)
    with arguments_of(config, "pixels"):
        pixels = PixelOptions(**config.pixels)
    with arguments_of(config, "mixing"):
        mixing = MixingOptions(**config.mixing)
    with arguments_of(config, "eval"):
        views = EvalViews(num_clips=config.eval.num_clips, num_crops=config.eval.num_crops)
    if needs.needs_training_batches and not needs.needs_checkpoint:
        _check_batches(config, mesh, mixing, clips)
    if config.data.get("short_side", clips.short_side[0]) < clips.short_side[0]:
        raise tsf.InputError(
            f"data.short_side={config.data.short_side} would keep smaller frames than clips.short_side="
            f"{clips.short_side} needs: use at least {clips.short_side[0]}."
        )
    _check_files(config, workdir, module, needs)
    if not needs.needs_checkpoint:
        make_workdir(workdir)
    if lock and needs.locks:
        lock_workdir(workdir, mode)
    # Only `--mode=show` accepts any data.
    check = functools.partial(check_labels, workdir) if needs.needs_checkpoint or needs.locks else None
    data = RunData(config, open_dataset(**config.data, check=check), clips, views, mesh)
    objective = OBJECTIVES[data.dataset.several]
    check_objective(workdir, objective)
    names = data.label_names
    module = module.clone(num_classes=len(names), **({"objective": objective} if is_cnn(config) else {}))
    model = RunModel(module, mesh, objective, pixels.for_labels(names), mixing)
    return Run(config, workdir, data, model, RunFiles(config, workdir, needs, model, names, data.num_videos("train")))


def _check_batches(config: Any, mesh: Mesh, mixing: MixingOptions, clips: ClipOptions) -> None:
    """Raise `InputError` if training batches can't be divided among devices, micro-batches, pairs and videos."""
    micro_batches = config.train.accumulation
    local = training.local_batch_size("train.batch_size", config.train.batch_size, mesh, micro_batches)
    if mixing.mixes and config.train.batch_size < 2 * micro_batches:
        raise tsf.InputError(
            f"mixing.mixup and mixing.cutmix mix the clips of a micro-batch, which has only one clip "
            f"(train.batch_size={config.train.batch_size}, train.accumulation={micro_batches}): give it two, or set both to 0."
        )
    check_clips_per_video(clips, local)


def _check_files(config: Any, workdir: str, module: Any, mode: Mode) -> None:
    """Raise `InputError` if the workdir, the checkpoint or the optimizer can't be used; checks only what needs no data."""
    check_workdir(workdir)
    if not mode.trains:
        same_videos = {"run": describe_fold(config)} if mode.needs_checkpoint else {}
        check_checkpoint(workdir, {"model": describe_model(module), **same_videos}, needed=mode.needs_checkpoint)
        return
    times = {"num_epochs": config.train.num_epochs, "steps_per_epoch": 1000.0}  # the actual number depends on the data
    with arguments_of(config, "optimizer"):
        training.make_optimizer(**config.optimizer, depth=num_blocks(module), **times)
    check_checkpoint(workdir, describe_run(config, module), needed=False)
