"""Train and evaluate a config in this process: what main.py does, with videos in memory and one program for all seeds."""

import functools
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

import timesformer_jax as tsf
from benchmarks.miniature.convolutions import as_products
from benchmarks.miniature.videos import (
    Choices,
    choose_clips,
    eval_batches,
    label_names,
    num_training_videos,
    read_videos,
    window_of,
)
from experiment.data import describe_preprocess
from experiment.follow import follow_weights, make_model
from experiment.init_from import allowed_of_init_from
from input_pipeline import MixingOptions, PixelOptions, mix_clips, prepare_eval, prepare_training
from timesformer_jax import evaluation, training
from timesformer_jax.modeling import describe_model, init_weights, num_blocks, variables_of, weights_of
from timesformer_jax.pretrained import orbax
from timesformer_jax.video import nearest_clips

NO_WORKDIR = "/nowhere"
"""Path of a workdir without a checkpoint."""

Step = Callable[[Any, training.TrainState, Mapping[str, Any]], tuple[training.TrainState, dict[str, Any]]]


class Program(NamedTuple):
    """The compiled functions of a config, for any seed and any share of the data.

    Attributes:
        model: The model.
        init: Function seed -> random weights.
        start: Function weights -> state.
        step: Function (seed, state, batch) -> (state, metrics); the training step of the library.
        score: Function (weights, batch) -> scores; the scoring function of the library.
    """

    model: nn.Module
    init: Callable[[Any], Any]
    start: Callable[[Any], training.TrainState]
    step: Step
    score: Any
    mesh: Any


def num_steps(config: Any) -> int:
    """Number of training steps of the config."""
    return max(round(config.train.num_epochs * num_training_videos(config) / config.train.batch_size), 1)


def program_of(config: Any) -> Program:
    """Make the config's program, or return the one of another config that differs only in seed, data or checkpoint."""
    steps_per_epoch = num_training_videos(config) / config.train.batch_size
    names = label_names(config)
    optimizer = {**config.optimizer, "warmup_epochs": config.optimizer.warmup_epochs * steps_per_epoch}
    options = {
        "optimizer": optimizer,
        "steps": num_steps(config),
        "pixels": PixelOptions(**config.pixels).for_labels(names),
        "mixing": MixingOptions(**config.mixing),
        "train": (config.train.label_smoothing, config.train.ema_decay, config.train.accumulation),
        "window": window_of(config),
    }
    return _program(make_model(config).clone(num_classes=len(names)), _Options(**options))


class _Options(NamedTuple):
    optimizer: dict[str, Any]
    steps: int
    pixels: PixelOptions
    mixing: MixingOptions
    train: tuple[float, float, int]
    window: int

    @property
    def key(self) -> str:
        return repr(self)

    def __hash__(self) -> int:
        return hash(self.key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Options) and self.key == other.key


@functools.lru_cache(maxsize=4)
def _program(model: Any, options: _Options) -> Program:
    """Make a program; epochs are counted in steps, so that shares of the data have the same one."""
    mesh = training.make_mesh(jax.devices()[:1])
    optimizer = training.make_optimizer(
        **options.optimizer, depth=num_blocks(model), num_epochs=options.steps, steps_per_epoch=1.0
    )
    smoothing, ema_decay, accumulation = options.train
    given: dict[str, Any] = {
        "model": model,
        "optimizer": optimizer.transformation,
        "prepare": functools.partial(prepare_training, options=options.pixels),
        "mix": functools.partial(mix_clips, options=options.mixing) if options.mixing.mixes else None,
        "mesh": mesh,
        "label_smoothing": smoothing,
        "ema_decay": ema_decay,
        "accumulation": accumulation,
        "trained": optimizer.trained,
        "donate": False,
    }

    def step(seed: Any, state: training.TrainState, batch: Mapping[str, Any]) -> Any:
        with nn.intercept_methods(as_products):
            return training.make_train_step(**given, seed=seed)(state, cut(batch, options.window))

    def start(weights: Any) -> training.TrainState:
        variables, zero = variables_of(weights), jnp.zeros((), jnp.int32)
        params = variables["params"]
        average = params if ema_decay else None
        opt_state = optimizer.transformation.init(params)
        return training.TrainState(zero, params, opt_state, average, zero, zero, variables.get("batch_stats", {}))

    score = evaluation.make_score_fn(model=model, prepare=functools.partial(prepare_eval, options=options.pixels), mesh=mesh)
    init = jax.jit(lambda seed: init_weights(model, jax.random.key(seed)))
    return Program(model, init, jax.jit(start), jax.jit(step), score, mesh)


