"""Pointing score of maps: computed by hand, and after real training."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import main
import timesformer_jax as tsf
from configs import moving_digits
from input_pipeline.moving_digits import FRAME_SIZE, NUM_FRAMES, digit_boxes, draw_clip
from timesformer_jax import explain


def test_inside_over_outside_weighs_patches_by_their_pixels():
    inside = explain.box_mask(np.array([[[1, 0, 3, 4]], [[0, 0, 2, 2]]]), 4, 4)  # rows 1 and 2; the first patch
    assert inside.sum(axis=(1, 2, 3)).tolist() == [8, 4]
    maps = np.array([[[[1.0, 2.0], [3.0, 6.0]]], [[[8.0, 2.0], [2.0, 2.0]]]])
    np.testing.assert_allclose(explain.inside_over_outside(maps, inside), [1.0, 4.0])
    with pytest.raises(tsf.InputError, match="4 x 4 pixels can't be divided into 3 x 3 equal patches"):
        explain.inside_over_outside(np.ones((2, 1, 3, 3)), inside)
    with pytest.raises(tsf.InputError, match="pixels inside and pixels outside"):
        explain.inside_over_outside(maps, np.zeros_like(inside))


@pytest.mark.parametrize("index", [0, 1, 6, 7])
def test_boxes_contain_the_digit(index: int):
    """The digit, brighter than any background, is fully inside its box, also when played backwards."""
    frames, _, motion = draw_clip("val", index)
    boxes = digit_boxes("val", index)
    inside = explain.box_mask(boxes, FRAME_SIZE, FRAME_SIZE)
    seen = frames.max(axis=-1) > 0.68 * 255
    assert ((seen & inside).sum(axis=(1, 2)) >= 20).all()
    assert not (seen & ~inside).any()
    moved = boxes[-1, :2] - boxes[0, :2]
    signs = {"right": (0, 1), "left": (0, -1), "down_left": (1, -1), "up_right": (-1, 1)}
    assert tuple(np.sign(moved)) == signs[motion]
    assert boxes.shape == (NUM_FRAMES, 4)


@pytest.mark.slow
def test_maps_of_a_trained_model_point_at_the_digit(tmp_path: Path, data_dir: str):
    """The score in the box is at least 1.5 times that elsewhere on at least 80 % of the clips, unlike for a fresh model."""
    config = moving_digits.get_config("motion")
    config.data.data_dir = data_dir
    config.data.train_clips, config.data.val_clips = 6_000, 100
    config.train.num_epochs = 1.0
    config.mesh.data, config.mesh.fsdp = -1, 1
    main.run(config, str(tmp_path), "train")
    trained = tsf.load(tmp_path)
    video = jnp.stack([trained.preprocess(draw_clip("val", number)[0], num_crops=1)[0] for number in range(100)])
    inside = explain.box_mask(np.stack([digit_boxes("val", number) for number in range(100)]), FRAME_SIZE, FRAME_SIZE)
    fresh: Any = jax.jit(trained.model.init)(jax.random.key(1), video[:1])["params"]
    points = {}
    for name, params in (("trained", trained.params), ("fresh", fresh)):
        scores: Any = trained.model.apply({"params": params}, video)
        rollout = explain.attention_rollout(trained.model, params, video)
        relevance = explain.class_relevance(trained.model, params, video, scores.argmax(axis=1))
        for kind, maps in (("rollout", rollout), ("relevance", relevance)):
            points[name, kind] = (explain.inside_over_outside(np.asarray(maps), inside) >= 1.5).mean()
    assert min(points["trained", "relevance"], points["trained", "rollout"]) >= 0.8
    assert max(points["fresh", "relevance"], points["fresh", "rollout"]) <= 0.2
