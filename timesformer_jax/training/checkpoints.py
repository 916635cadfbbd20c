"""Checkpoints in a workdir, by Orbax: the only file that knows its API."""

import contextlib
import signal
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from etils import epath
from jax.sharding import Mesh
from orbax.checkpoint import v1 as ocp

from timesformer_jax.errors import InputError
from timesformer_jax.modeling import TimeSformer, complete_description, parameter_shapes
from timesformer_jax.training.sharding import replicated
from timesformer_jax.training.step import TrainState


class Checkpoints:
    """The checkpoints of one run: saved in the background, the newest `keep` kept, each with a description of its model.

    `description` is JSON; a checkpoint whose own differs in any entry is refused with the difference. Its `model` is what
    `describe_model` gives. `notes`, JSON too, are written beside it and never compared. A run that only reads passes
    `read_only=True`: `InputError` where there is no checkpoint.
    """

    def __init__(
        self,
        directory: str,
        description: dict[str, Any],
        *,
        notes: Mapping[str, Any] | None = None,
        keep: int = 2,
        read_only: bool = False,
    ):
        self._directory = directory
        if read_only and not epath.Path(directory).exists():  # Orbax would make the folder
            raise self._no_checkpoint()
        self._description = description
        self._notes = dict(notes or {})
        newest: Any = ocp.training.preservation_policies.LatestN(keep)
        self._checkpointer = ocp.training.Checkpointer(directory, preservation_policy=newest)

    @property
    def latest_step(self) -> int | None:
        latest = self._checkpointer.latest
        return None if latest is None else latest.step

    def save(self, state: TrainState, step: int, pipeline: Mapping[str, Any] | None = None) -> None:
        """Saves in the background; does nothing where this step is saved already.

        `pipeline`, JSON: what the data pipeline needs to go on behind this step.
        """
        if self.latest_step == step:
            return
        with _interrupts_wait():
            self._checkpointer.save_checkpointables_async(
                step,
                {"params": state.params, "opt_state": state.opt_state},
                custom_metadata={**self._notes, "pipeline": dict(pipeline or {}), **self._description},
                force=True,
            )

    @property
    def pipeline(self) -> dict[str, Any]:
        """What the newest checkpoint was given as `pipeline`; empty where there is none."""
        return {} if self.latest_step is None else self._metadata(self.latest_step).get("pipeline", {})

    def restore(self, state: TrainState) -> TrainState:
        """The newest checkpoint, placed as `state` is; `state` itself where there is none."""
        step = self.latest_step
        if step is None:
            return state
        self._check(step)
        abstract = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding),
            {"params": state.params, "opt_state": state.opt_state},
        )
        restored = self._checkpointer.load_checkpointables(step, abstract)
        at_step = jax.device_put(jnp.asarray(step, jnp.int32), state.step.sharding)
        return TrainState(step=at_step, params=restored["params"], opt_state=restored["opt_state"])

    def restore_params(self, model: TimeSformer, mesh: Mesh) -> tuple[Any, int]:
        """The newest checkpoint's parameters, on every device, and its step; raises `InputError` where there is none."""
        step = self.latest_step
        if step is None:
            raise self._no_checkpoint()
        self._check(step)
        abstract = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=replicated(mesh)), parameter_shapes(model)
        )
        return self._checkpointer.load_checkpointables(step, {"params": abstract})["params"], step

    def _no_checkpoint(self) -> InputError:
        return InputError(f"There is no checkpoint in {self._directory}: train first with --mode=train.")

    def close(self) -> None:
        """Waits until everything is on disk."""
        with _interrupts_wait():
            self._checkpointer.close()

    def _metadata(self, step: int) -> dict[str, Any]:
        metadata: Any = self._checkpointer.checkpointables_metadata(step).custom_metadata
        return metadata or {}

    def _check(self, step: int) -> None:
        metadata = self._metadata(step)
        saved = {**metadata, "model": complete_description(metadata.get("model", {}))}
        differences = [
            f"{group}.{name} is {_difference(theirs, ours)}"
            for group, values in self._description.items()
            for name, ours in values.items()
            if (theirs := saved.get(group, {}).get(name)) != ours
        ]
        if differences:
            raise InputError(
                f"{self._directory} holds the checkpoint of another run ({'; '.join(differences)}): choose another --workdir, "
                "or go on with the settings it was made with."
            )


@contextlib.contextmanager
def _interrupts_wait() -> Iterator[None]:
    """Ctrl-C takes effect at the end: stopped halfway, Orbax leaves threads behind that fail when the program ends."""
    if threading.current_thread() is not threading.main_thread():  # signals reach the main thread alone
        yield
        return
    caught: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: caught.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if caught:
        raise KeyboardInterrupt


def _difference(theirs: Any, ours: Any) -> str:
    """What the two are; of two lists only the first place where they differ."""
    if isinstance(theirs, list) and isinstance(ours, list):
        place = next((i for i, pair in enumerate(zip(theirs, ours, strict=False)) if pair[0] != pair[1]), None)
        if place is None:
            return f"{len(theirs)} long there and {len(ours)} here"
        return f"{theirs[place]!r} there and {ours[place]!r} here at number {place}"
    return f"{theirs!r} there and {ours!r} here"
