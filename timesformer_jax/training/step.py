"""The training state and one step of training, as a single jitted function."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from timesformer_jax._typing import Array, Int
from timesformer_jax.modeling import TimeSformer, parameter_shapes
from timesformer_jax.training.activations import split_activations, split_clips
from timesformer_jax.training.mesh import BATCH_AXES, batch_sharding, replicated
from timesformer_jax.training.objective import OBJECTIVES, hits, make_targets
from timesformer_jax.training.sharding import sharding_of

Prepare = Callable[[Array, dict[str, Array]], Array]
"""(random key, batch) -> clips `[B, T, H, W, C]` as the model gets them, on the device."""

Mix = Callable[[Array, Array, Array], tuple[Array, Array, Array]]
"""(random key, prepared video, labels `[B, ...]`) -> mixed video, each clip's other labels, the share of its own `[B]`."""

Metrics = dict[str, Array]


@struct.dataclass
class TrainState:
    """All that training changes. Random keys are no part of it: they follow from the seed and `step`.

    `ema`: the moving average of the parameters, None where none is kept. `skipped`: how many of the steps up to `step` were
    skipped, since the loss or the gradient wasn't finite; `skipped_in_a_row`: those since the last one that wasn't. These and
    `step` are int32 scalars. (As a tree it may also hold the arrays' shapes, or their shardings.)
    """

    step: Any
    params: Any
    opt_state: Any
    ema: Any
    skipped: Any
    skipped_in_a_row: Any

    @property
    def best_params(self) -> Any:
        """What is evaluated: the average where there is one."""
        return self.params if self.ema is None else self.ema


def init_state(
    model: TimeSformer,
    optimizer: optax.GradientTransformation,
    seed: int,
    mesh: Mesh,
    *,
    params: Any = None,
    ema: bool = False,
) -> TrainState:
    """A fresh state, made on the devices where `SHARDING_RULES` wants it.

    `params`: what to begin with (NumPy or JAX arrays); drawn from `seed` by default. `ema`: keep a moving average too.
    To resume from a checkpoint use `state_shapes`: nothing is allocated there.
    """

    def init(params: Any) -> TrainState:
        if params is None:
            height, width = (size * model.patch_size for size in model.grid)
            video = jnp.zeros((1, model.num_frames, height, width, model.num_channels))
            params = model.init(jax.random.key(seed), video)["params"]
        zero = jnp.zeros((), jnp.int32)
        average = jax.tree.map(jnp.copy, params) if ema else None
        return TrainState(zero, params, optimizer.init(params), average, zero, zero)

    if params is not None:
        params = jax.tree.map(
            lambda x, where: jax.make_array_from_callback(x.shape, where, lambda i: x[i]), *_placed(params, mesh)
        )
    shardings = jax.tree.map(lambda x: x.sharding, state_shapes(model, optimizer, mesh, ema=ema))
    return jax.jit(init, out_shardings=shardings)(params)


def state_shapes(model: TimeSformer, optimizer: optax.GradientTransformation, mesh: Mesh, *, ema: bool = False) -> TrainState:
    """The state of `init_state` as shapes, dtypes and shardings (`jax.ShapeDtypeStruct`), for `Checkpoints.restore`.

    Nothing is computed or allocated, so that resuming needs memory for one state, the restored one.
    """
    shapes, counter = parameter_shapes(model), jax.ShapeDtypeStruct((), jnp.int32)
    state = TrainState(counter, shapes, jax.eval_shape(optimizer.init, shapes), shapes if ema else None, counter, counter)
    return jax.tree.map(
        lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), state, sharding_of(state, shapes, mesh)
    )


def _placed(params: Any, mesh: Mesh) -> tuple[Any, Any]:
    host = jax.tree.map(jax.device_get, params)
    return host, sharding_of(host, host, mesh)


def update_average(average: Any, params: Any, step: Int[Array, ""], decay: float) -> Any:
    """The moving average after one more step, the `step`th (from 0).

    Its decay rises to `decay` as (1 + step) / (10 + step), so that the first parameters are soon forgotten.
    """
    counted = step.astype(jnp.float32)
    decay_now = jnp.minimum(decay, (1 + counted) / (10 + counted))
    return jax.tree.map(lambda old, new: decay_now * old + (1 - decay_now) * new, average, params)


