"""Whatever can fail is checked before the data are prepared, which can take hours."""

import tempfile
from typing import Any

import timesformer_jax as tsf
from experiment.follow import check_fields
from experiment.init_from import allowed_of_init_from, choice_of_init_from
from timesformer_jax import training
from timesformer_jax.features import folder_at
from timesformer_jax.os_errors import sentence
from timesformer_jax.pretrained import check_weights
from timesformer_jax.pretrained.own import find_checkpoint, read_notes


def check_workdir(workdir: str) -> None:
    """Raises `InputError` if nothing can be written to the workdir, as far as it exists; a bucket isn't tried."""
    folder = folder_at(workdir)
    if "://" in workdir or not folder.is_dir():
        return
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise tsf.InputError(sentence(error, f"--workdir={workdir} can't be written to")) from error


def make_workdir(workdir: str) -> None:
    """Make the workdir, if it isn't there; raises `InputError` if it can't be made."""
    try:
        folder_at(workdir).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise tsf.InputError(sentence(error, f"--workdir={workdir} can't be used as a folder")) from error


def check_init_from(config: Any, workdir: str) -> None:
    """Raises `InputError` if the run begins with `init_from`, and those weights aren't there or don't fit the model."""
    if config.init_from and find_checkpoint(folder_at(workdir) / "checkpoints") is None:
        check_fields(config)
        model = tsf.TimeSformer(num_classes=1, **config.model)
        check_weights(config.init_from, model=model, allow=allowed_of_init_from(config), **choice_of_init_from(config))


def check_checkpoint(workdir: str, description: dict[str, dict[str, Any]], *, needed: bool) -> None:
    """Raises `InputError` if the workdir's newest checkpoint differs from `description`, or is needed and isn't there.

    The number of classes isn't compared: it depends on the data.
    """
    model = {name: value for name, value in description["model"].items() if name != "num_classes"}
    folder = folder_at(workdir) / "checkpoints"
    checkpoint = find_checkpoint(folder)
    if checkpoint is not None:
        training.check_description(str(folder), read_notes(checkpoint), {**description, "model": model})
    elif needed:
        raise tsf.InputError(f"There is no checkpoint in {folder}: train first with --mode=train.")
