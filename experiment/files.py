"""Files of a run in its workdir: checkpoints, their description of the run, and locks."""

import logging
from typing import Any

import jax
import jax.numpy as jnp
from etils import epath
from flax import linen as nn

from experiment.data import describe_preprocess
from experiment.model import RunModel
from experiment.modes import MODES, Mode
from timesformer_jax import training
from timesformer_jax.modeling import describe_model, flatten_params, variables_of, weight_shapes
from timesformer_jax.pretrained.load_report import describe_not_finite
from timesformer_jax.processes import from_first
from timesformer_jax.run_lock import take_lock
from timesformer_jax.video import Preprocess

log = logging.getLogger("timesformer_jax")


class RunFiles:
    """Checkpoints of a workdir, and their description of the run.

    Attributes:
        workdir: The folder, local or in a bucket.
        checkpoints: Its checkpoints, read-only if the mode needs one.
    """

    def __init__(self, config: Any, workdir: str, mode: Mode, model: RunModel, label_names: list[str], num_videos: int):
        self.workdir, self._config, self._objective = workdir, config, model.objective
        description = {**describe_run(config, model.module), "data": {"label_names": label_names}}
        description["run"]["num_videos"] = num_videos
        self.checkpoints = training.Checkpoints(
            str(epath.Path(workdir) / "checkpoints"),
            description,
            notes=self.notes,
            read_only=mode.needs_checkpoint,
            clears_up=mode.trains,
        )

    @property
    def notes(self) -> dict[str, Any]:
        """JSON that `timesformer_jax.load` and `follow_weights` need besides the model and the label names."""
        short_sides = list(self._config.clips.short_side)  # training draws from these
        return {"preprocess": {**self.preprocess.as_dict(), "short_sides": short_sides}, "objective": self._objective}

    @property
    def preprocess(self) -> Preprocess:
        """Preprocessing with which `timesformer_jax.load` prepares videos as this run's evaluation does."""
        return describe_preprocess(self._config)

    @property
    def note(self) -> str | None:
        """The config's `note`; None if `init_from` is set."""
        return None if self._config.init_from else self._config.note

    def restore_params(self, model: RunModel) -> tuple[Any, int]:
        """Restore the weights of the checkpoint that `eval.checkpoint` selects, on the model's mesh, and its step."""
        best = self._config.eval.checkpoint == "best"
        step = self.checkpoints.best_step if best else None
        params, step = self.checkpoints.restore_params(model.module, model.mesh, step)
        _report_not_finite(params, step)
        return params, step


def describe_run(config: Any, module: nn.Module) -> dict[str, dict[str, Any]]:
    """Describe a run for its checkpoints, except for whatever depends on the data."""
    return {
        "model": describe_model(module),
        # Everything that determines the arrays of the optimizer's state.
        "optimizer": {
            "name": config.optimizer.name,
            "frozen": training.frozen_paths(config.optimizer.rates, variables_of(weight_shapes(module))["params"]),
            "ema": config.train.ema_decay > 0,
        },
        # The seed determines all random keys; steps and the schedule count batches.
        "run": {"seed": config.seed, "batch_size": config.train.batch_size, **describe_fold(config)},
    }


def describe_fold(config: Any) -> dict[str, int]:
    """Describe which of several official splits a run trains on; empty if its data set has one."""
    return {"fold": config.data.fold} if "fold" in config.data else {}


def lock_of(workdir: str, mode: str) -> tuple[Any, str]:
    """Return the arguments with which `take_lock` takes a workdir's lock for `mode`, a key of `MODES`."""
    return epath.Path(workdir) / f".{mode}.lock", f"{MODES[mode].locks} in {workdir}"


def lock_workdir(workdir: str, mode: str) -> None:
    """Take a workdir's lock for `mode`; raises `InputError` in all processes if another job has it."""
    from_first(lambda: take_lock(*lock_of(workdir, mode)), "the workdir to be locked")


def _report_not_finite(params: Any, step: int) -> None:
    """Warn about parameters that are NaN or infinite."""
    counts = jax.jit(lambda tree: jax.tree.map(lambda array: jnp.sum(~jnp.isfinite(array)), tree))(params)
    not_finite = {path: int(count) for path, count in flatten_params(counts).items() if count}
    if not_finite and not jax.process_index():
        log.warning("Checkpoint of step %d: %s.", step, describe_not_finite(not_finite))
