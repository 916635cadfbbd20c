"""The training state, and the training step as a single jitted function."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from flax import struct
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from timesformer_jax._typing import Array, Int
from timesformer_jax.modeling import apply_and_update, init_weights, variables_of, weight_shapes, weights_of
from timesformer_jax.training.activations import split_activations, split_clips
from timesformer_jax.training.mesh import BATCH_AXES, batch_sharding, replicated
from timesformer_jax.training.objective import OBJECTIVES, hits, make_targets
from timesformer_jax.training.sharding import sharding_of, weight_sharding

Prepare = Callable[[Array, dict[str, Array]], Array]
"""Maps (random key, batch) to the model's input `[B, T, H, W, C]`, on the device."""

Mix = Callable[[Array, Array, Array], tuple[Array, Array, Array]]
"""Maps (random key, prepared clips, labels `[B, ...]`) to (mixed clips, labels mixed in, weight of each own label `[B]`)."""

Metrics = dict[str, Array]

Outputs = tuple[Metrics, Any]
"""Metrics, and the running statistics after the batch."""


@struct.dataclass
class TrainState:
    """Everything that training changes; random keys are derived from the seed and `step`.

    As a tree, it may also hold the shapes or shardings of its arrays.
    """

    step: Any
    """Number of completed steps, an int32 scalar."""
    params: Any
    """Parameters of the model."""
    opt_state: Any
    """State of the optimizer."""
    ema: Any
    """Exponential moving average of the parameters; None if it isn't kept."""
    skipped: Any
    """Number of steps so far that were skipped because the loss or the gradient wasn't finite, an int32 scalar."""
    skipped_in_a_row: Any
    """Number of consecutive skipped steps up to now, an int32 scalar."""
    batch_stats: Any = struct.field(default_factory=dict)
    """Running statistics of the model's BatchNorm layers; empty if it has none."""

    @property
    def best_params(self) -> Any:
        """Parameters to evaluate: the moving average if it is kept."""
        return self.params if self.ema is None else self.ema

    @property
    def best_weights(self) -> Any:
        """Weights to evaluate: `best_params`, and the running statistics, which are copied and not averaged."""
        return weights_of(self.best_params, self.batch_stats)


def init_state(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    seed: int,
    mesh: Mesh,
    *,
    params: Any = None,
    batch_stats: Any = None,
    ema: bool = False,
) -> TrainState:
    """Initialise a state on the devices, sharded by `SHARDING_RULES`.

    To resume from a checkpoint, use `state_shapes`, which allocates nothing.

    Args:
        model: The model.
        optimizer: Its optimizer.
        seed: Seed of random parameters.
        mesh: Mesh of the devices.
        params: Initial parameters (NumPy or JAX arrays); random by default.
        batch_stats: Initial running statistics, for `params` of a model with BatchNorm.
        ema: Whether to keep a moving average of the parameters.
    """

    def init(weights: Any) -> TrainState:
        variables = variables_of(init_weights(model, jax.random.key(seed)) if weights is None else weights)
        params = variables["params"]
        zero = jnp.zeros((), jnp.int32)
        average = jax.tree.map(jnp.copy, params) if ema else None
        return TrainState(zero, params, optimizer.init(params), average, zero, zero, variables.get("batch_stats", {}))

    weights = None if params is None else weights_of(params, batch_stats)
    if weights is not None:
        weights = jax.tree.map(
            lambda x, where: jax.make_array_from_callback(x.shape, where, lambda i: x[i]), *_placed(weights, mesh)
        )
    shardings = jax.tree.map(lambda x: x.sharding, state_shapes(model, optimizer, mesh, ema=ema))
    return jax.jit(init, out_shardings=shardings)(weights)