def make_train_step(
    *,
    model: TimeSformer,
    optimizer: optax.GradientTransformation,
    prepare: Prepare,
    mix: Mix | None = None,
    seed: int,
    mesh: Mesh,
    objective: str = "softmax",
    label_smoothing: float = 0.0,
    accumulation: int = 1,
    ema_decay: float = 0.0,
    trained: Callable[[Any], Any] | None = None,
    donate: bool = True,
) -> Callable[[TrainState, dict[str, Array]], tuple[TrainState, Metrics]]:
    """A function (state, batch) -> (state, metrics); the old state's memory is reused, but where `donate` is False.

    The batch has what `prepare` makes clips of, and `label` (int32 `[B]`, or for several labels `[B, classes]`), split over
    the mesh. `objective`: a key of `OBJECTIVES`. With `accumulation` the batch goes through the model in so many parts, one
    after the other, for the gradient of the whole: a part has every `accumulation`th clip, and draws of its own. `trained`:
    parameters -> True or False for each; no gradient is computed for the others. A step whose loss or gradient isn't finite
    changes nothing but the counters.

    Metrics are replicated scalars over the whole batch: `loss`, `top1` (of mixed clips either label by its share), `grad_norm`,
    `update_norm`, `skipped`, `skipped_in_a_row`.
    """
    loss_of = OBJECTIVES[objective].loss
    shapes = parameter_shapes(model)

    def loss_and_metrics(params: Any, key: Array, batch: dict[str, Array]) -> tuple[Array, Metrics]:
        prepare_key, mix_key, dropout_key = jax.random.split(key, 3)
        video, labels = prepare(prepare_key, batch), batch["label"]
        others, share = None, None
        if mix is not None:
            video, others, share = mix(mix_key, video, labels)
        if trained is not None:
            params = jax.tree.map(lambda x, train: x if train else jax.lax.stop_gradient(x), params, trained(params))
        with split_activations(mesh):
            video = split_clips(video, mesh)
            logits: Any = model.apply({"params": params}, video, train=True, rngs={"dropout": dropout_key})
        targets = make_targets(labels, logits.shape[-1], smoothing=label_smoothing, others=others, share=share)
        loss = loss_of(logits, targets).mean()
        return loss, {"loss": loss, "top1": hits(logits, labels, others, share).mean()}

    differentiate = jax.grad(loss_and_metrics, has_aux=True)

    def gradient(params: Any, key: Array, batch: dict[str, Array]) -> tuple[Any, Metrics]:
        grads, metrics = differentiate(params, key, batch)
        # Each device adds up only what it will update (a reduce-scatter, where parameters are split).
        return jax.lax.with_sharding_constraint(grads, sharding_of(grads, shapes, mesh)), metrics

    def accumulated(params: Any, key: Array, batch: dict[str, Array]) -> tuple[Any, Metrics]:
        """The mean over the parts, one part at a time."""

        def part(x: Array) -> Array:  # [B, ...] -> [parts, B / parts, ...], every device's clips staying where they are
            x = x.reshape(x.shape[0] // accumulation, accumulation, *x.shape[1:]).swapaxes(0, 1)
            return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, PartitionSpec(None, BATCH_AXES)))

        def add(total: Any, numbered: tuple[Array, Any]) -> tuple[Any, None]:
            number, part = numbered
            return jax.tree.map(jnp.add, total, gradient(params, jax.random.fold_in(key, number), part)), None

        zeros = jax.tree.map(
            lambda x: jnp.zeros(x.shape, x.dtype),
            jax.eval_shape(gradient, params, key, jax.tree.map(lambda x: part(x)[0], batch)),
        )
        total, _ = jax.lax.scan(add, zeros, (jnp.arange(accumulation), jax.tree.map(part, batch)))
        return jax.tree.map(lambda x: x / accumulation, total)

    def train_step(state: TrainState, batch: dict[str, Array]) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        grads, metrics = (gradient if accumulation == 1 else accumulated)(state.params, key, batch)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)  # clipping is part of it
        params = optax.apply_updates(state.params, updates)
        ema = None if state.ema is None else update_average(state.ema, params, state.step, ema_decay)
        metrics |= {"grad_norm": optax.tree.norm(grads), "update_norm": optax.tree.norm(updates)}

        finite = jnp.isfinite(metrics["loss"]) & jnp.isfinite(metrics["grad_norm"])
        new, old = (params, opt_state, ema), (state.params, state.opt_state, state.ema)
        params, opt_state, ema = jax.tree.map(lambda x, before: jnp.where(finite, x, before), new, old)
        bad = 1 - finite.astype(jnp.int32)
        in_a_row = bad * (state.skipped_in_a_row + 1)
        metrics |= {"skipped": bad, "skipped_in_a_row": in_a_row}
        return TrainState(state.step + 1, params, opt_state, ema, state.skipped + bad, in_a_row), metrics

    shardings = jax.tree.map(lambda x: x.sharding, state_shapes(model, optimizer, mesh, ema=ema_decay > 0))
    return jax.jit(
        train_step,
        donate_argnums=0 if donate else (),
        in_shardings=(shardings, batch_sharding(mesh)),
        out_shardings=(shardings, replicated(mesh)),
    )
