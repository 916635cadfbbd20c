"""Batches: the official crops, the same bytes for the same (seed, epoch, example), every test video once."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from input_pipeline import ClipOptions, open_dataset, test_batches, training_batches
from input_pipeline._tensorflow import tf, tfds
from input_pipeline.frames import crop_frames, decode_frames, resize_frames
from tests.support import GOLDEN
from timesformer_jax.errors import InputError
from timesformer_jax.video import normalize, scale_short_side, view_crop_offset

OPTIONS = ClipOptions(num_frames=4, crop_size=24, sampling="uniform", sampling_rate=1.0, short_side=(26, 40))
MEAN, STD = (0.45,) * 3, (0.225,) * 3
test_batches.__test__ = False  # a function of the pipeline, not a test


@pytest.fixture(scope="module")
def preprocess() -> dict[str, np.ndarray]:
    with np.load(GOLDEN / "preprocess.npz") as file:
        return dict(file)


@pytest.mark.parametrize(
    ("name", "short_side", "size", "crops"),
    [("crop32", 32, 32, (0, 1, 2)), ("portrait_crop32", 32, 32, (0, 1, 2)), ("center48_of_64", 64, 48, (1,))],
)
def test_test_crops_are_the_official_ones(preprocess, name: str, short_side: int, size: int, crops: tuple[int, ...]):
    video = preprocess["video_uint8_thwc"]
    if name.startswith("portrait"):
        video = video.transpose(0, 2, 1, 3)
    scaled = scale_short_side(*video.shape[1:3], short_side)
    resized = resize_frames(tf.constant(video), tf.constant(scaled))
    for crop in crops:
        top, left = view_crop_offset(*scaled, size, crop)
        expected = preprocess[f"{name}/{crop}"]
        exact = resized.numpy()[:, top : top + size, left : left + size]
        np.testing.assert_allclose((exact / 255 - 0.45) / 0.225, expected, atol=1e-5)
        # The device gets the same, rounded to whole grey levels.
        pixels = crop_frames(resized, tf.constant([top, left]), size).numpy()
        assert pixels.dtype == np.uint8
        np.testing.assert_allclose(normalize(pixels, MEAN, STD), expected, atol=0.5 / 255 / 0.225 + 1e-5)


def take(digits, count: int, **changes) -> list[dict[str, np.ndarray]]:
    arguments = {"batch_size": 7, "seed": 0, **changes}
    batches = training_batches(digits, "train", OPTIONS, **arguments)
    return [next(batches) for _ in range(count)]


def same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    return all((one[name] == other[name]).all() for name in one)


def test_training_batches_repeat_and_resume_exactly(digits):
    batches = take(digits, 30)  # 210 clips of 96 videos: more than two epochs, and batches across their ends
    assert batches[0]["video"].shape == (7, 4, 24, 24, 3)
    assert batches[0]["video"].dtype == np.uint8
    assert batches[0]["label"].dtype == np.int32
    assert all(map(same, batches, take(digits, 30)))
    for done in (1, 13, 14, 29):
        (resumed,) = take(digits, 1, first_example=7 * done)
        assert same(resumed, batches[done])


def test_seeds_and_epochs_differ(digits):
    epochs = take(digits, 3, batch_size=96)
    for batch in epochs:
        assert np.bincount(batch["label"]).tolist() == [12] * 8  # every video once
    assert not (epochs[0]["label"] == epochs[1]["label"]).all()
    assert not same(epochs[0], take(digits, 1, batch_size=96, seed=1)[0])
    first, second = (np.sort(batch["video"].reshape(96, -1).sum(axis=1)) for batch in epochs[:2])
    assert (first != second).mean() > 0.9  # other crops of the same videos


def test_clips_do_not_depend_on_the_order(digits):
    """The crop of a video is a function of (seed, epoch, video): a batch size or a restart changes none."""
    small = np.concatenate([batch["video"] for batch in take(digits, 24, batch_size=4)])
    large = take(digits, 1, batch_size=96)[0]["video"]
    np.testing.assert_array_equal(small, large)


@pytest.mark.parametrize(("num_clips", "num_crops"), [(1, 1), (1, 3), (3, 3)])
def test_every_test_video_comes_once(digits, num_clips: int, num_crops: int):
    batches = list(test_batches(digits, "val", OPTIONS, batch_size=8, num_clips=num_clips, num_crops=num_crops))
    assert [batch["mask"].sum() for batch in batches] == [8, 8, 5]
    assert all(batch["video"].shape == (8, num_clips * num_crops, 4, 24, 24, 3) for batch in batches)
    names = [name for batch in batches for name in batch["name"][batch["mask"]]]
    assert sorted(names) == [b"val-%05d" % i for i in range(21)]


def test_views_are_clip_major_and_the_official_crops(made_clips: Path, data_dir: str):
    """View k * crops + c is crop c of clip k, pixel by pixel."""
    data = open_dataset(name="video_folder", root=str(made_clips), val_fraction=0.3, max_short_side=48, data_dir=data_dir)
    builder: Any = data.builder
    encoded = builder.as_dataset(split="val", decoders={"video": tfds.decode.SkipDecoding()})
    stored = {example["name"].numpy(): decode_frames(example["video"], tf.range(40)) for example in encoded}
    (batch,) = test_batches(data, "val", OPTIONS, batch_size=3, num_clips=2, num_crops=3)
    for name, views in zip(batch["name"], batch["video"], strict=True):
        video = stored[name]  # 40 frames of 48 x 64: two clips of four frames, at 0 and at the middle of what is left
        resized = resize_frames(video, tf.constant([24, 32])).numpy()
        for clip, first in enumerate((0, 18)):
            for crop, left in enumerate((0, 4, 8)):
                expected = resized[first : first + 4, :, left : left + 24]
                np.testing.assert_allclose(views[3 * clip + crop], expected, atol=0.5 + 1e-3)


def test_one_crop_is_the_centre_of_the_smallest_training_size():
    _, scaled, offsets = OPTIONS.test_plan(1, 1, 20, 30.0, 30, 60)
    assert scaled == (26, 52)
    assert offsets == [(1, 14)]
    segments = dataclasses.replace(OPTIONS, sampling="segments")  # Something-Something's test scales to the crop
    _, scaled, offsets = segments.test_plan(1, 1, 20, 30.0, 30, 60)
    assert scaled == (24, 48)
    assert offsets == [(0, 12)]


def test_views_in_a_batch(digits):
    """Clips one after the other, the crops of each together; digits are square, so their crops are equal."""
    options = dataclasses.replace(OPTIONS, num_frames=2)
    (batch,) = test_batches(digits, "val", options, batch_size=21, num_clips=2, num_crops=3)
    views = batch["video"]
    for clip in (0, 3):
        np.testing.assert_array_equal(views[:, clip], views[:, clip + 1])
        np.testing.assert_array_equal(views[:, clip], views[:, clip + 2])
    assert (views[:, 0] != views[:, 3]).any()


def test_training_uses_the_whole_range():
    random = np.random.default_rng(0)
    plans = [OPTIONS.training_plan(random, 50, 30.0, 30, 60) for _ in range(400)]
    assert {min(scaled) for _, scaled, _ in plans} == set(range(26, 41))
    assert {int(frames[0]) for frames, _, _ in plans} == set(range(46))
    widest = [(scaled, offset) for _, scaled, offset in plans if scaled[0] == 26]
    assert {offset[0] for _, offset in widest} == {0, 1, 2}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sampling": "all"}, "one of uniform, segments, got 'all'"),
        ({"placement": "tiled"}, "one of official, centre, dense, got 'tiled'"),
        ({"short_side": (20, 30)}, "at least the model's image_size 24"),
        ({"short_side": 30}, "got 30"),
    ],
)
def test_options_that_cannot_work(changes: dict, words: str):
    with pytest.raises(InputError, match=words):
        dataclasses.replace(OPTIONS, **changes)


@pytest.mark.parametrize(
    ("views", "words"), [((1, 2), "num_crops must be 1 .* or 3"), ((0, 1), "num_clips must be at least 1")]
)
def test_views_that_cannot_work(digits, views: tuple[int, int], words: str):
    with pytest.raises(InputError, match=words):
        test_batches(digits, "val", OPTIONS, batch_size=4, num_clips=views[0], num_crops=views[1])
