"""Whatever can fail is checked before the data are prepared, which can take hours."""

import tempfile
from collections.abc import Sequence
from typing import Any

import timesformer_jax as tsf
from timesformer_jax import training
from timesformer_jax.features import folder_at
from timesformer_jax.os_errors import sentence
from timesformer_jax.pretrained.orbax import find_checkpoint, read_notes


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


OBJECTIVES = {False: "softmax", True: "sigmoid"}
"""Whether a video may have several labels -> the objective."""


def check_labels(workdir: str, label_names: Sequence[str], several: bool) -> None:
    """Raises `InputError` if the workdir's checkpoint was trained for other labels or the other objective; needs no data."""
    check_objective(workdir, OBJECTIVES[several])
    folder = folder_at(workdir) / "checkpoints"
    checkpoint = find_checkpoint(folder)
    notes = {} if checkpoint is None else read_notes(checkpoint)
    if "label_names" in notes.get("data", {}):
        training.check_description(str(folder), notes, {"data": {"label_names": list(label_names)}})


LABELS = {"softmax": "one label per video", "sigmoid": "any number of labels per video"}
"""Objective -> what the data set has."""


def check_objective(workdir: str, objective: str) -> None:
    """Raises `InputError` if the workdir's checkpoint was trained for the other objective; an old one may not say."""
    checkpoint = find_checkpoint(folder_at(workdir) / "checkpoints")
    trained = None if checkpoint is None else read_notes(checkpoint).get("objective")
    if trained not in (None, objective):
        raise tsf.InputError(
            f"The checkpoint in {workdir} was trained for {LABELS.get(str(trained), trained)} (objective {trained}), and this "
            f"data set has {LABELS[objective]} ({objective}): give the data set that it was trained on, or choose another "
            "--workdir."
        )
