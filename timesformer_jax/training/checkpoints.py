"""Checkpoints in a workdir, by Orbax: the only file of training that calls it."""

import contextlib
import dataclasses
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from etils import epath
from jax.sharding import Mesh
from orbax.checkpoint import multihost as orbax_multihost
from orbax.checkpoint import v1 as ocp

from timesformer_jax.digests import NOTE, note_own_digests, wait_for_metadata, write_digests
from timesformer_jax.errors import InputError, first_line
from timesformer_jax.modeling import TimeSformer, complete_description, parameter_shapes
from timesformer_jax.orbax_io import read_arrays, read_metadata
from timesformer_jax.os_errors import name_os_error
from timesformer_jax.preemption import interrupts_wait
from timesformer_jax.quiet_orbax import quiet_orbax
from timesformer_jax.training.damaged import check_metadata, check_together, set_damaged_aside
from timesformer_jax.training.sharding import sharding_of
from timesformer_jax.training.step import TrainState

METRIC = "best"
"""Under which name Orbax keeps the number that the best checkpoint has most of."""


class Checkpoints:
    """The checkpoints of one run: saved in the background, the newest `keep` and the best one kept, each with a description.

    `description` is JSON, groups of entries; a checkpoint whose own differs in any entry is refused with the difference. Its
    `model` is what `describe_model` gives, and with `data` all that those who only want parameters ask for. `notes`, JSON too,
    are written beside it and never compared. A run that only reads passes `read_only=True`: `InputError` where there is no
    checkpoint. `clears_up`: half-written checkpoints of a run that was killed are deleted, and damaged ones set aside, with a
    warning; not so where another run may be writing them now.

    With each checkpoint the digests of its files are written, before it counts as complete, and compared before it is read:
    `InputError` if it is damaged (see `set_damaged_aside` for a run that resumes).
    """

    def __init__(
        self,
        directory: str,
        description: dict[str, Any],
        *,
        notes: Mapping[str, Any] | None = None,
        keep: int = 2,
        read_only: bool = False,
        clears_up: bool = True,
    ):
        self._directory = directory
        if read_only and not epath.Path(directory).exists():  # Orbax would make the folder
            raise self._no_checkpoint()
        if clears_up and not read_only and jax.process_index() == 0:
            for left in epath.Path(directory).glob("*.orbax-checkpoint-tmp*"):  # of a run that was killed while it saved
                left.rmtree(missing_ok=True)
        self._verified: int | None = None
        if clears_up and not read_only:
            self._verified = set_damaged_aside(directory)
        else:
            check_metadata(directory)
        self._saving: int | None = None
        self._response: Any = None
        self._description = description
        self._notes = dict(notes or {})
        policies: Any = ocp.training.preservation_policies
        # `best_fn` with `max_to_keep` would delete the newest ones where the best are older.
        kept = policies.AnyPreservationPolicy(
            [
                policies.LatestN(keep),
                policies.BestN(get_metric_fn=lambda metrics: metrics[METRIC], n=1, keep_checkpoints_without_metrics=False),
            ]
        )
        quiet_orbax()
        with self._writing(None):
            self._checkpointer = ocp.training.Checkpointer(
                directory, context=_context(self._note_own_digests, self._write_digests), preservation_policy=kept
            )

    @property
    def latest_step(self) -> int | None:
        latest = self._checkpointer.latest
        return None if latest is None else latest.step

    @property
    def steps(self) -> list[int]:
        """Those of all checkpoints that are kept."""
        checkpoints: Any = self._checkpointer.checkpoints
        return sorted(checkpoint.step for checkpoint in checkpoints)

    @property
    def best_step(self) -> int | None:
        """The step with the highest metric; the newest where none has one."""
        checkpoints: Any = self._checkpointer.checkpoints
        rated = [(checkpoint.metrics[METRIC], checkpoint.step) for checkpoint in checkpoints if checkpoint.metrics]
        return max(rated)[1] if rated else self.latest_step

    def save(
        self, state: TrainState, step: int, pipeline: Mapping[str, Any] | None = None, metric: float | None = None
    ) -> None:
        """Saves in the background; does nothing where this step is saved already.

        `pipeline`, JSON: what the data pipeline needs to go on behind this step. `metric`: how good it is, higher is better.

        Raises `InputError` where this checkpoint, or the one before it, can't be written.
        """
        if self.latest_step == step:
            return
        # Stopped halfway, Orbax leaves threads behind that fail when the program ends.
        with interrupts_wait(), self._writing(step):
            self._finish()
            self._saving = step
            self._response = self._checkpointer.save_checkpointables_async(
                step,
                _contents(state),
                metrics=None if metric is None else {METRIC: metric},
                custom_metadata={**self._notes, "pipeline": dict(pipeline or {}), **self._description, **NOTE},
                force=True,
            )

    @property
    def pipeline(self) -> dict[str, Any]:
        """What the newest checkpoint was given as `pipeline`; empty where there is none."""
        return {} if self.latest_step is None else self._metadata(self.latest_step).get("pipeline", {})

    def restore(self, state: TrainState) -> TrainState:
        """The newest checkpoint, placed as `state` is; `state` itself if there is none.

        `state` may be shapes: that of `state_shapes` needs no memory beside the restored one.
        """
        step = self.latest_step
        if step is None:
            return state
        self._check_digests(step)
        self._check(step, *self._description)
        abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), _contents(state))
        restored = read_arrays(self._folder(step), abstract)
        at_step = jax.device_put(jnp.asarray(step, jnp.int32), state.step.sharding)
        return TrainState(
            step=at_step,
            params=restored["params"],
            opt_state=restored["opt_state"],
            ema=restored.get("ema"),
            **restored["counters"],
        )

    def restore_params(self, model: TimeSformer, mesh: Mesh, step: int | None = None) -> tuple[Any, int]:
        """The parameters to evaluate (their average where one was kept) of the newest checkpoint, or that of `step`, and its
        step; raises `InputError` where there is none."""
        step = self.latest_step if step is None else step
        if step is None:
            raise self._no_checkpoint()
        self._check_digests(step, ())
        self._check(step, "model", "data")
        shapes = parameter_shapes(model)
        abstract = jax.tree.map(
            lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), shapes, sharding_of(shapes, shapes, mesh)
        )
        kept = self._metadata(step).get("optimizer", {}).get("ema")
        name = "ema" if kept else "params"
        self._check_digests(step, (name,))
        return read_arrays(self._folder(step), {name: abstract})[name], step

    def _folder(self, step: int) -> epath.Path:
        return epath.Path(self._directory) / str(step)

    def _no_checkpoint(self) -> InputError:
        return InputError(f"There is no checkpoint in {self._directory}: train first with --mode=train.")

    def wait(self) -> None:
        """Waits until everything is on disk; raises `InputError` where it can't be."""
        with interrupts_wait(), self._writing(None):
            self._finish()

    def close(self) -> None:
        """The same, and ends Orbax's threads."""
        with interrupts_wait(), self._writing(None):
            try:
                self._finish()
            finally:
                self._checkpointer.close()

    def _finish(self) -> None:
        """Wait for the last save, and close the thread and event loop that Orbax waits for it with: three descriptors."""
        response, self._response = self._response, None
        try:
            if response is not None:
                response.result()
        finally:
            self._checkpointer.wait()

    def _unfinished(self) -> Any:
        """The folder of the checkpoint that is being saved, until it is committed."""
        # Renamed at the end on a file system, committed where it is in a bucket.
        final = epath.Path(self._directory) / str(self._saving)
        renamed = sorted(final.parent.glob(f"{final.name}.orbax-checkpoint-tmp*"))
        return renamed[0] if renamed else final

    def _note_own_digests(self) -> None:
        note_own_digests(self._unfinished(), jax.process_index())

    def _write_digests(self) -> None:
        wait_for_metadata(self._unfinished())
        write_digests(self._unfinished())

    def _check_digests(self, step: int, entries: tuple[str, ...] | None = None) -> None:
        """Raise `InputError` if the checkpoint is damaged, of which `entries` are about to be read (None: all)."""
        if step != self._verified:
            check_together(self._folder(step), entries)

    @contextlib.contextmanager
    def _writing(self, step: int | None) -> Iterator[None]:
        """What can't be written becomes one sentence."""
        try:
            yield
        except Exception as error:  # of many types: Orbax's, TensorStore's, the system's
            if isinstance(error, InputError):
                raise
            which = "A checkpoint" if step is None else f"The checkpoint of step {step}, or the one before it,"
            named = name_os_error(error)
            reason = named.what if named else first_line(error)[:300]
            remedy = named.remedy if named else "start the same command again"
            raise InputError(
                f"{which} could not be written to {self._directory}: {reason}. The earlier ones are whole; {remedy}."
            ) from error

    def _metadata(self, step: int) -> dict[str, Any]:
        return read_metadata(self._folder(step)).notes or {}

    def _check(self, step: int, *groups: str) -> None:
        own = {group: self._description.get(group, {}) for group in groups}
        check_description(self._directory, self._metadata(step), own)


