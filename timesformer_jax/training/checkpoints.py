"""Checkpoints in a workdir, by Orbax: the only file of training that knows its API."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from etils import epath
from jax.sharding import Mesh
from orbax.checkpoint import v1 as ocp

from timesformer_jax.errors import InputError, first_line
from timesformer_jax.modeling import TimeSformer, complete_description, parameter_shapes
from timesformer_jax.preemption import interrupts_wait
from timesformer_jax.training.placement import place
from timesformer_jax.training.step import TrainState

METRIC = "best"
"""Under which name Orbax keeps the number that the best checkpoint has most of."""


class Checkpoints:
    """The checkpoints of one run: saved in the background, the newest `keep` and the best one kept, each with a description.

    `description` is JSON, groups of entries; a checkpoint whose own differs in any entry is refused with the difference. Its
    `model` is what `describe_model` gives, and with `data` all that those who only want parameters ask for. `notes`, JSON too,
    are written beside it and never compared. A run that only reads passes `read_only=True`: `InputError` where there is no
    checkpoint. `clears_up`: half-written checkpoints of a run that was killed are deleted; not so where another run may be
    writing them now.
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
        self._checkpointer = ocp.training.Checkpointer(directory, preservation_policy=kept)

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
            self._checkpointer.save_checkpointables_async(
                step,
                _contents(state),
                metrics=None if metric is None else {METRIC: metric},
                custom_metadata={**self._notes, "pipeline": dict(pipeline or {}), **self._description},
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
        self._check(step, *self._description)
        abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), _contents(state))
        restored = self._checkpointer.load_checkpointables(step, abstract)
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
        self._check(step, "model", "data")
        shapes = parameter_shapes(model)
        abstract = jax.tree.map(
            lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), shapes, place(shapes, shapes, mesh)
        )
        kept = self._metadata(step).get("optimizer", {}).get("ema")
        name = "ema" if kept else "params"
        return self._checkpointer.load_checkpointables(step, {name: abstract})[name], step

    def _no_checkpoint(self) -> InputError:
        return InputError(f"There is no checkpoint in {self._directory}: train first with --mode=train.")

    def wait(self) -> None:
        """Waits until everything is on disk; raises `InputError` where it can't be."""
        with interrupts_wait(), self._writing(None):
            self._checkpointer.wait()

    def close(self) -> None:
        """The same, and ends Orbax's threads."""
        with interrupts_wait(), self._writing(None):
            self._checkpointer.close()

    @contextlib.contextmanager
    def _writing(self, step: int | None) -> Iterator[None]:
        """What can't be written becomes one sentence."""
        try:
            yield
        except Exception as error:  # of many types: Orbax's, TensorStore's, the system's
            which = "A checkpoint" if step is None else f"The checkpoint of step {step}, or the one before it,"
            reason = first_line(error)
            raise InputError(
                f"{which} could not be written to {self._directory}: {reason[:300]}. The earlier ones are whole; free some "
                "space and start the same command again."
            ) from error

    def _metadata(self, step: int) -> dict[str, Any]:
        metadata: Any = self._checkpointer.checkpointables_metadata(step).custom_metadata
        return metadata or {}

    def _check(self, step: int, *groups: str) -> None:
        own = {group: self._description.get(group, {}) for group in groups}
        check_description(self._directory, self._metadata(step), own)


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
