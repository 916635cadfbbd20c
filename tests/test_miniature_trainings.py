"""Trainings in memory: the same clips, numbers and weights as a run by main.py and the library's own functions."""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from benchmarks.miniature import trainings, videos
from benchmarks.miniature.code import bare
from benchmarks.miniature.convolutions import as_products
from benchmarks.miniature.videos import Choices, choose_clips, eval_batches, read_videos
from experiment.data import clip_options, drawn_videos
from input_pipeline import EvalViews, PixelOptions, open_dataset, prepare_training, training_batches
from input_pipeline import eval_batches as eval_batches_of
from input_pipeline.moving_digits import SCENES
from tests.runs import config_of
from timesformer_jax import training


@pytest.fixture(autouse=True, scope="module")
def optax_promotes():
    """Allow dtype promotion, since optax mixes dtypes."""
    with jax.numpy_dtype_promotion("standard"):
        yield


SMALL = {"data.train_clips": 40, "data.val_clips": 7, "train.batch_size": 8, "train.num_epochs": 1.6, "eval.batch_size": 4}
TIMESFORMER = {**SMALL, "model.embed_dim": 16, "model.depth": 1, "model.drop_path_rate": 0.2}


def config(variant: str, **fields: Any) -> Any:
    return trainings.complete(config_of("moving_digits", variant, **fields))


def test_clips_in_memory_are_those_of_the_input_pipeline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Videos, frames, windows, crops and labels, beyond the end of an epoch of a share of the data.

    Prepared data are numbered in another order than clips are drawn.
    """
    fields = {"model.num_frames": 4, "clips.short_side": (34, 40), "train.data_share": 0.5, "seed": 3, "eval.num_clips": 3}
    made = config("shaky", **{**TIMESFORMER, **fields, "data.data_dir": str(tmp_path)})
    dataset = open_dataset(**made.data)
    names = {split: list(dataset.facts(split, "name")) for split in ("train", "val")}
    shaky = SCENES["shaky"]
    renumbered = shaky._replace(draw=lambda split, index: shaky.draw(split, int(names[split][index].partition("-")[2])))
    monkeypatch.setitem(SCENES, "shaky", renumbered)
    monkeypatch.setattr(videos, "clip_name", lambda split, index: names[split][index])
    videos._draw.cache_clear()
    share = dataclasses.replace(dataset, chosen=("train", drawn_videos(40, made)))
    options = clip_options(made)
    theirs = training_batches(share, "train", options, batch_size=8, seed=3)
    choices, train = choose_clips(made, 24), read_videos(made, "train")
    for step in range(3):
        agree(trainings.cut(batch_of(train, choices, step), options.training_window(32)), next(theirs))
    expected = eval_batches_of(dataset, "val", options, batch_size=4, views=EvalViews(num_clips=3, num_crops=1))
    for ours, their in zip(eval_batches(made), expected, strict=True):
        for name in ("identity", "clip", "mask"):
            np.testing.assert_array_equal(ours[name], their[name])
        agree(ours, their)
    videos._draw.cache_clear()
    videos._choose.cache_clear()


def batch_of(train: videos.Videos, choices: Choices, step: int) -> dict[str, Any]:
    part = Choices(*(each[8 * step : 8 * step + 8] for each in choices))
    return {"videos": jnp.asarray(train.frames), "labels": jnp.asarray(train.labels), "choices": part}


def agree(ours: Any, expected: Any) -> None:
    """Compare batches; videos up to the loss of JPEG."""
    np.testing.assert_array_equal(ours["label"], expected["label"])
    for name in ("rows", "columns"):
        np.testing.assert_allclose(ours[name], expected[name], atol=1e-6)
    assert ours["video"].shape == expected["video"].shape
    assert np.abs(np.asarray(ours["video"], float) - expected["video"]).mean() < 6


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["shaky", "shaky,slowfast"])
def test_seed_of_a_shared_program_equals_a_single_run(variant: str):
    """Within 1e-5, whatever seed the program was compiled with; convolutions as products included."""
    small = SMALL if "," in variant else TIMESFORMER
    if "," in variant:
        small = {**SMALL, "cnn.width": 8}
    losses: dict[int, list[Any]] = {0: [], 5: []}
    for seed, found in losses.items():
        trainings.train(config(variant, **small, seed=seed), tell=lambda step, loss, found=found: found.append(loss))
    np.testing.assert_allclose(np.array(losses[5]), alone(config(variant, **small, seed=5)), atol=1e-5)
    assert np.abs(np.array(losses[0]) - np.array(losses[5])).max() > 1e-3


def alone(made: Any) -> list[float]:
    """Losses of the library's training step, compiled for one seed."""
    program, train, choices = trainings.program_of(made), read_videos(made, "train"), choose_clips(made, 64)
    mesh = training.make_mesh(jax.devices()[:1])
    epochs = {"num_epochs": made.train.num_epochs, "steps_per_epoch": 5.0}
    optimizer = training.make_optimizer(**made.optimizer, depth=1, **epochs)
    state = training.init_state(program.model, optimizer.transformation, made.seed, mesh)
    prepare = functools.partial(prepare_training, options=PixelOptions(**made.pixels))
    step = training.make_train_step(
        model=program.model, optimizer=optimizer.transformation, prepare=prepare, seed=made.seed, mesh=mesh
    )
    losses = []
    for number in range(8):
        batch = batch_of(train, choices, number)
        state, metrics = step(state, trainings.cut(batch, trainings.window_of(made)))
        losses.append(float(metrics["loss"]))
    return losses


def test_convolutions_as_products_are_convolutions():
    x = jax.random.normal(jax.random.key(0), (2, 5, 9, 8, 3))
    for kernel, strides in (((3, 3, 3), (2, 2, 1)), ((5, 1, 1), (1, 2, 2))):
        layer: Any = nn.Conv(4, kernel, strides, padding=[(size // 2, size // 2) for size in kernel], use_bias=False)
        params = layer.init(jax.random.key(1), x)
        with nn.intercept_methods(as_products):
            ours = layer.apply(params, x)
        np.testing.assert_allclose(ours, layer.apply(params, x), atol=1e-4)


def test_digest_ignores_prose_and_layout():
    before = 'def f(x):\n    """Double."""\n    return 2 * x  # twice\n'
    after = 'def f(x):\n    """Multiply by two\n\n    and return it."""\n\n    return 2 * x\n'
    assert bare(before) == bare(after)
    assert bare(before) != bare(before.replace("2 *", "3 *"))
    assert bare('x = "# no comment"') == 'x = "# no comment"'
