"""Whole stored frames of single videos."""

import dataclasses
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from input_pipeline import (
    WINDOW_AXES,
    ClipOptions,
    EvalViews,
    PixelOptions,
    VideoDataset,
    eval_batches,
    prepare_eval,
    read_frames,
)
from timesformer_jax import InputError
from timesformer_jax.video.views import Video, View


def test_frames_are_those_of_evaluation(digits: VideoDataset):
    """Where the crop is the whole frame, they are the model's input."""
    options = ClipOptions(num_frames=8, crop_size=32, sampling_rate=1.0, short_side=(32, 32), placement="centre")
    stored = read_frames(digits, "val", 5, lambda video: options.eval_views(video, EvalViews())[0])
    chosen = dataclasses.replace(digits, chosen=("val", (5,)))
    batch = next(eval_batches(chosen, "val", options, batch_size=1, views=EvalViews(), shard=(0, 1)))
    clip = prepare_eval(
        {name: jnp.asarray(batch[name]) for name in WINDOW_AXES}, options=PixelOptions(mean=(0,) * 3, std=(1,) * 3)
    )
    np.testing.assert_allclose(np.asarray(clip[0]) * 255, stored.frames, atol=0.01)
    assert stored.area == (0.0, 0.0, 1.0, 1.0)


def test_frames_follow_the_view(digits: VideoDataset):
    """Repeated and descending frames too; the area is that of the crop's pixels, not of their centres."""
    rows = np.arange(8, 24, dtype=np.float32)
    whole = read_frames(digits, "val", 0, lambda video: View(np.arange(8), rows, rows)).frames
    seen: list[Video] = []

    def choose(video: Video) -> View:
        seen.append(video)
        return View(np.array([7, 2, 2, 0]), rows, np.linspace(0.5, 30.5, 16, dtype=np.float32))

    stored = read_frames(digits, "val", 0, choose)
    np.testing.assert_array_equal(stored.frames, whole[[7, 2, 2, 0]])
    assert stored.area == (0.25, 0.0, 0.5, 1.0)
    assert (seen[0].num_frames, seen[0].height, seen[0].width) == (8, 32, 32)


def test_damaged_frames_end_in_one_sentence(digits: VideoDataset):
    example = digits.records("val")[0]
    example.features.feature["video"].bytes_list.value[0] = b"no picture"
    damaged = SimpleNamespace(records=lambda split: [example], codec="jpeg", builder=SimpleNamespace(data_path="/data"))
    rows = np.arange(32, dtype=np.float32)
    with pytest.raises(InputError, match=r"^The prepared data of /data can't be decoded \(.*\): delete that folder"):
        read_frames(damaged, "val", 0, lambda video: View(np.arange(8), rows, rows))
