"""Contenders of this library: forward passes, training steps and the reference product of matrices."""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import optax

import timesformer_jax as tsf
from benchmarks.contenders.sizes import CLASSES, FRAMES, SIZE
from benchmarks.contenders.turns import Runs
from timesformer_jax.cost import SYSTEMS, count_multiply_adds
from timesformer_jax.modeling import apply_and_update, init_weights, variables_of

PRODUCTS = 10
"""Products of matrices in one run of the reference."""
GIB = 2**30


def base_forward(batch_size: int, *, folded: bool = False) -> Runs:
    """Return the forward pass of base."""
    model, variables = base()
    if folded:
        variables = {"params": tsf.fold_for_inference(variables["params"])}
    run, _ = forward(model, variables, batch_size, SIZE)
    return {"": run}


def base_training_step(batch_size: int) -> Runs:
    """Return a training step of base with scanned blocks and SGD with momentum."""
    run, _ = training_step(base(scan_layers=True)[0], batch_size)
    return {"": run}


def matrix_product(batch_size: int) -> Runs:
    """Return the reference for utilisation: `PRODUCTS` times `matrix_side()`^3 multiply-adds, whatever the batch size."""
    side = matrix_side()
    a = (jax.random.normal(jax.random.key(0), (side, side)) / side**0.5).astype(dtype())

    @jax.jit
    def products(a: Any) -> Any:
        result = a
        for _ in range(PRODUCTS):
            result = result @ a
        return result

    return {"": lambda: jax.block_until_ready(products(a))}


def system(name: str) -> tuple[Runs, dict[str, float]]:
    """Return one of the paper's systems: the forward pass of a view of its test, and the training step of a clip.

    Returns:
        The runs, and the GiB of arguments, results and temporary arrays that the compiler states for each.
    """
    test_size, _ = SYSTEMS[name]
    model = tsf.create(name, num_classes=CLASSES, dtype=dtype())
    # As in the recipes, whose long clips don't fit otherwise.
    trained = model.clone(scan_layers=True, remat="full") if name in LONG_CLIPS else model
    variables = variables_of(jax.jit(lambda key: init_weights(model, key))(jax.random.key(0)))
    made = {
        "view": forward(model, variables, 1, test_size),
        "training": training_step(trained, 1),
    }
    return {key: run for key, (run, _) in made.items()}, {key: gib for key, (_, gib) in made.items()}


LONG_CLIPS = ("timesformer-hr", "timesformer-large-frames")
"""Systems whose recipes train with scanned and rematerialized blocks."""


def base(**fields: Any) -> tuple[tsf.TimeSformer, Any]:
    """Return base and random variables."""
    model = tsf.create("timesformer-base", num_classes=CLASSES, dtype=dtype(), **fields)
    return model, variables_of(jax.jit(lambda key: init_weights(model, key))(jax.random.key(0)))


def forward(model: Any, variables: Any, batch_size: int, size: int) -> tuple[Callable[[], None], float]:
    """Return a forward pass of one of three random batches, and its GiB by the compiler."""
    videos = _videos(model, batch_size, size)
    compiled = jax.jit(model.apply).lower(variables, next(videos)).compile()
    return lambda: jax.block_until_ready(compiled(variables, next(videos))), _gib(compiled)


def training_step(model: Any, batch_size: int) -> tuple[Callable[[], None], float]:
    """Return a training step (SGD with momentum) on one of three random batches, and its GiB by the compiler."""
    videos = _videos(model, batch_size, model.image_size)
    optimizer = optax.sgd(1e-3, momentum=0.9)

    def step(state: Any, video: Any) -> tuple[Any, Any]:
        params, stats, moments = state

        def loss_of(params: Any) -> tuple[Any, Any]:
            logits, updated = apply_and_update(model, params, stats, video, jax.random.key(0))
            return (logits**2).mean(), updated

        (loss, stats), grads = jax.value_and_grad(loss_of, has_aux=True)(params)
        updates, moments = optimizer.update(grads, moments, params)
        return (optax.apply_updates(params, updates), stats, moments), loss

    @jax.jit
    def start(key: Any) -> Any:
        variables = variables_of(init_weights(model, key))
        return variables["params"], variables.get("batch_stats", {}), optimizer.init(variables["params"])

    state = start(jax.random.key(0))
    compiled = jax.jit(step, donate_argnums=0).lower(state, next(videos)).compile()

    def run() -> None:
        nonlocal state
        state, loss = compiled(state, next(videos))
        jax.block_until_ready(loss)

    return run, _gib(compiled)


def multiply_adds() -> dict[str, float]:
    """Return the count for one clip: of all features in separate layers (as the peer computes them), and XLA's for our logits.

    The latter with the temporal layers as one product in each call, and folded.
    """
    model = tsf.create("timesformer-base", num_classes=CLASSES)
    video = jax.ShapeDtypeStruct((1, FRAMES, SIZE, SIZE, 3), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), video)
    folded = jax.eval_shape(lambda v: {"params": tsf.fold_for_inference(v["params"])}, variables)

    def count(variables: Any) -> float:
        analysis: Any = jax.jit(model.apply).lower(variables, video).cost_analysis()
        return analysis["flops"] / 2

    return {"features": count_multiply_adds(model), "logits": count(variables), "folded": count(folded)}


def dtype() -> Any:
    """Return the dtype of the computation: bfloat16 on a GPU."""
    return jnp.bfloat16 if jax.default_backend() == "gpu" else jnp.float32


def matrix_side() -> int:
    """Return the rows and columns of the reference product."""
    return 2048 if on_cpu() else 8192


def on_cpu() -> bool:
    """Return whether JAX runs on the CPU."""
    return jax.default_backend() == "cpu"


def _videos(model: Any, batch_size: int, size: int) -> Iterator[Any]:
    shape = (batch_size, model.num_frames, size, size, 3)
    return itertools.cycle([jax.random.normal(jax.random.key(i), shape) for i in range(3)])


def _gib(compiled: Any) -> float:
    """Return the GiB of a program: arguments, results that don't reuse them, and temporary arrays."""
    sizes = compiled.memory_analysis()
    total = sizes.argument_size_in_bytes + sizes.output_size_in_bytes - sizes.alias_size_in_bytes + sizes.temp_size_in_bytes
    return total / GIB
