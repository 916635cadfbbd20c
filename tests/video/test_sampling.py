"""Frame samplers against the official ones, index by index."""

import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.support import GOLDEN
from timesformer_jax.errors import InputError
from timesformer_jax.video import (
    PLACEMENTS,
    clip_frames,
    eval_clips,
    nearest_clips,
    segment_bounds,
    segment_frames,
    sliding_clips,
    tiled_clips,
)

SAMPLING = json.loads((GOLDEN / "sampling.json").read_text())


CLIPS: Any = {"num_clips": 2, "num_frames": 2, "sampling_rate": 2.0}


def test_clip_sampling_matches_the_official_code():
    for row in SAMPLING["uniform_clip_sampling"]:
        frames = clip_frames(
            row["num_video_frames"],
            row["fps"],
            num_frames=row["num_frames"],
            sampling_rate=row["sampling_rate"],
            start=row["clip_index"] / row["num_clips"],
        )
        assert frames.tolist() == row["indices"], row


def test_segment_sampling_matches_the_official_code():
    for row in SAMPLING["segment_sampling"]:
        first, last = segment_bounds(row["num_video_frames"], row["num_frames"])
        assert np.stack([first, last], axis=1).tolist() == row["train_bounds_inclusive"], row
        test = segment_frames(row["num_video_frames"], num_frames=row["num_frames"])
        assert test.tolist() == row["test_indices"], row


def test_random_segments_reach_exactly_both_bounds():
    first, last = segment_bounds(50, 8)
    random = np.random.default_rng(0)
    drawn = np.stack([segment_frames(50, num_frames=8, random=random) for _ in range(300)])
    assert (drawn.min(axis=0) == first).all()
    assert (drawn.max(axis=0) == last).all()


def test_short_video_repeats_its_last_frame():
    assert clip_frames(3, 30.0, num_frames=4, sampling_rate=2, start=0.7).tolist() == [0, 2, 2, 2]


@pytest.mark.parametrize(
    ("placement", "num_clips", "first_frames"),
    [
        ("official", 1, [0]),
        ("official", 3, [0, 20, 40]),  # never the end
        ("centre", 1, [30]),  # the middle: 30 frames before, 30 after
        ("centre", 3, [10, 30, 50]),
        ("dense", 1, [30]),
        ("dense", 3, [0, 30, 60]),  # both ends
    ],
)
def test_eval_clips_start_at_their_placement(placement: str, num_clips: int, first_frames: list[int]):
    """The video has 100 frames, and clips span 40 of them."""
    span = {"num_frames": 4, "sampling": "uniform", "sampling_rate": 10.0}
    clips = eval_clips(100, 30.0, num_clips=num_clips, placement=placement, **span)
    assert clips[:, 0].tolist() == first_frames
    assert clips[:, -1].tolist() == [first + 39 for first in first_frames]


def test_every_placement_has_expected_values():
    assert {"official", "centre", "dense"} == PLACEMENTS.keys()


@pytest.mark.parametrize(("num_video_frames", "fps"), [(100, 30.0), (120, 30.0), (121, 30.0), (100, 25.0), (3, 30.0)])
def test_tiles_cover_the_video_once(num_video_frames: int, fps: float):
    span = 40 * fps / 30
    clips = tiled_clips(num_video_frames, fps, num_frames=4, sampling_rate=10.0)
    assert len(clips) == math.ceil(num_video_frames / span)
    for clip, frames in enumerate(clips):
        assert frames[0] == math.floor(clip * span)
        assert frames[-1] == min(math.floor((clip + 1) * span - 1), num_video_frames - 1)
    assert clips.max() == num_video_frames - 1 or num_video_frames % span


def test_single_tile_equals_the_official_clip():
    one = tiled_clips(40, 30.0, num_frames=4, sampling_rate=10.0)
    np.testing.assert_array_equal(one[0], clip_frames(40, 30.0, num_frames=4, sampling_rate=10.0, start=0.0))


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_fewer_clips_keep_the_placement_of_a_smaller_evaluation(placement: str):
    place = PLACEMENTS[placement]
    for count in range(1, 11):
        chosen = nearest_clips(count, of=10, placement=placement)
        assert len(set(chosen)) == count
        for clip, near in enumerate(chosen):
            assert abs(place(near, 10) - place(clip, count)) <= 1 / 18 + 1e-9  # half the distance between two of them
    assert chosen == list(range(10))


def test_fewer_official_clips_are_a_subset():
    assert [nearest_clips(count, of=10, placement="official") for count in (1, 2, 5)] == [[0], [0, 5], [0, 2, 4, 6, 8]]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            lambda: eval_clips(8, 30.0, **CLIPS, sampling="segment", placement="official"),
            "sampling must be one of uniform, segments",
        ),
        (
            lambda: eval_clips(8, 30.0, **CLIPS, sampling="uniform", placement="center"),
            "placement must be one of official, centre",
        ),
        (
            lambda: eval_clips(0, 30.0, **CLIPS, sampling="uniform", placement="centre"),
            "num_video_frames must be a whole number of at least 1",
        ),
        (lambda: nearest_clips(2, of=4, placement="tiled"), "placement must be one of official, centre, dense, got 'tiled'"),
        (lambda: sliding_clips(8, 30.0, num_frames=2, sampling="segment", window=1.0, stride=1.0), "sampling must be one of"),
    ],
)
def test_unknown_names_and_empty_videos_are_rejected(call: Callable[[], Any], words: str):
    with pytest.raises(InputError, match=words):
        call()
