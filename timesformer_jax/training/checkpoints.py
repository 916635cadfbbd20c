"""Orbax checkpoints in a workdir; the only module of training that calls Orbax."""

import contextlib
import dataclasses
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from etils import epath
from flax import linen as nn
from jax.sharding import Mesh
from orbax.checkpoint import multihost as orbax_multihost
from orbax.checkpoint import v1 as ocp

from timesformer_jax.digests import NOTE, note_own_digests, wait_for_metadata, write_digests
from timesformer_jax.errors import InputError, first_line
from timesformer_jax.modeling import complete_description, variables_of, weight_shapes, weights_of
from timesformer_jax.orbax_io import read_arrays, read_metadata
from timesformer_jax.os_errors import name_os_error
from timesformer_jax.preemption import interrupts_wait
from timesformer_jax.quiet_orbax import quiet_orbax
from timesformer_jax.training.damaged import check_metadata, check_together, set_damaged_aside
from timesformer_jax.training.sharding import weight_sharding
from timesformer_jax.training.step import TrainState

METRIC = "best"
"""Metric key that selects the best checkpoint."""


class Checkpoints:
    """Checkpoints of one run, saved in the background, each with a description of the run.

    The newest `keep` checkpoints and the best one are kept. Digests of a checkpoint's files are written before it counts as
    complete, and compared before it is read: a damaged checkpoint raises `InputError` (see `set_damaged_aside` for runs that
    resume).

    Args:
        directory: Folder of the checkpoints, local or in a bucket.
        description: JSON entries by group. A checkpoint whose description differs in any entry is refused with an error that
            shows the difference. The group `model` is the result of `describe_model`; `restore_params` compares only `model`
            and `data`.
        notes: JSON that is written next to the description and never compared.
        keep: Number of newest checkpoints to keep.
        read_only: Only read: a missing folder is an error instead of being created.
        clears_up: Delete half-written checkpoints of a killed run and set damaged ones aside, with a warning. False if another
            run may be writing checkpoints now.

    Raises:
        InputError: If the folder is missing with `read_only`, can't be written to, or has damage that can't be set aside.
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
        if read_only and not epath.Path(directory).exists():  # Orbax would create the folder
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
        # `best_fn` with `max_to_keep` would delete the newest checkpoints if the best are older.
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
        """Step of the newest checkpoint, or None."""
        latest = self._checkpointer.latest
        return None if latest is None else latest.step

    @property
    def steps(self) -> list[int]:
        """Steps of all checkpoints, in ascending order."""
        checkpoints: Any = self._checkpointer.checkpoints
        return sorted(checkpoint.step for checkpoint in checkpoints)

    @property
    def best_step(self) -> int | None:
        """Step of the checkpoint with the highest metric; the newest if none has a metric."""
        checkpoints: Any = self._checkpointer.checkpoints
        rated = [(checkpoint.metrics[METRIC], checkpoint.step) for checkpoint in checkpoints if checkpoint.metrics]
        return max(rated)[1] if rated else self.latest_step

    def save(
        self, state: TrainState, step: int, pipeline: Mapping[str, Any] | None = None, metric: float | None = None
    ) -> None:
        """Save in the background; do nothing if this step is already saved.

        Args:
            state: State to save.
            step: Number of completed steps of the state.
            pipeline: JSON that the data pipeline needs to resume after this step.
            metric: Quality of the checkpoint, higher is better.

        Raises:
            InputError: If this checkpoint, or the one before it, can't be written.
        """
        if self.latest_step == step:
            return
        # If interrupted, Orbax leaves threads behind that fail when the program ends.
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
        """`pipeline` of the newest checkpoint; empty if there is none."""
        return {} if self.latest_step is None else self._metadata(self.latest_step).get("pipeline", {})

    def restore(self, state: TrainState) -> TrainState:
        """Restore the newest checkpoint with the shardings of `state`; return `state` itself if there is no checkpoint.

        `state` may consist of shapes, as from `state_shapes`, which needs no memory besides the restored state.
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
            batch_stats=restored.get("batch_stats", {}),
            **restored["counters"],
        )

    def restore_params(self, model: nn.Module, mesh: Mesh, step: int | None = None) -> tuple[Any, int]:
        """Restore the weights to evaluate: the parameters, or their moving average if the run kept one.

        Args:
            model: Model that the weights must fit.
            mesh: Mesh on which to place them.
            step: Step of the checkpoint; the newest by default.

        Returns:
            The weights (`TrainState.best_weights`), which for a model without BatchNorm are the parameters, and the step.

        Raises:
            InputError: If there is no checkpoint, or it is damaged or belongs to another model.
        """
        step = self.latest_step if step is None else step
        if step is None:
            raise self._no_checkpoint()
        self._check_digests(step, ())
        self._check(step, "model", "data")
        shapes = weight_shapes(model)
        abstract = jax.tree.map(
            lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), shapes, weight_sharding(shapes, mesh)
        )
        kept = self._metadata(step).get("optimizer", {}).get("ema")
        trees = variables_of(abstract)
        trees["ema" if kept else "params"] = trees.pop("params")
        self._check_digests(step, tuple(trees))
        restored = read_arrays(self._folder(step), trees)
        return weights_of(restored["ema" if kept else "params"], restored.get("batch_stats")), step

    def _folder(self, step: int) -> epath.Path:
        return epath.Path(self._directory) / str(step)

    def _no_checkpoint(self) -> InputError:
        return InputError(f"There is no checkpoint in {self._directory}: train first.")

    def wait(self) -> None:
        """Wait until everything is on disk; raises `InputError` if it can't be written."""
        with interrupts_wait(), self._writing(None):
            self._finish()

    def close(self) -> None:
        """Wait until everything is on disk, then stop Orbax's threads."""
        with interrupts_wait(), self._writing(None):
            try:
                self._finish()
            finally:
                self._checkpointer.close()

    def _finish(self) -> None:
        """Wait for the last save, and close Orbax's thread and event loop for it, which hold three file descriptors."""
        response, self._response = self._response, None
        try:
            if response is not None:
                response.result()
        finally:
            self._checkpointer.wait()

    def _unfinished(self) -> Any:
        """Folder of the checkpoint that is being saved, until it is committed."""
        # On a file system the folder is renamed at the end; in a bucket it is committed in place.
        final = epath.Path(self._directory) / str(self._saving)
        renamed = sorted(final.parent.glob(f"{final.name}.orbax-checkpoint-tmp*"))
        return renamed[0] if renamed else final

    def _note_own_digests(self) -> None:
        note_own_digests(self._unfinished(), jax.process_index())

    def _write_digests(self) -> None:
        wait_for_metadata(self._unfinished())
        write_digests(self._unfinished())

    def _check_digests(self, step: int, entries: tuple[str, ...] | None = None) -> None:
        """Raise `InputError` if the `entries` of a checkpoint that are about to be read (None: all) are damaged."""
        if step != self._verified:
            check_together(self._folder(step), entries)

    @contextlib.contextmanager
    def _writing(self, step: int | None) -> Iterator[None]:
        """Turn exceptions of a write into one `InputError` with the reason and the remedy."""
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
                f"{which} could not be written to {self._directory}: {reason}. The earlier ones are intact; {remedy}."
            ) from error

    def _metadata(self, step: int) -> dict[str, Any]:
        return read_metadata(self._folder(step)).notes or {}

    def _check(self, step: int, *groups: str) -> None:
        own = {group: self._description.get(group, {}) for group in groups}
        check_description(self._directory, self._metadata(step), own)


