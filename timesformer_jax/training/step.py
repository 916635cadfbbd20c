"""The training state and one step of training, as a single jitted function."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax.sharding import Mesh

from timesformer_jax._typing import Array, Float, Int
from timesformer_jax.modeling import TimeSformer
from timesformer_jax.training.sharding import replicated, split_batch

Prepare = Callable[[Array, Array], Array]
"""(random key, uint8 video `[B, T, H, W, C]`) -> what the model gets, on the device."""

Metrics = dict[str, Array]


@struct.dataclass
class TrainState:
    """All that training changes. Random keys are no part of it: they follow from the seed and `step`."""

    step: Int[Array, ""]
    params: Any
    opt_state: Any


def init_state(model: TimeSformer, optimizer: optax.GradientTransformation, seed: int, mesh: Mesh) -> TrainState:
    """A fresh state, made on the devices."""

    def init() -> TrainState:
        height, width = (size * model.patch_size for size in model.grid)
        video = jnp.zeros((1, model.num_frames, height, width, model.num_channels))
        params = model.init(jax.random.key(seed), video)["params"]
        return TrainState(step=jnp.zeros((), jnp.int32), params=params, opt_state=optimizer.init(params))

    return jax.jit(init, out_shardings=replicated(mesh))()


def cross_entropy(logits: Float[Array, "B classes"], labels: Int[Array, "B"]) -> Float[Array, ""]:
    """Mean cross-entropy of the batch."""
    return optax.losses.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def make_train_step(
    *, model: TimeSformer, optimizer: optax.GradientTransformation, prepare: Prepare, seed: int, mesh: Mesh
) -> Callable[[TrainState, dict[str, Array]], tuple[TrainState, Metrics]]:
    """A function (state, batch) -> (state, metrics); the old state's memory is reused.

    The batch has `video` (uint8 `[B, T, H, W, C]`) and `label` (int32 `[B]`), split over the mesh. Metrics are replicated
    scalars over the whole batch: `loss`, `top1`, `grad_norm`.
    """

    def train_step(state: TrainState, batch: dict[str, Array]) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        prepare_key, dropout_key = jax.random.split(key)
        video = prepare(prepare_key, batch["video"])

        def loss_and_logits(params: Any) -> tuple[Array, Array]:
            logits: Any = model.apply({"params": params}, video, train=True, rngs={"dropout": dropout_key})
            return cross_entropy(logits, batch["label"]), logits

        (loss, logits), grads = jax.value_and_grad(loss_and_logits, has_aux=True)(state.params)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        metrics = {
            "loss": loss,
            "top1": (logits.argmax(axis=-1) == batch["label"]).astype(jnp.float32).mean(),
            "grad_norm": optax.tree.norm(grads),
        }
        params = optax.apply_updates(state.params, updates)
        return TrainState(step=state.step + 1, params=params, opt_state=opt_state), metrics

    return jax.jit(
        train_step,
        donate_argnums=0,
        in_shardings=(replicated(mesh), split_batch(mesh)),
        out_shardings=(replicated(mesh), replicated(mesh)),
    )
