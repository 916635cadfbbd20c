"""Table of the modes of main.py.

No module that loads TensorFlow is imported before a mode runs.
"""

import contextlib
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any, NamedTuple

import jax

if TYPE_CHECKING:
    from experiment.setup import Run


class Mode(NamedTuple):
    """A mode of main.py."""

    summary: str
    """Summary for `--help`."""
    when_repeated: str
    """Effect of repeating the command after Ctrl-C, as a verb phrase."""
    run: Callable[["Run"], None]
    """The job itself."""
    adjust: Callable[[Any, str], tuple[Any, str]] = lambda config, workdir: (config, workdir)
    """Changes the config and the workdir before anything of either is read."""
    check: Callable[[Any, str], None] = lambda config, workdir: None
    """Raises `InputError` for an unusable config or workdir, before the data are opened."""
    locks: str | None = None
    """Activity of the process that holds the mode's lock, for errors; None if the mode writes no shared files."""
    needs_checkpoint: bool = False
    """The mode evaluates the workdir's checkpoint and writes none."""
    loads_init_from: bool = False
    """The mode starts from `init_from` if the workdir has no checkpoint."""
    needs_training_batches: bool = True
    """The mode reads training batches."""
    trains: bool = False
    """The mode trains the model."""
    run_alone: Callable[[Any, Collection[str]], None] | None = None
    """The job, in place of `run`, of a mode that needs neither data nor a workdir.

    Its arguments are the config and the dotted paths of the fields that the command line sets.
    """


def _adjust_training(config: Any, workdir: str) -> tuple[Any, str]:
    from experiment.train import adjust

    return adjust(config, workdir)


def _train(run: "Run") -> None:
    from experiment.train import train

    with contextlib.ExitStack() as stack:
        if run.config.debug:
            stack.enter_context(jax.debug_nans(True))
            stack.enter_context(jax.debug_infs(True))
        train(run)


def _evaluate(run: "Run") -> None:
    from experiment.evaluate import evaluate

    evaluate(run, *run.files.restore_params(run.model))


def _check_report(config: Any, workdir: str) -> None:
    from experiment.report import check_report

    check_report(config, workdir)


def _report(run: "Run") -> None:
    from experiment.report import report

    report(run)


def _check_probe(config: Any, workdir: str) -> None:
    from experiment.probe import check_probe

    check_probe(config, workdir)


def _probe(run: "Run") -> None:
    from experiment.probe import probe

    probe(run)


def _check_features(config: Any, workdir: str) -> None:
    from experiment.features import check_features

    check_features(config, workdir)


def _write_features(run: "Run") -> None:
    from experiment.features import write_features

    write_features(run)


def _show(run: "Run") -> None:
    from experiment.show import show

    show(run)


def _prepare(run: "Run") -> None:
    from experiment.setup import log

    log.info("The data set is prepared in %s.", run.data.dataset.builder.data_path)


def _plan(config: Any, typed: Collection[str]) -> None:
    from experiment.plan import plan

    plan(config, typed)


def _no_run(run: "Run") -> None:
    raise AssertionError("the mode works without a run")


MODES = {
    "train": Mode(
        "train, or resume from the newest checkpoint, and evaluate at the end",
        "resumes from the newest checkpoint",
        _train,
        adjust=_adjust_training,
        locks="trains",
        loads_init_from=True,
        trains=True,
    ),
    "eval": Mode("evaluate a checkpoint", "resumes the evaluation", _evaluate, locks="evaluates", needs_checkpoint=True),
    "report": Mode(
        "draw the last evaluation as one page, report.html",
        "draws it again",
        _report,
        check=_check_report,
        needs_checkpoint=True,
    ),
    "probe": Mode(
        "train heads on frozen features",
        "starts the probe again",
        _probe,
        check=_check_probe,
        locks="trains a probe",
        loads_init_from=True,
    ),
    "features": Mode(
        "write features of whole splits",
        "resumes after the last complete shard",
        _write_features,
        check=_check_features,
        locks="extracts features",
        loads_init_from=True,
        needs_training_batches=False,
    ),
    "show": Mode("draw clips as the model gets them", "draws them again", _show),
    "prepare": Mode(
        "prepare the data set, or one machine's share of it",
        "resumes after the last finished part",
        _prepare,
        needs_training_batches=False,
    ),
    "plan": Mode(
        "estimate memory and time of training on other hardware (--config.plan.target); needs no data and no workdir",
        "plans again",
        _no_run,
        run_alone=_plan,
    ),
}
"""Maps `--mode` to the mode."""
