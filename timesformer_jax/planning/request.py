"""Description of a training step to plan, as plain values that can be sent to another process."""

import dataclasses
import functools
import json
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from timesformer_jax.architectures import ARCHITECTURES
from timesformer_jax.augment import MixingOptions, PixelOptions, mix_clips, prepare_training
from timesformer_jax.modeling import input_shape, num_blocks
from timesformer_jax.training import (
    TrainState,
    batch_sharding,
    check_mesh,
    local_batch_size,
    make_optimizer,
    make_train_step,
    state_shapes,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepRequest:
    """A training step: model, batch, optimizer, augmentation and mesh. All fields are JSON values."""

    model: dict[str, Any]
    """Fields of the model, such as those of `timesformer_jax.TimeSformer`, `num_classes` included; `dtype` is text."""
    mesh: dict[str, int]
    """Sizes of the axes, as for `timesformer_jax.training.make_mesh`."""
    batch_size: int
    """Clips per step over all devices."""
    window: int
    """Side in pixels of the uint8 windows from which clips are cropped on the device."""
    optimizer: dict[str, Any]
    """Arguments of `timesformer_jax.training.make_optimizer`, except those of the schedule's length."""
    num_epochs: float
    """Length of the training."""
    clips_per_epoch: int
    """Number of training clips per epoch."""
    accumulation: int = 1
    """Number of micro-batches."""
    ema_decay: float = 0.0
    """Decay of the moving average; 0 for none."""
    label_smoothing: float = 0.0
    objective: str = "softmax"
    """Key of `timesformer_jax.training.OBJECTIVES`."""
    pixels: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Fields of `timesformer_jax.augment.PixelOptions`."""
    mixing: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Fields of `timesformer_jax.augment.MixingOptions`."""
    architecture: str = "timesformer"
    """Key of `timesformer_jax.architectures.ARCHITECTURES`."""

    @property
    def module(self) -> Any:
        """The model."""
        return ARCHITECTURES[self.architecture](**self.model)

    @property
    def steps_per_epoch(self) -> float:
        """Number of steps per epoch."""
        return self.clips_per_epoch / self.batch_size

    @property
    def num_steps(self) -> int:
        """Number of steps of the training."""
        return max(round(self.num_epochs * self.steps_per_epoch), 1)

    def to_json(self) -> str:
        """Text from which `from_json` makes an equal request."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "StepRequest":
        """Parse the result of `to_json`."""
        return cls(**json.loads(text))


def make_step(request: StepRequest, mesh: Mesh) -> tuple[Any, TrainState, dict[str, jax.ShapeDtypeStruct]]:
    """Make the jitted training step of a request, with the shapes and shardings of its state and of its batch.

    Raises:
        InputError: If the mesh can't shard the model or the batch.
    """
    model = request.module
    check_mesh(model, mesh)
    local_batch_size("train.batch_size", request.batch_size, mesh, request.accumulation)
    optimizer = make_optimizer(
        **request.optimizer, depth=num_blocks(model), num_epochs=request.num_epochs, steps_per_epoch=request.steps_per_epoch
    )
    pixels = PixelOptions(**request.pixels).for_labels(())
    mixing = MixingOptions(**request.mixing)
    sharding = batch_sharding(mesh)
    step = make_train_step(
        model=model,
        optimizer=optimizer.transformation,
        prepare=functools.partial(prepare_training, options=pixels, split=sharding if mesh.size > 1 else None),
        mix=functools.partial(mix_clips, options=mixing) if mixing.mixes else None,
        seed=0,
        mesh=mesh,
        objective=request.objective,
        label_smoothing=request.label_smoothing,
        accumulation=request.accumulation,
        ema_decay=request.ema_decay,
        trained=optimizer.trained,
    )
    state = state_shapes(model, optimizer.transformation, mesh, ema=request.ema_decay > 0)
    _, num_frames, height, width, num_channels = input_shape(model)
    labels = (model.num_classes,) if request.objective == "sigmoid" else ()
    shapes = {
        "video": ((num_frames, request.window, request.window, num_channels), jnp.uint8),
        "rows": ((height,), jnp.float32),
        "columns": ((width,), jnp.float32),
        "label": (labels, jnp.int32),
    }
    batch = {
        name: jax.ShapeDtypeStruct((request.batch_size, *shape), dtype, sharding=sharding)
        for name, (shape, dtype) in shapes.items()
    }
    return step, state, batch
