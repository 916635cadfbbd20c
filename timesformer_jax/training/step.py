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

Prepare = Callable[[Array, dict[str, Array]], Array]
"""(random key, batch) -> clips `[B, T, H, W, C]` as the model gets them, on the device."""

Mix = Callable[[Array, Array, Array], tuple[Array, Array, Array]]
"""(random key, prepared video, labels `[B]`) -> mixed video, each clip's other label `[B]`, the share of its own `[B]`."""

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


def cross_entropy(
    logits: Float[Array, "B classes"],
    labels: Int[Array, "B"],
    other_labels: Int[Array, "B"] | None = None,
    share: Float[Array, "B"] | float = 1.0,
) -> Float[Array, ""]:
    """Mean cross-entropy of the batch; of mixed clips that to both labels, by their shares."""
    losses = optax.losses.softmax_cross_entropy_with_integer_labels(logits, labels)
    if other_labels is not None:
        others = optax.losses.softmax_cross_entropy_with_integer_labels(logits, other_labels)
        losses = share * losses + (1 - share) * others
    return losses.mean()


def make_train_step(
    *,
    model: TimeSformer,
    optimizer: optax.GradientTransformation,
    prepare: Prepare,
    mix: Mix | None = None,
    seed: int,
    mesh: Mesh,
) -> Callable[[TrainState, dict[str, Array]], tuple[TrainState, Metrics]]:
    """A function (state, batch) -> (state, metrics); the old state's memory is reused.

    The batch has what `prepare` makes clips of, and `label` (int32 `[B]`), all split over the mesh. Metrics are replicated
    scalars over the whole batch: `loss`, `top1`, `grad_norm`. Where clips are mixed, `top1` counts either label by its share.
    """

    def train_step(state: TrainState, batch: dict[str, Array]) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        prepare_key, dropout_key = jax.random.split(key)
        video, labels = prepare(prepare_key, batch), batch["label"]
        others, share = None, 1.0
        if mix is not None:
            video, others, share = mix(jax.random.fold_in(prepare_key, 1), video, labels)

        def loss_and_logits(params: Any) -> tuple[Array, Array]:
            logits: Any = model.apply({"params": params}, video, train=True, rngs={"dropout": dropout_key})
            return cross_entropy(logits, labels, others, share), logits

        (loss, logits), grads = jax.value_and_grad(loss_and_logits, has_aux=True)(state.params)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        best = logits.argmax(axis=-1)
        hits = share * (best == labels).astype(jnp.float32)
        if others is not None:
            hits += (1 - share) * (best == others).astype(jnp.float32)
        metrics = {
            "loss": loss,
            "top1": hits.mean(),
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
