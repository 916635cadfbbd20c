"""The frame samplers against the official ones, index by index."""

import json

import numpy as np

from tests.support import GOLDEN
from timesformer_jax.video import clip_frames, segment_bounds, segment_frames

SAMPLING = json.loads((GOLDEN / "sampling.json").read_text())


def test_clips_are_the_official_ones():
    for row in SAMPLING["uniform_clip_sampling"]:
        frames = clip_frames(
            row["num_video_frames"],
            row["fps"],
            num_frames=row["num_frames"],
            sampling_rate=row["sampling_rate"],
            start=row["clip_index"] / row["num_clips"],
        )
        assert frames.tolist() == row["indices"], row


def test_segments_are_the_official_ones():
    for row in SAMPLING["segment_sampling"]:
        first, last = segment_bounds(row["num_video_frames"], row["num_frames"])
        assert np.stack([first, last], axis=1).tolist() == row["train_bounds_inclusive"], row
        test = segment_frames(row["num_video_frames"], num_frames=row["num_frames"])
        assert test.tolist() == row["test_indices"], row


def test_random_segments_reach_both_bounds_and_nothing_else():
    first, last = segment_bounds(50, 8)
    random = np.random.default_rng(0)
    drawn = np.stack([segment_frames(50, num_frames=8, random=random) for _ in range(300)])
    assert (drawn.min(axis=0) == first).all()
    assert (drawn.max(axis=0) == last).all()


def test_a_short_video_repeats_its_last_frame():
    assert clip_frames(3, 30.0, num_frames=4, sampling_rate=2, start=0.7).tolist() == [0, 2, 2, 2]