def cut(batch: Mapping[str, Any], size: int) -> dict[str, Any]:
    """Cut the windows of a batch out of the videos, padded with zeros where a window extends past the frame."""
    videos, choices = batch["videos"], batch["choices"]
    pad = max(size - videos.shape[2], 0)

    def window(video: Any, frames: Any, corner: Any) -> Any:
        padded = jnp.pad(videos[video][frames], ((0, 0), (0, pad), (0, pad), (0, 0)))
        return jax.lax.dynamic_slice(padded, (0, *corner, 0), (len(frames), size, size, 3))

    clips = jax.vmap(window)(choices.video, choices.frames, choices.corners)
    labels = batch["labels"][choices.video]
    return {"video": clips, "rows": choices.rows, "columns": choices.columns, "label": labels}


def complete(config: Any) -> Any:
    """Fill in the fields that follow the weights, as main.py does before it trains."""
    return follow_weights(config, NO_WORKDIR, "train")


def write_checkpoint(config: Any, state: training.TrainState, workdir: Path) -> None:
    """Write the weights as the checkpoint of a workdir, from which another config can start."""
    program = program_of(config)
    notes = {
        "model": describe_model(program.model),
        "data": {"label_names": label_names(config)},
        "preprocess": {**describe_preprocess(config).as_dict(), "short_sides": list(config.clips.short_side)},
        "objective": "softmax",
    }
    target = workdir / "checkpoints" / str(int(state.step))
    shutil.rmtree(target, ignore_errors=True)
    orbax.write_checkpoint(target, jax.tree.map(np.asarray, state.best_weights), notes)


def train(config: Any, tell: Callable[[int, Any], None] = lambda step, loss: None) -> training.TrainState:
    """Train a complete config to the end; `tell` receives steps and losses."""
    program, videos = program_of(config), read_videos(config, "train")
    weights = _starting_weights(config, program.model)
    size, steps = config.train.batch_size, num_steps(config)
    choices = choose_clips(config, steps * size)
    seed = jnp.int32(config.seed)
    state = program.start(program.init(seed) if weights is None else weights)
    data = {"videos": jnp.asarray(videos.frames), "labels": jnp.asarray(videos.labels)}
    for step in range(steps):
        part = Choices(*(each[step * size : (step + 1) * size] for each in choices))
        state, metrics = program.step(seed, state, {**data, "choices": part})
        tell(step, metrics["loss"])
    return state


def _starting_weights(config: Any, model: Any) -> Any:
    """Load the config's `init_from`, as main.py does; None without one."""
    if not config.init_from:
        return None
    pretrained = tsf.load(
        config.init_from,
        model=model,
        num_classes=len(label_names(config)),
        labels=label_names(config),
        key=jax.random.key(config.seed),
        allow=allowed_of_init_from(config),
    )
    return jax.tree.map(jnp.asarray, weights_of(pretrained.params, getattr(pretrained, "batch_stats", None)))


def evaluate(config: Any, state: training.TrainState) -> dict[str, Any]:
    """Score the validation videos and compute the figures of results.json."""
    program, options = program_of(config), config.eval
    scores = evaluation.score_clips(
        program.score, state.best_weights, eval_batches(config), num_crops=options.num_crops, mesh=program.mesh
    )
    total, placement = options.num_clips, config.clips.placement
    subsets = {count: nearest_clips(count, of=total, placement=placement) for count in range(1, total + 1)} if total > 1 else {}
    found = evaluation.figures(scores, options.average, subsets)
    return {**found, "num_videos": len(scores.names), "step": int(state.step)}