def _context(before_barrier: Callable[[], None], before_commit: Callable[[], None]) -> Any:
    """Orbax's options with what happens in its own thread when a checkpoint is written and not yet committed.

    Args:
      before_barrier: called on every process, if there are several, when its files are written.
      before_commit: called on the first process when those of all are.
    """
    context = ocp.Context()
    options = context.asynchronous
    # Orbax copies the options deeply, which leaves functions alone, and not bound methods.
    options.post_finalization_callback = lambda: before_commit()
    if jax.process_count() == 1:
        return context
    wait = orbax_multihost.get_barrier_sync_fn()

    def barrier(*, key: str, timeout_ms: int) -> None:
        if WRITTEN in key:
            before_barrier()
        wait(key=key, timeout_ms=timeout_ms)

    plain = type(options).v0
    # Orbax v0 takes a barrier as an option, v1 hands on a class of options without it.
    options.v0 = types.MethodType(lambda own: dataclasses.replace(plain(own), barrier_sync_fn=barrier), options)
    return context


WRITTEN = "async_write_complete"
"""In the name of Orbax's barrier between writing and committing."""


def check_description(directory: str, metadata: Mapping[str, Any], description: Mapping[str, Mapping[str, Any]]) -> None:
    """Raises `InputError` if a checkpoint's metadata differ from any entry of a description, which may be a part of one."""
    saved = {**metadata, "model": complete_description(metadata.get("model", {}))}
    differences = [
        f"{group}.{name} is {_difference(theirs, ours)}"
        for group, entries in description.items()
        for name, ours in entries.items()
        if (theirs := saved.get(group, {}).get(name)) != ours
    ]
    if differences:
        raise InputError(
            f"{directory} holds the checkpoint of another run ({'; '.join(differences)}): choose another --workdir, "
            "or go on with the settings it was made with."
        )


def _contents(state: TrainState) -> dict[str, Any]:
    """What is saved, by its name in the checkpoint's folder."""
    contents = {"params": state.params, "opt_state": state.opt_state, "ema": state.ema}
    counters = {"skipped": state.skipped, "skipped_in_a_row": state.skipped_in_a_row}
    return {name: tree for name, tree in contents.items() if tree is not None} | {"counters": counters}


def _difference(theirs: Any, ours: Any) -> str:
    """What the two are; of two lists only the first place where they differ."""
    if isinstance(theirs, list) and isinstance(ours, list):
        place = next((i for i, pair in enumerate(zip(theirs, ours, strict=False)) if pair[0] != pair[1]), None)
        if place is None:
            return f"{len(theirs)} long there and {len(ours)} here"
        return f"{theirs[place]!r} there and {ours[place]!r} here at number {place}"
    return f"{theirs!r} there and {ours!r} here"