def _context(before_barrier: Callable[[], None], before_commit: Callable[[], None]) -> Any:
    """Orbax options with callbacks that its thread calls once a checkpoint is written but not yet committed.

    Args:
        before_barrier: Called in every process, if there are several, once its files are written.
        before_commit: Called in the first process once the files of all processes are written.
    """
    context = ocp.Context()
    options = context.asynchronous
    # Orbax deep-copies the options. Functions survive that unchanged, but bound methods would be copied with their objects.
    options.post_finalization_callback = lambda: before_commit()
    if jax.process_count() == 1:
        return context
    wait = orbax_multihost.get_barrier_sync_fn()

    def barrier(*, key: str, timeout_ms: int) -> None:
        if WRITTEN in key:
            before_barrier()
        wait(key=key, timeout_ms=timeout_ms)

    plain = type(options).v0
    # Orbax v0 accepts a barrier as an option, which v1 doesn't set in the options it passes on.
    options.v0 = types.MethodType(lambda own: dataclasses.replace(plain(own), barrier_sync_fn=barrier), options)
    return context


WRITTEN = "async_write_complete"
"""Substring of the name of Orbax's barrier between writing and committing."""


ADDED_LATER = ("fold",)
"""Entries that older checkpoints lack, and which then aren't compared."""


def check_description(directory: str, metadata: Mapping[str, Any], description: Mapping[str, Mapping[str, Any]]) -> None:
    """Compare a checkpoint's metadata with a full or partial description.

    Args:
        directory: Folder of the checkpoints, for the message.
        metadata: The checkpoint's metadata.
        description: Expected entries by group.

    Raises:
        InputError: If any entry differs.
    """
    saved = {**metadata, "model": complete_description(metadata.get("model", {}))}
    differences = [
        f"{group}.{name} is {_difference(theirs, ours)}"
        for group, entries in description.items()
        for name, ours in entries.items()
        if (theirs := saved.get(group, {}).get(name)) != ours and not (theirs is None and name in ADDED_LATER)
    ]
    if differences:
        raise InputError(
            f"{directory} holds the checkpoint of another run ({'; '.join(differences)}): choose another --workdir, "
            "or resume it with its own settings."
        )


def _contents(state: TrainState) -> dict[str, Any]:
    """Trees to save, by their names in the checkpoint's folder."""
    contents = {"params": state.params, "opt_state": state.opt_state, "ema": state.ema}
    contents["batch_stats"] = state.batch_stats or None
    counters = {"skipped": state.skipped, "skipped_in_a_row": state.skipped_in_a_row}
    return {name: tree for name, tree in contents.items() if tree is not None} | {"counters": counters}


def _difference(theirs: Any, ours: Any) -> str:
    """Describe two different values; for lists, only the first difference."""
    if isinstance(theirs, list) and isinstance(ours, list):
        place = next((i for i, pair in enumerate(zip(theirs, ours, strict=False)) if pair[0] != pair[1]), None)
        if place is None:
            return f"{len(theirs)} long there and {len(ours)} here"
        return f"{theirs[place]!r} there and {ours[place]!r} here at number {place}"
    return f"{theirs!r} there and {ours!r} here"