def state_shapes(model: nn.Module, optimizer: optax.GradientTransformation, mesh: Mesh, *, ema: bool = False) -> TrainState:
    """Shapes, dtypes and shardings of the state of `init_state` (`jax.ShapeDtypeStruct`), for `Checkpoints.restore`.

    Nothing is computed or allocated, so resuming needs memory for the restored state only.

    Args:
        model: The model.
        optimizer: Its optimizer.
        mesh: Mesh of the devices.
        ema: Whether the state has a moving average.
    """
    variables, counter = variables_of(weight_shapes(model)), jax.ShapeDtypeStruct((), jnp.int32)
    shapes, batch_stats = variables["params"], variables.get("batch_stats", {})
    opt_state = jax.eval_shape(optimizer.init, shapes)
    state = TrainState(counter, shapes, opt_state, shapes if ema else None, counter, counter, batch_stats)
    return jax.tree.map(
        lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), state, sharding_of(state, shapes, mesh)
    )


def _placed(weights: Any, mesh: Mesh) -> tuple[Any, Any]:
    host = jax.tree.map(jax.device_get, weights)
    return host, weight_sharding(host, mesh)


def update_average(average: Any, params: Any, step: Int[Array, ""], decay: float) -> Any:
    """Update the moving average after a step.

    The decay rises to `decay` as (1 + step) / (10 + step), so that the initial parameters are soon forgotten.

    Args:
        average: Moving average before the step.
        params: Parameters after the step.
        step: Index of the step, from 0.
        decay: Final decay.
    """
    counted = step.astype(jnp.float32)
    decay_now = jnp.minimum(decay, (1 + counted) / (10 + counted))
    return jax.tree.map(lambda old, new: decay_now * old + (1 - decay_now) * new, average, params)


