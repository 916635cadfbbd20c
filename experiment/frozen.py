"""The model that a job looks at and leaves as it is: the workdir's checkpoint, else `init_from`."""

import logging
from typing import Any

import jax

import timesformer_jax as tsf
from experiment.checks import check_checkpoint
from experiment.follow import make_model
from experiment.setup import Run
from timesformer_jax import training
from timesformer_jax.features import folder_at
from timesformer_jax.modeling import describe_model
from timesformer_jax.pretrained.orbax import find_checkpoint

log = logging.getLogger("timesformer_jax")


def check_frozen(config: Any, workdir: str, mode: str) -> None:
    """Raises `InputError` if there is neither, or if the checkpoint is another model's; needs no data.

    Whether `init_from` fits the model has been checked by `follow_weights`.
    """
    if find_checkpoint(folder_at(workdir) / "checkpoints") is None and not config.init_from:
        raise tsf.InputError(
            f"--mode={mode} needs a model that has learned something: there is no checkpoint in {workdir}, and init_from isn't "
            "set. Give --config.init_from=... (a file, a name of the zoo, a run) or the --workdir of a run."
        )
    check_checkpoint(workdir, {"model": describe_model(make_model(config))}, needed=False)


def frozen(run: Run) -> tuple[Any, dict[str, Any]]:
    """The parameters of the workdir's checkpoint, else of `init_from`, on the devices; and which they are."""
    config, checkpoints = run.config, run.files.checkpoints
    if checkpoints.latest_step is not None:
        params, step = run.files.restore_params(run.model)
        log.info("Frozen: the checkpoint of step %d in %s.", step, run.workdir)
        if config.init_from:
            log.info("init_from=%s is left aside: it is for a workdir without a checkpoint.", config.init_from)
        return params, {"backbone": run.workdir, "backbone_step": step}
    pretrained = run.model.load_init_from(run.config, run.data.label_names)
    log.info("Frozen: the weights of init_from=%s:\n%s", config.init_from, pretrained.report)
    params = jax.device_get(pretrained.params)
    placed = jax.device_put(params, training.sharding_of(params, params, run.model.mesh))
    return placed, {"backbone": config.init_from, "backbone_step": None}
