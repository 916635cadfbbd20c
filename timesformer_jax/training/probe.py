"""Train many probe heads at once on one frozen forward pass, each with its own learning rate and weight decay."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from flax import struct
from jax.sharding import Mesh

from timesformer_jax._typing import Array, Float, Int
from timesformer_jax.errors import InputError
from timesformer_jax.modeling import input_shape, variables_of, weight_shapes
from timesformer_jax.training.activations import split_activations, split_clips
from timesformer_jax.training.mesh import batch_sharding, replicated
from timesformer_jax.training.objective import OBJECTIVES, hits, make_targets
from timesformer_jax.training.probe_heads import PROBES
from timesformer_jax.training.schedules import make_schedule
from timesformer_jax.training.sharding import path_of, weight_sharding
from timesformer_jax.training.step import Metrics, Prepare

WARM_UP = 0.05
"""Fraction of the epochs in which the learning rates rise from 0."""


class Rates(NamedTuple):
    """Hyperparameters of one head.

    Attributes:
        learning_rate: Peak learning rate.
        weight_decay: Weight decay.
    """

    learning_rate: float
    weight_decay: float


def probe_rates(learning_rates: Sequence[float], weight_decays: Sequence[float]) -> list[Rates]:
    """Return all combinations, one per head; raises `InputError` for empty lists and numbers out of range."""
    for name, values, valid in (
        ("learning_rates", learning_rates, lambda value: 0 < value < float("inf")),
        ("weight_decays", weight_decays, lambda value: 0 <= value < float("inf")),
    ):
        several = isinstance(values, Sequence) and not isinstance(values, str) and len(values) > 0
        if not several or not all(isinstance(value, int | float) and valid(value) for value in values):
            wanted = "positive" if name == "learning_rates" else "of at least 0"
            raise InputError(f"probe.{name} must be one or more numbers, each {wanted}, such as (0.001, 0.1); got {values!r}.")
    return [Rates(float(rate), float(decay)) for decay, rate in itertools.product(weight_decays, learning_rates)]


def make_probe_optimizer(
    *, rates: Sequence[Rates], num_epochs: float, steps_per_epoch: float, b1: float = 0.9, b2: float = 0.999
) -> optax.GradientTransformation:
    """Make AdamW for stacked heads, parameters `[heads, ...]`, each with its own learning rate and weight decay.

    The learning rates rise from 0 during the fraction `WARM_UP` of the epochs, then fall to 0 along a cosine. Kernels decay by
    learning rate x weight decay per step; biases, LayerNorm scales and a learned query don't. Heads don't influence each other.

    Args:
        rates: Hyperparameters of each head.
        num_epochs: Length of the training in epochs.
        steps_per_epoch: Optimizer steps per epoch.
        b1: First beta.
        b2: Second beta.

    Raises:
        InputError: If `num_epochs` is not positive.
    """
    if num_epochs <= 0:
        raise InputError(f"probe.num_epochs must be above 0, got {num_epochs}.")
    factor = make_schedule(
        name="cosine",
        learning_rate=1.0,
        warmup_epochs=WARM_UP * num_epochs,
        steps=(),
        num_epochs=num_epochs,
        steps_per_epoch=steps_per_epoch,
    )
    learning_rate, weight_decay = (jnp.array(values, jnp.float32) for values in zip(*rates, strict=True))

    def rated(updates: Any, params: Any) -> Any:
        def one(keys: Any, update: Array, param: Array) -> Array:
            each = (len(rates), *(1,) * (param.ndim - 1))
            if path_of(keys).endswith("kernel"):
                update = update + weight_decay.reshape(each) * param
            return -learning_rate.reshape(each) * update

        return jax.tree_util.tree_map_with_path(one, updates, params)

    return optax.chain(optax.scale_by_adam(b1, b2), optax.stateless(rated), optax.scale_by_schedule(factor))


@struct.dataclass
class ProbeState:
    """Training state of a probe; the first axis of parameters and moments indexes the heads.

    Attributes:
        step: Number of completed steps.
        params: Stacked parameters of the heads.
        opt_state: State of the optimizer.
    """

    step: Int[Array, ""]
    params: Any
    opt_state: Any


def _reader(model: nn.Module, kind: str, mesh: Mesh) -> Callable[[Any, Array], Array]:
    """Make a function (model weights, clips) -> features for the probe, without gradient and sharded like the batch."""

    def read(weights: Any, video: Array) -> Array:
        with split_activations(mesh):
            features: Any = model.apply(variables_of(weights), split_clips(video, mesh), method="features")
        given = jax.lax.stop_gradient(PROBES[kind].read(features))
        return jax.lax.with_sharding_constraint(given, batch_sharding(mesh))

    return read


def _each_head(function: Callable[[Any], Any], params: Any, at_once: int) -> Any:
    """Apply `function` to each head's parameters and stack the results, `at_once` heads at a time (0: all)."""
    num_heads = len(jax.tree.leaves(params)[0])
    if at_once in (0, num_heads) or at_once > num_heads:
        return jax.vmap(function)(params)
    return jax.lax.map(function, params, batch_size=at_once)


