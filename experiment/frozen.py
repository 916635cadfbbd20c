"""The frozen model of a job: the workdir's checkpoint, else `init_from`."""

import logging
from typing import Any

import jax

import timesformer_jax as tsf
from experiment.checks import check_checkpoint
from experiment.follow import make_model
from experiment.setup import Run
from timesformer_jax import training
from timesformer_jax.features import folder_at
from timesformer_jax.modeling import describe_model, weights_of
from timesformer_jax.pretrained.orbax import find_checkpoint

log = logging.getLogger("timesformer_jax")


def check_frozen(config: Any, workdir: str, mode: str) -> None:
    """Raise `InputError` if there are no weights, or if the checkpoint belongs to another model; needs no data.

    `follow_weights` has already checked that `init_from` fits the model.
    """
    if find_checkpoint(folder_at(workdir) / "checkpoints") is None and not config.init_from:
        raise tsf.InputError(
            f"--mode={mode} needs a trained model: there is no checkpoint in {workdir}, and init_from isn't "
            "set. Give --config.init_from=... (a file, a name of the zoo, a run) or the --workdir of a run."
        )
    check_checkpoint(workdir, {"model": describe_model(make_model(config))}, needed=False)


def frozen(run: Run) -> tuple[Any, dict[str, Any]]:
    """Load the weights of the workdir's checkpoint, else of `init_from`, onto the devices, with notes on their source."""
    config, checkpoints = run.config, run.files.checkpoints
    if checkpoints.latest_step is not None:
        params, step = run.files.restore_params(run.model)
        log.info("Frozen: the checkpoint of step %d in %s.", step, run.workdir)
        if config.init_from:
            log.info("init_from=%s is ignored: it only applies to a workdir without a checkpoint.", config.init_from)
        return params, {"backbone": run.workdir, "backbone_step": step}
    pretrained = run.model.load_init_from(run.config, run.data.label_names)
    log.info("Frozen: the weights of init_from=%s:\n%s", config.init_from, pretrained.report)
    weights = jax.device_get(weights_of(pretrained.params, getattr(pretrained, "batch_stats", None)))
    placed = jax.device_put(weights, training.weight_sharding(weights, run.model.mesh))
    return placed, {"backbone": config.init_from, "backbone_step": None}
