"""The clip at a chosen second: its frames, its end, and what can't be."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import timesformer_jax as tsf
from tests.support import moving_square, write_video
from timesformer_jax import InputError
from timesformer_jax.video import clip_at
from timesformer_jax.video.timeline import read_timeline

PREPROCESS = tsf.Preprocess(num_frames=4, crop_size=32, sampling_rate=6.0)  # 24 frames at 30 fps


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("clip_at") / "across.mp4", moving_square(0, 0, num_frames=60))


@pytest.mark.parametrize(
    ("start", "first"), [(0, 0), (0.01, 0), (0.5, 15), (1.17, 35), (1.2, 36), (1.9, 36)], ids=lambda value: str(value)
)
def test_clip_begins_at_the_second_or_ends_with_the_video(video: Path, start: float, first: int):
    clip = clip_at(PREPROCESS, video, start, num_crops=3)
    frames = (first + np.linspace(0, 23, 4)).astype(int)
    np.testing.assert_allclose(clip.times, frames / 30, atol=1e-3)
    every = list(PREPROCESS.windows(video, stride=1 / 30, num_crops=3))[first].clip
    np.testing.assert_array_equal(clip.views, every.views)
    assert clip.boxes.shape == (3, 4)
    assert (clip.number, clip.num_clips, clip.seconds) == (0, 1, pytest.approx(first / 30))


def test_packets_are_read_once_before_decoding(video: Path, monkeypatch: pytest.MonkeyPatch):
    """Times and frames come from the same open file."""
    passes = []

    def read(*args: Any, **options: Any) -> Any:
        passes.append(args)
        return read_timeline(*args, **options)

    monkeypatch.setattr("timesformer_jax.video.decoding.read_timeline", read)
    assert clip_at(PREPROCESS, video, 0.5).seconds == pytest.approx(0.5, abs=1e-3)
    assert len(passes) == 1


def test_segments_of_a_long_video_cover_a_window(video: Path):
    """As windows do; the clips of an evaluation with segments cover the whole video."""
    segments = tsf.Preprocess(num_frames=4, crop_size=32, sampling="segments")
    np.testing.assert_allclose(clip_at(segments, video, 0.5).times, [0.5, 1.5, 59 / 30, 59 / 30], atol=1e-3)


def test_clip_of_a_varying_rate_begins_with_the_frame_that_is_shown(tmp_path: Path):
    """Every other measure of a moment is in presentation times, such as the windows of a timeline."""
    times = np.concatenate([np.arange(10.0), 10 + np.arange(100) / 50])
    video = write_video(tmp_path / "uneven.mkv", moving_square(0, 0, num_frames=4)[np.arange(110) % 4], times=times)
    clip = clip_at(tsf.Preprocess(num_frames=4, crop_size=32, sampling_rate=1.0), video, 5.5)
    assert clip.times[0] == clip.seconds == pytest.approx(5.0, abs=1e-3)
    for window in PREPROCESS.windows(video):
        assert window.clip.seconds == window.clip.times[0]
    with pytest.raises(InputError, match=r"less than the 12.\d seconds"):
        clip_at(PREPROCESS, video, 12.5)


def test_video_shorter_than_a_clip_has_a_single_one(tmp_path: Path):
    short = write_video(tmp_path / "short.mp4", moving_square(0, 0, num_frames=12))
    np.testing.assert_allclose(clip_at(PREPROCESS, short, 0.3).times, [0, 7 / 30, 11 / 30, 11 / 30], atol=1e-3)


@pytest.mark.parametrize("start", [-0.1, float("nan"), float("inf")])
def test_start_must_be_a_second(video: Path, start: float):
    with pytest.raises(InputError, match=f"start must be at least 0 seconds, got {start}"):
        clip_at(PREPROCESS, video, start)


def test_number_of_crops_is_checked(video: Path):
    with pytest.raises(InputError, match=r"num_crops must be 1 \(centre\) or 3 \(along the long side\), got 2"):
        clip_at(PREPROCESS, video, 0.0, num_crops=2)


def test_start_after_the_end_is_refused(video: Path):
    with pytest.raises(InputError, match=r"start must be less than the 2.0 seconds of .*across.mp4, got 2"):
        clip_at(PREPROCESS, video, 2.0)