def make_train_step(
    *,
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    prepare: Prepare,
    mix: Mix | None = None,
    seed: int | Int[Array, ""],
    mesh: Mesh,
    objective: str = "softmax",
    label_smoothing: float = 0.0,
    accumulation: int = 1,
    ema_decay: float = 0.0,
    trained: Callable[[Any], Any] | None = None,
    donate: bool = True,
) -> Callable[[TrainState, dict[str, Array]], tuple[TrainState, Metrics]]:
    """Make a jitted training step (state, batch) -> (state, metrics).

    The batch is sharded over the mesh. It contains the input of `prepare`, and `label`: int32 `[B]`, or `[B, classes]` for
    multi-label clips. A step whose loss or gradient isn't finite changes only the counters.

    BatchNorm normalises with the statistics of a micro-batch over all devices, and the running statistics are updated after
    each micro-batch in turn.

    Args:
        model: The model.
        optimizer: Its optimizer.
        prepare: Crops, augments and normalises a batch on the device.
        mix: Mixes prepared clips and their labels; None for no mixing.
        seed: Seed of augmentation, mixing and dropout; a traced one if the step is made inside a jitted function.
        mesh: Mesh of the devices.
        objective: Loss, a key of `OBJECTIVES`.
        label_smoothing: Label smoothing, as in `make_targets`.
        accumulation: Number of micro-batches over which the gradient of the batch is accumulated. Each has every
            `accumulation`th clip and its own random numbers.
        ema_decay: Decay of the moving average of the parameters, if the state has one.
        trained: Maps parameters to a tree of booleans; no gradient is computed for False. All are trained by default.
        donate: Whether to reuse the memory of the old state.

    Returns:
        The step. Its metrics are replicated scalars over the whole batch: `loss`, `top1` (for mixed clips, a hit on either
        label counts by its weight), `grad_norm`, `update_norm`, `skipped` and `skipped_in_a_row`.
    """
    loss_of = OBJECTIVES[objective].loss
    shapes = variables_of(weight_shapes(model))["params"]
    recomputes = getattr(model, "remat", "none") != "none"

    def loss_and_outputs(params: Any, batch_stats: Any, key: Array, batch: dict[str, Array]) -> tuple[Array, Outputs]:
        prepare_key, mix_key, dropout_key = jax.random.split(key, 3)
        video, labels = prepare(prepare_key, batch), batch["label"]
        others, share = None, None
        if mix is not None:
            video, others, share = mix(mix_key, video, labels)
        if trained is not None:
            params = jax.tree.map(lambda x, train: x if train else jax.lax.stop_gradient(x), params, trained(params))
        with split_activations(mesh, regather=not recomputes):
            logits, batch_stats = apply_and_update(model, params, batch_stats, split_clips(video, mesh), dropout_key)
        targets = make_targets(labels, logits.shape[-1], smoothing=label_smoothing, others=others, share=share)
        loss = loss_of(logits, targets).mean()
        return loss, ({"loss": loss, "top1": hits(logits, labels, others, share).mean()}, batch_stats)

    differentiate = jax.grad(loss_and_outputs, has_aux=True)

    def gradient(params: Any, batch_stats: Any, key: Array, batch: dict[str, Array]) -> tuple[Any, Outputs]:
        grads, outputs = differentiate(params, batch_stats, key, batch)
        # Each device sums only the gradients that it applies (a reduce-scatter if parameters are sharded).
        return jax.lax.with_sharding_constraint(grads, sharding_of(grads, shapes, mesh)), outputs

    def accumulated(params: Any, batch_stats: Any, key: Array, batch: dict[str, Array]) -> tuple[Any, Outputs]:
        """Average gradients and metrics over the micro-batches, one at a time; each updates the running statistics."""

        def part(x: Array) -> Array:  # [B, ...] -> [accumulation, B / accumulation, ...], without communication
            x = x.reshape(x.shape[0] // accumulation, accumulation, *x.shape[1:]).swapaxes(0, 1)
            return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, PartitionSpec(None, BATCH_AXES)))

        def add(carry: Any, numbered: tuple[Array, Any]) -> tuple[Any, None]:
            (total, batch_stats), (number, part) = carry, numbered
            grads, (metrics, batch_stats) = gradient(params, batch_stats, jax.random.fold_in(key, number), part)
            return (jax.tree.map(jnp.add, total, (grads, metrics)), batch_stats), None

        grads, (metrics, _) = jax.eval_shape(gradient, params, batch_stats, key, jax.tree.map(lambda x: part(x)[0], batch))
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), (grads, metrics))
        batches = jnp.arange(accumulation), jax.tree.map(part, batch)
        (total, batch_stats), _ = jax.lax.scan(add, (zeros, batch_stats), batches)
        grads, metrics = jax.tree.map(lambda x: x / accumulation, total)
        return grads, (metrics, batch_stats)

    def train_step(state: TrainState, batch: dict[str, Array]) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        compute = gradient if accumulation == 1 else accumulated
        grads, (metrics, batch_stats) = compute(state.params, state.batch_stats, key, batch)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)  # includes clipping
        params = optax.apply_updates(state.params, updates)
        ema = None if state.ema is None else update_average(state.ema, params, state.step, ema_decay)
        metrics |= {"grad_norm": optax.tree.norm(grads), "update_norm": optax.tree.norm(updates)}

        finite = jnp.isfinite(metrics["loss"]) & jnp.isfinite(metrics["grad_norm"])
        new = (params, opt_state, ema, batch_stats)
        old = (state.params, state.opt_state, state.ema, state.batch_stats)
        params, opt_state, ema, batch_stats = jax.tree.map(lambda x, before: jnp.where(finite, x, before), new, old)
        bad = 1 - finite.astype(jnp.int32)
        in_a_row = bad * (state.skipped_in_a_row + 1)
        metrics |= {"skipped": bad, "skipped_in_a_row": in_a_row}
        return TrainState(state.step + 1, params, opt_state, ema, state.skipped + bad, in_a_row, batch_stats), metrics

    shardings = jax.tree.map(lambda x: x.sharding, state_shapes(model, optimizer, mesh, ema=ema_decay > 0))
    return jax.jit(
        train_step,
        donate_argnums=0 if donate else (),
        in_shardings=(shardings, batch_sharding(mesh)),
        out_shardings=(shardings, replicated(mesh)),
    )
