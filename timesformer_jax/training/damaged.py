"""Find damaged checkpoints before anything is read from them, and set them aside when a run resumes."""

import logging
import time
from collections.abc import Iterable
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils

from timesformer_jax.digests import damaged, find_damage, steps_in
from timesformer_jax.errors import InputError
from timesformer_jax.processes import wait_for_all

log = logging.getLogger("timesformer_jax")

ASIDE = "damaged-"
"""Prefix of the folder of a checkpoint that was set aside."""
DELETING = 1.0
"""Seconds to wait for a deletion in progress before a checkpoint counts as damaged."""
ELSEWHERE = "another process found one of its files to differ"


def set_damaged_aside(directory: str, *, wholly: bool = True) -> int | None:
    """Rename damaged checkpoints to `damaged-STEP`, with a warning, so that the run resumes from the newest intact one.

    All processes must call it, and all reach the same result. Only the newest intact checkpoint is read in full. Of the others,
    only the metadata and metrics are read, since they decide which checkpoints are kept.

    Args:
        directory: Folder of the run's checkpoints.
        wholly: Whether to read the newest checkpoint in full; otherwise only its metadata and metrics are checked.

    Returns:
        The newest remaining step; None if there are no checkpoints.

    Raises:
        InputError: If no checkpoint is intact, since training would otherwise silently start from scratch; or if one can't be
            read at the moment.
    """
    folder = epath.Path(directory)
    steps = _agree_on_steps(folder)
    found: dict[int, str] = {}
    newest = None
    for step in reversed(steps):
        reads_all = wholly and newest is None
        damage = find_damage_together(folder / str(step), None if reads_all else ())
        if damage:
            found[step] = damage
        elif newest is None:
            newest = step
    if found and newest is None:
        described = "; ".join(f"step {step}: {damage}" for step, damage in found.items())
        raise InputError(
            f"Every checkpoint in {directory} is damaged ({described}): use copies of them, or train in another --workdir."
        )
    for step, damage in found.items():
        aside = _free_name(folder, step)
        if jax.process_index() == 0:
            (folder / str(step)).rename(aside)
        log.warning("The checkpoint of step %d is damaged: %s. It was moved to %s.", step, damage, aside)
    if found:
        wait_for_all("damaged checkpoints to be set aside")
    if steps and newest != steps[-1]:
        log.warning("The run resumes from step %d instead of step %d.", newest, steps[-1])
    return newest


def check_metadata(directory: str) -> None:
    """Raise `InputError` if the metadata or metrics of any checkpoint are damaged or can't be read: they select the best one.

    All processes must call it. Checkpoints that a run in progress deletes meanwhile are ignored.
    """
    folder = epath.Path(directory)
    for step in _agree_on_steps(folder):
        try:
            damage = find_damage_together(folder / str(step))
            fault = damaged(folder / str(step), damage) if damage else None
        except InputError as error:
            fault = error
        if fault is None:
            continue
        time.sleep(DELETING)
        gone = jax.process_index() == 0 and not (folder / str(step)).exists()
        if not _any_process(gone):
            raise fault


def check_together(folder: Any, entries: Iterable[str] | None = ()) -> None:
    """Raise `InputError` on every process if a checkpoint is damaged; each process reads its share of the files.

    Args:
        folder: Folder of the checkpoint.
        entries: As in `find_damage`.
    """
    if damage := find_damage_together(folder, entries):
        raise damaged(folder, damage)


def find_damage_together(folder: Any, entries: Iterable[str] | None = ()) -> str | None:
    """Call `find_damage` in all processes, each reading its share of the files; all agree on whether there is any.

    Raises:
        InputError: In all processes, if one of them can't read a file.
    """
    damage, failed = None, None
    try:
        damage = find_damage(folder, entries, (jax.process_index(), jax.process_count()))
    except InputError as error:
        failed = error
    if _any_process(failed is not None):
        raise failed or InputError(f"Another process can't read the checkpoint {folder}: its log says why.")
    return (damage or ELSEWHERE) if _any_process(damage is not None) else None


def _any_process(true_here: bool) -> bool:
    if jax.process_count() == 1:
        return true_here
    return bool(np.any(multihost_utils.process_allgather(np.asarray(true_here))))


def _agree_on_steps(folder: Any) -> list[int]:
    """Return the steps that the first process finds, the same in every process."""
    steps = steps_in(folder)
    if jax.process_count() == 1:
        return steps
    count = int(multihost_utils.broadcast_one_to_all(np.asarray(len(steps), np.int32)))
    own = np.asarray((steps + [0] * count)[:count], np.int32)
    return np.asarray(multihost_utils.broadcast_one_to_all(own)).tolist() if count else []


def _free_name(folder: Any, step: int) -> Any:
    names = (f"{ASIDE}{step}{again}" for again in ("", *(f"-{number}" for number in range(2, 1000))))
    return next(folder / name for name in names if not (folder / name).exists())
