"""Check everything that can fail before the data are prepared, which can take hours."""

import math
import tempfile
from collections.abc import Sequence
from typing import Any

import timesformer_jax as tsf
from experiment.architectures import section_name, section_of
from experiment.sections import arguments_of
from timesformer_jax import evaluation, training
from timesformer_jax.checks import check_choice
from timesformer_jax.features import folder_at
from timesformer_jax.os_errors import sentence
from timesformer_jax.pretrained.orbax import find_checkpoint, read_notes

SPLITS = ("train", "val")
DTYPES = ("float32", "bfloat16", "float16")
CHECKPOINTS = ("latest", "best")


def check_config(config: Any, trains: bool) -> None:
    """Raise `InputError` for invalid fields that aren't checked elsewhere, such as numbers, splits and dtypes."""
    dtype, dtype_field = section_of(config).dtype, f"{section_name(config)}.dtype"
    if trains and dtype == "float16":
        raise tsf.InputError(
            f"{dtype_field}=float16 is for testing: in training, small gradients would underflow, since the loss isn't "
            "scaled. Use bfloat16, which has float32's range."
        )
    for section, fields in {
        "train": (
            "accumulation",
            "num_epochs",
            "max_skipped_steps",
            "log_every_steps",
            "evaluate_every_epochs",
            "checkpoint_every_epochs",
        ),
        "eval": ("batch_size",),
    }.items():
        for field in fields:
            if not 0 < config[section][field] < math.inf:
                raise tsf.InputError(f"{section}.{field} must be above 0 and finite, got {config[section][field]}.")
    if not 0 < config.train.data_share <= 1:
        raise tsf.InputError(f"train.data_share must be above 0 and at most 1, got {config.train.data_share}.")
    for field in ("label_smoothing", "ema_decay"):
        if not 0 <= config.train[field] < 1:
            raise tsf.InputError(f"train.{field} must be at least 0 and below 1, got {config.train[field]}.")
    with arguments_of(config, "eval"):
        evaluation.check_average(config.eval.average)
    if config.seed < 0:
        raise tsf.InputError(f"seed must be at least 0, got {config.seed}.")
    for name, value, choices in (
        ("eval.split", config.eval.split, SPLITS),
        ("eval.checkpoint", config.eval.checkpoint, CHECKPOINTS),
        (dtype_field, dtype, DTYPES),
    ):
        check_choice(name, value, choices)


def check_workdir(workdir: str) -> None:
    """Raise `InputError` if the workdir exists and isn't writable; buckets aren't checked."""
    folder = folder_at(workdir)
    if "://" in workdir or not folder.is_dir():
        return
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise tsf.InputError(sentence(error, f"--workdir={workdir} can't be written to")) from error


def make_workdir(workdir: str) -> None:
    """Create the workdir if it doesn't exist; raises `InputError` if that fails."""
    try:
        folder_at(workdir).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise tsf.InputError(sentence(error, f"--workdir={workdir} can't be used as a folder")) from error


def check_checkpoint(workdir: str, description: dict[str, dict[str, Any]], *, needed: bool) -> None:
    """Raise `InputError` if the workdir's newest checkpoint differs from `description`, or is needed and missing.

    The number of classes isn't compared, since it depends on the data.
    """
    model = {name: value for name, value in description["model"].items() if name != "num_classes"}
    folder = folder_at(workdir) / "checkpoints"
    checkpoint = find_checkpoint(folder)
    if checkpoint is not None:
        training.check_description(str(folder), read_notes(checkpoint), {**description, "model": model})
    elif needed:
        raise tsf.InputError(f"There is no checkpoint in {folder}: train first with --mode=train.")


OBJECTIVES = {False: "softmax", True: "sigmoid"}
"""Maps whether videos are multi-label to the objective."""


def check_labels(workdir: str, label_names: Sequence[str], several: bool) -> None:
    """Raise `InputError` if the workdir's checkpoint was trained for other labels or the other objective; needs no data."""
    check_objective(workdir, OBJECTIVES[several])
    folder = folder_at(workdir) / "checkpoints"
    checkpoint = find_checkpoint(folder)
    notes = {} if checkpoint is None else read_notes(checkpoint)
    if "label_names" in notes.get("data", {}):
        training.check_description(str(folder), notes, {"data": {"label_names": list(label_names)}})


LABELS = {"softmax": "one label per video", "sigmoid": "any number of labels per video"}
"""Maps an objective to the labels of its data sets."""


def check_objective(workdir: str, objective: str) -> None:
    """Raise `InputError` if the workdir's checkpoint was trained for the other objective; old checkpoints record none."""
    checkpoint = find_checkpoint(folder_at(workdir) / "checkpoints")
    trained = None if checkpoint is None else read_notes(checkpoint).get("objective")
    if trained not in (None, objective):
        raise tsf.InputError(
            f"The checkpoint in {workdir} was trained for {LABELS.get(str(trained), trained)} (objective {trained}), and this "
            f"data set has {LABELS[objective]} ({objective}): give the data set that it was trained on, or choose another "
            "--workdir."
        )
