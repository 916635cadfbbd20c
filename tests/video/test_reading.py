"""Streamed clips of a video: the same as all at once, in constant memory."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import timesformer_jax as tsf
from tests.support import moving_square, write_video
from timesformer_jax.video.decoding import VideoFile
from timesformer_jax.video.reading import join_clips
from timesformer_jax.video.sampling import PLACEMENT_NAMES
from timesformer_jax.video.sampling import eval_clips as clips_of

FRAMES = moving_square(0, 0, num_frames=40)


@pytest.mark.parametrize("placement", PLACEMENT_NAMES)
@pytest.mark.parametrize("num_clips", [1, 3, 7])
def test_join_clips_holds_only_the_frames_in_use(placement: str, num_clips: int):
    options: dict[str, Any] = {"num_frames": 4, "sampling": "uniform", "sampling_rate": 6.0, "placement": placement}
    indices = clips_of(200, 30.0, num_clips=num_clips, **options)
    pulled = []

    def frames():
        for index in np.unique(indices).tolist():
            pulled.append(index)
            yield index, np.full((2, 3), index)

    for number, clip in enumerate(join_clips(indices, 30.0, frames())):
        assert (clip.number, clip.num_clips) == (number, len(indices))
        assert clip.seconds == indices[number, 0] / 30
        np.testing.assert_array_equal(clip.views[1, :, 2], indices[number])
        assert pulled[-1] <= max(indices[: number + 1].max(), 0)
    assert number == len(indices) - 1


class Announces(VideoFile):
    """A file of 40 frames that announces 47."""

    def count_packets(self) -> int:
        return super().count_packets() + 7

    @property
    def count_is_certain(self) -> bool:
        return False


def test_clips_restart_if_the_number_of_frames_was_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = write_video(tmp_path / "a.mp4", FRAMES)
    preprocess = tsf.Preprocess(num_frames=2, crop_size=8, sampling_rate=2.0, placement="dense")
    expected = preprocess(path, num_clips=3)
    monkeypatch.setattr("timesformer_jax.video.opening.VideoFile", Announces)
    found = list(preprocess.clips(path, num_clips=3))
    assert [clip.number for clip in found] == [0, 1, 0, 1, 2]
    np.testing.assert_array_equal(np.concatenate([clip.views for clip in found[2:]]), expected)
    np.testing.assert_array_equal(preprocess(path, num_clips=3), expected)


def test_video_without_frames_has_no_clips(broken_clips: Path):
    with pytest.raises(tsf.InputError, match=r"truncated\.mp4"):
        next(tsf.Preprocess(num_frames=2, crop_size=8).clips(broken_clips / "truncated.mp4"))
