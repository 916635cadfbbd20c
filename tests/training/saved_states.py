"""Checkpoints of a tiny model, made without compiling anything."""

import functools
from pathlib import Path

import jax
import numpy as np
import optax

import timesformer_jax as tsf
from timesformer_jax import training
from timesformer_jax.modeling import describe_model

MODEL = tsf.TimeSformer(num_classes=3, image_size=8, patch_size=8, num_frames=2, embed_dim=8, depth=1, num_heads=2)
OPTIMIZER = optax.adamw(1e-3)


def describe(model: tsf.TimeSformer) -> dict:
    return {"model": describe_model(model), "data": {"label_names": ["a", "b", "c"]}}


@functools.cache
def fresh_state() -> training.TrainState:
    """Random parameters and zeros elsewhere, made without compiling anything."""
    shapes = training.state_shapes(MODEL, OPTIMIZER, training.make_mesh(jax.devices()[:1]))
    draw = np.random.default_rng(0)
    state = jax.tree.map(lambda x: jax.device_put(np.zeros(x.shape, x.dtype), x.sharding), shapes)
    params = jax.tree.map(lambda x: jax.device_put(draw.standard_normal(x.shape, np.float32), x.sharding), shapes.params)
    return state.replace(params=params)


def saved(directory: Path, *steps: int, metrics: dict[int, float] | None = None) -> training.TrainState:
    state = fresh_state()
    checkpoints = training.Checkpoints(str(directory), describe(MODEL))
    for step in steps:
        at_step = jax.tree.map(lambda x, step=step: x + np.asarray(step, x.dtype), state)
        checkpoints.save(at_step, step, metric=(metrics or {}).get(step))
    checkpoints.close()
    return state


def kept(directory: Path) -> list[int]:
    return sorted(int(path.name) for path in directory.iterdir() if path.name.isdigit())