def init_probe_state(
    *, model: nn.Module, probe: Any, kind: str, optimizer: optax.GradientTransformation, num_heads: int, seed: int, mesh: Mesh
) -> ProbeState:
    """Initialise a replicated probe state, in which all heads have the same parameters.

    Args:
        model: The frozen model.
        probe: Flax module of one head.
        kind: Kind of probe, a key of `PROBES`.
        optimizer: Result of `make_probe_optimizer`.
        num_heads: Number of heads.
        seed: Seed of the parameters.
        mesh: Mesh of the devices.
    """
    video = jax.ShapeDtypeStruct(input_shape(model), jnp.float32)

    def read(weights: Any, video: Array) -> Array:
        features: Any = model.apply(variables_of(weights), video, method="features")
        return PROBES[kind].read(features)

    given = jax.eval_shape(read, weight_shapes(model), video)

    def init() -> ProbeState:
        params = probe.init(jax.random.key(seed), jnp.zeros(given.shape, given.dtype))["params"]
        params = jax.tree.map(lambda x: jnp.broadcast_to(x, (num_heads, *x.shape)), params)
        return ProbeState(jnp.zeros((), jnp.int32), params, optimizer.init(params))

    return jax.jit(init, out_shardings=replicated(mesh))()


def make_probe_step(
    *,
    model: nn.Module,
    probe: Any,
    kind: str,
    optimizer: optax.GradientTransformation,
    prepare: Prepare,
    seed: int,
    mesh: Mesh,
    objective: str = "softmax",
    heads_at_once: int = 0,
) -> Callable[[ProbeState, Any, dict[str, Array]], tuple[ProbeState, Metrics]]:
    """Make a jitted training step (state, model weights, batch) -> (state, metrics); the old state is donated.

    The frozen model runs forward once per batch, without dropout, and every head trains on its features as it would alone.
    Labels are neither mixed nor smoothed.

    Args:
        model: The frozen model.
        probe: Flax module of one head.
        kind: Kind of probe, a key of `PROBES`.
        optimizer: Result of `make_probe_optimizer`.
        prepare: Augmentation, as in `make_train_step`.
        seed: Seed of the augmentation.
        mesh: Mesh of the devices.
        objective: A key of `OBJECTIVES`.
        heads_at_once: Train heads in groups of this size, which needs only one group's memory; 0 for all at once.

    Returns:
        The step. Its metrics `loss` and `top1` have shape `[heads]` and cover the whole batch.
    """
    read, loss_of = _reader(model, kind, mesh), OBJECTIVES[objective].loss

    def train_step(state: ProbeState, backbone: Any, batch: dict[str, Array]) -> tuple[ProbeState, Metrics]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        given, labels = read(backbone, prepare(key, batch)), batch["label"]
        targets = make_targets(labels, probe.num_classes)

        def loss_and_top1(params: Any) -> tuple[Array, Array]:
            logits: Any = probe.apply({"params": params}, given)
            return loss_of(logits, targets).mean(), hits(logits, labels).mean()

        differentiate = jax.value_and_grad(loss_and_top1, has_aux=True)
        (loss, top1), grads = _each_head(differentiate, state.params, heads_at_once)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        return ProbeState(state.step + 1, params, opt_state), {"loss": loss, "top1": top1}

    whole = replicated(mesh)
    return jax.jit(
        train_step,
        donate_argnums=0,
        in_shardings=(whole, weight_sharding(weight_shapes(model), mesh), batch_sharding(mesh)),
        out_shardings=whole,
    )


def make_probe_score_fn(
    *,
    model: nn.Module,
    probe: Any,
    kind: str,
    prepare: Callable[[dict[str, Array]], Array],
    mesh: Mesh,
    objective: str = "softmax",
    heads_at_once: int = 0,
) -> Callable[[tuple[Any, Any], dict[str, Array]], Array]:
    """Make a jitted function ((model weights, head parameters), batch of `B` clips) -> scores `[B, heads * classes]`.

    One forward pass of the model serves all heads. With one crop per clip, the function can be passed to `predict_videos`, with
    `averages=("probabilities",)`, which averages each number independently.

    Args:
        model: The frozen model.
        probe: Flax module of one head.
        kind: Kind of probe, a key of `PROBES`.
        prepare: Crop and normalise a batch.
        mesh: Mesh of the devices.
        objective: A key of `OBJECTIVES`.
        heads_at_once: Number of heads per group; 0 for all at once.
    """
    read, scores_of = _reader(model, kind, mesh), OBJECTIVES[objective].scores

    def score(params: tuple[Any, Any], batch: dict[str, Array]) -> Float[Array, "B scores"]:
        backbone, heads = params
        given = read(backbone, prepare(batch))

        def of_head(params: Any) -> Array:
            logits: Any = probe.apply({"params": params}, given)
            return scores_of(logits)

        scores = _each_head(of_head, heads, heads_at_once)  # [heads, B, classes]
        return jnp.moveaxis(scores, 0, 1).reshape(len(given), -1)

    whole, split, backbone = replicated(mesh), batch_sharding(mesh), weight_sharding(weight_shapes(model), mesh)
    return jax.jit(score, in_shardings=((backbone, whole), split), out_shardings=split)
