"""Probabilities of a video's windows over time."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import timesformer_jax as tsf
from tests.support import moving_square, random_variables, write_video
from timesformer_jax.pretrained import Stretch, WindowScores
from timesformer_jax.video.reading import Clip

PREPROCESS = tsf.Preprocess(num_frames=2, crop_size=16, sampling_rate=5.0)  # windows of a third of a second


@pytest.fixture(scope="module")
def pretrained() -> tsf.Pretrained:
    model = tsf.TimeSformer(3, image_size=16, patch_size=8, num_frames=2, embed_dim=24, depth=1, num_heads=3)
    return tsf.Pretrained(model, random_variables(model)["params"], PREPROCESS)


@pytest.mark.parametrize("num_crops", [1, 3])
def test_windows_cover_the_video_and_are_scored_alone(pretrained: tsf.Pretrained, tmp_path: Path, num_crops: int):
    frames = moving_square(0, 0, num_frames=40)
    path = write_video(tmp_path / "a.mp4", frames)
    done: list[float] = []
    found = pretrained.window_scores(path, stride=0.2, num_crops=num_crops, progress=done.append)
    firsts = np.array([0, 6, 12, 18, 24, 30])
    np.testing.assert_allclose(found.starts, firsts / 30, atol=1e-6)
    np.testing.assert_allclose(found.ends, (firsts + 10) / 30, atol=1e-6)
    whole = list(PREPROCESS.windows(path, stride=0.2, num_crops=num_crops))
    expected = [np.asarray(jax.nn.softmax(pretrained(window.clip.views))).mean(axis=0) for window in whole]
    np.testing.assert_allclose(found.probabilities, expected, atol=1e-6)
    assert (np.diff(done) > 0).all()
    assert done[-1] == 1


@pytest.mark.parametrize(("num_frames", "count"), [(1, 1), (7, 1), (10, 1), (11, 2), (15, 2), (16, 3)])
def test_last_window_ends_with_the_video(pretrained: tsf.Pretrained, tmp_path: Path, num_frames: int, count: int):
    path = write_video(tmp_path / "a.mp4", moving_square(0, 0, num_frames=num_frames))
    found = pretrained.window_scores(path)
    assert len(found.starts) == count
    assert found.probabilities.shape == (count, 3)
    assert found.ends[-1] == pytest.approx(num_frames / 30)
    assert (found.edges[0], found.edges[-1]) == (0, found.ends[-1])


def test_windows_of_segments_have_the_middles():
    segments = tsf.Preprocess(num_frames=4, crop_size=16, sampling="segments")
    assert segments.window_seconds == 4
    assert tsf.video.sliding_clips(300, 30.0, num_frames=4, sampling="segments", window=4.0, stride=4.0).tolist() == [
        [15, 45, 75, 105],
        [135, 165, 195, 225],
        [195, 225, 255, 285],
    ]


def test_scores_restart_with_the_windows(pretrained: tsf.Pretrained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """As if the video turned out to have a different number of frames after five windows."""
    path = write_video(tmp_path / "a.mp4", moving_square(0, 0, num_frames=40))
    windows = list(PREPROCESS.windows(path))
    expected = pretrained.window_scores(path)
    changed = [each._replace(clip=each.clip._replace(views=each.clip.views + 1)) for each in windows[:5]]
    monkeypatch.setattr(tsf.Preprocess, "windows", lambda *_, **__: iter([*changed, *windows]))
    found = pretrained.window_scores(path)
    np.testing.assert_array_equal(found.probabilities, expected.probabilities)
    np.testing.assert_array_equal(found.starts, expected.starts)


def test_stretches_join_neighbours_with_one_label():
    probabilities = np.array([[0.6, 0.4], [0.8, 0.2], [0.1, 0.9], [0.7, 0.3]])
    starts = np.arange(4.0)
    stretches = WindowScores(starts, starts + 2, probabilities).stretches()
    assert stretches == [Stretch(0, 2.5, 0, pytest.approx(0.7)), Stretch(2.5, 3.5, 1, 0.9), Stretch(3.5, 5, 0, 0.7)]


@pytest.mark.parametrize(
    ("options", "words"),
    [({"window": 0.0}, "window must be above 0 seconds, got 0"), ({"stride": -1.0}, "stride must be above 0 seconds, got -1")],
)
def test_impossible_windows_are_rejected(pretrained: tsf.Pretrained, tmp_path: Path, options: dict[str, Any], words: str):
    with pytest.raises(tsf.InputError, match=words):
        pretrained.window_scores(tmp_path / "a.mp4", **options)


def test_clips_have_the_times_and_boxes_of_their_frames(tmp_path: Path):
    path = write_video(tmp_path / "a.mp4", moving_square(0, 0, num_frames=40))
    clips: list[Clip] = list(PREPROCESS.clips(path, num_clips=2, num_crops=3))
    np.testing.assert_allclose([clip.times for clip in clips], [[0, 9 / 30], [15 / 30, 24 / 30]], atol=1e-4)
    for clip in clips:  # of 48 x 64 pixels, scaled to 16 x 21
        np.testing.assert_allclose(clip.boxes[:, [0, 2]], [[0, 1]] * 3)
        np.testing.assert_allclose(clip.boxes[:, 1], np.array([0, 3, 5]) / 21)
        np.testing.assert_allclose(clip.boxes[:, 3] - clip.boxes[:, 1], 16 / 21)
    array = list(PREPROCESS.clips(moving_square(0, 0, num_frames=40), num_clips=2, num_crops=3))
    np.testing.assert_allclose([clip.times for clip in array], [[0, 9 / 30], [15 / 30, 24 / 30]])
    np.testing.assert_array_equal(array[0].boxes, clips[0].boxes)
