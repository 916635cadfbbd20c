"""Preprocessing of a video to a model's input: the official evaluation transform, to the last digit."""

import dataclasses
import json
import math
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

import timesformer_jax as tsf
from tests.support import GOLDEN, moving_square, write_video
from timesformer_jax.video import (
    UnreadableVideoError,
    clip_frames,
    denormalize,
    normalize,
    open_video,
    sample_frames,
    segment_frames,
)
from timesformer_jax.video.decoding import VideoFile

FRAMES = np.random.default_rng(0).integers(0, 256, (50, 40, 56, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(GOLDEN / "preprocess.npz") as file:
        return dict(file)


@pytest.mark.parametrize(
    ("name", "size", "short_side", "crops"),
    [("crop32", 32, None, 3), ("portrait_crop32", 32, None, 3), ("center48_of_64", 48, 64, 1)],
)
def test_crops_match_the_official_code(golden, name: str, size: int, short_side: int | None, crops: int):
    video = golden["video_uint8_thwc"]
    if name.startswith("portrait"):
        video = np.ascontiguousarray(video.transpose(0, 2, 1, 3))
    preprocess = tsf.Preprocess(num_frames=4, crop_size=size, short_side=short_side)
    views = np.stack([preprocess.crops(frame, crops) for frame in video], axis=1)
    assert views.dtype == np.float32
    for view, crop in zip(views, range(3) if crops == 3 else [1], strict=True):
        np.testing.assert_allclose(view, golden[f"{name}/{crop}"], atol=1e-5)


def test_frames_match_the_official_code():
    uniform = tsf.Preprocess(num_frames=4, crop_size=8, sampling_rate=6.0)
    for clip in range(3):
        expected = clip_frames(50, 25.0, num_frames=4, sampling_rate=6.0, start=clip / 3)
        np.testing.assert_array_equal(uniform.indices(50, 25.0, 3)[clip], expected)
    segments = tsf.Preprocess(num_frames=4, crop_size=8, sampling="segments")
    np.testing.assert_array_equal(segments.indices(50, 25.0, 2), [segment_frames(50, num_frames=4)] * 2)


def test_views_are_clip_major():
    preprocess = tsf.Preprocess(num_frames=4, crop_size=20, sampling_rate=3.0)
    views = preprocess(FRAMES, num_clips=2)
    assert views.shape == (6, 4, 20, 20, 3)
    indices = preprocess.indices(50, 30.0, 2)
    for clip in range(2):
        one = np.stack([preprocess.crops(frame, 3) for frame in FRAMES[indices[clip]]], axis=1)
        np.testing.assert_array_equal(views[3 * clip : 3 * clip + 3], one)
    assert (views[0] != views[1]).any()
    assert (views[0] != views[3]).any()
    centre = preprocess(FRAMES, num_clips=2, num_crops=1)
    np.testing.assert_array_equal(centre, views[[1, 4]])


def test_tiles_cover_the_video():
    preprocess = tsf.Preprocess(num_frames=4, crop_size=20, sampling_rate=3.0, placement="tiled")
    views = preprocess(FRAMES, num_crops=1)
    assert len(views) == 5  # 50 frames, 12 at a time
    np.testing.assert_array_equal(views[0], dataclasses.replace(preprocess, placement="official")(FRAMES, num_crops=1)[0])
    middle = dataclasses.replace(preprocess, placement="centre")(FRAMES, num_crops=1)
    assert (middle[0] != views[0]).any()


def test_bgr_channels_are_normalised_in_their_order():
    """Each channel has its own mean, in the channel order of the model's input."""
    values = {"num_frames": 2, "crop_size": 40, "mean": (0.1, 0.2, 0.3), "std": (0.5, 0.6, 0.7)}
    rgb = tsf.Preprocess(**values)(FRAMES, num_crops=1)
    bgr = tsf.Preprocess(**values, channel_order="bgr")(FRAMES, num_crops=1)
    np.testing.assert_allclose(
        rgb * values["std"] + values["mean"], (bgr * values["std"] + values["mean"])[..., ::-1], atol=1e-6
    )
    assert np.abs(rgb - bgr).max() > 0.1


@pytest.mark.parametrize("channel_order", ["rgb", "bgr"])
def test_denormalize_restores_the_frames(channel_order: str):
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    ordered = FRAMES[..., ::-1] if channel_order == "bgr" else FRAMES
    np.testing.assert_array_equal(denormalize(normalize(ordered, mean, std), mean, std, channel_order), FRAMES)


def test_file_gives_the_same_views_as_its_frames(tmp_path: Path):
    path = write_video(tmp_path / "a.mp4", moving_square(0, 0), fps=24)
    with open_video(path) as video:
        frames = np.stack(list(video.frames()))
    for preprocess in (
        tsf.Preprocess(num_frames=5, crop_size=32, sampling_rate=4.0),
        tsf.Preprocess(num_frames=3, crop_size=32, sampling="segments"),
        tsf.Preprocess(num_frames=6, crop_size=32, sampling_rate=64.0),  # longer than the video: the last frame repeats
    ):
        np.testing.assert_array_equal(preprocess(path, num_clips=2), preprocess(frames, fps=24.0, num_clips=2))
        np.testing.assert_array_equal(preprocess(str(path)), preprocess(path))


def test_only_requested_frames_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Decoding stops after the last of them."""
    path = write_video(tmp_path / "a.mp4", moving_square(1, 0))
    made = []
    frames = VideoFile.frames

    def counted(self, *arguments, **options):
        for frame in frames(self, *arguments, **options):
            made.append(self)
            yield frame

    monkeypatch.setattr(VideoFile, "frames", counted)
    picked, indices = sample_frames(path, lambda count, fps: np.array([[3, 3], [9, 5]]), lambda frame: frame.shape)
    assert picked == dict.fromkeys((3, 5, 9), (48, 64, 3))
    assert indices.tolist() == [[3, 3], [9, 5]]
    assert len(made) == 3
    assert made[-1].num_decoded <= 10


def test_container_may_announce_too_many_frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """`choose` is called again with the number of decodable frames."""
    path = write_video(tmp_path / "a.mp4", moving_square(2, 0))
    monkeypatch.setattr(VideoFile, "count_packets", lambda self: 1000)
    asked = []

    def choose(count: int, fps: float) -> np.ndarray:
        asked.append(count)
        return np.array([0, count - 1])

    with open_video(path) as video:
        frames = list(video.frames())
    picked, _ = sample_frames(path, choose, lambda frame: frame)
    np.testing.assert_array_equal(picked[0], frames[0])
    np.testing.assert_array_equal(picked[39], frames[39])
    assert asked == [1000, 40]


def test_packet_count_equals_the_number_of_frames(tmp_path: Path):
    for suffix, codec in (("mp4", "libx264"), ("webm", "libvpx-vp9"), ("avi", "mpeg4")):
        path = write_video(tmp_path / f"a.{suffix}", moving_square(0, 0, num_frames=17), codec=codec)
        with open_video(path) as video:
            assert video.count_packets() == 17


def test_files_without_frames_are_rejected(broken_clips: Path):
    preprocess = tsf.Preprocess(num_frames=2, crop_size=16)
    for name in ("empty.mp4", "text.mp4", "truncated.mp4", "missing.mp4"):
        with pytest.raises(UnreadableVideoError, match=name):
            preprocess(broken_clips / name)
    assert preprocess(broken_clips / "one_frame.mp4").shape == (3, 2, 16, 16, 3)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sampling": "dense"}, "sampling must be one of uniform, segments, got 'dense'"),
        ({"channel_order": "gbr"}, "channel_order must be one of rgb, bgr"),
        ({"placement": "middle"}, "placement must be one of official, centre, dense, tiled"),
        ({"short_side": 7}, "short_side must be at least crop_size=8, got 7"),
        ({"std": (1.0, 0.0, 1.0)}, "std positive"),
        ({"mean": (0.5,)}, "three numbers"),
        ({"std": (1.0, float("nan"), 1.0)}, "std positive"),
        ({"num_frames": 0}, "num_frames must be a whole number of at least 1, got 0"),
        ({"mean": (math.nan, 0.5, 0.5)}, "mean and std must be three numbers, std positive, got"),
        ({"sampling_rate": -5.0}, "sampling_rate must be above 0"),
    ],
)
def test_impossible_values_are_rejected(changes: dict, words: str):
    with pytest.raises(tsf.InputError, match=words):
        tsf.Preprocess(**{"num_frames": 2, "crop_size": 8, **changes})


def test_impossible_input_is_rejected():
    preprocess = tsf.Preprocess(num_frames=2, crop_size=8)
    with pytest.raises(tsf.InputError, match=r"num_crops must be 1 \(centre\) or 3 \(along the long side\), got 2"):
        preprocess(FRAMES, num_crops=2)
    with pytest.raises(tsf.InputError, match=r"Expected frames uint8 \[frames, height, width, 3\], got float32 \(2, 8, 8, 3\)"):
        preprocess(np.zeros((2, 8, 8, 3), np.float32))
    with pytest.raises(tsf.InputError, match=r"fps must be above 0, got nan"):
        preprocess(FRAMES, fps=float("nan"))


def test_frames_may_be_any_kind_of_array():
    preprocess = tsf.Preprocess(num_frames=2, crop_size=8)
    np.testing.assert_array_equal(preprocess(jnp.asarray(FRAMES)), preprocess(FRAMES))
    np.testing.assert_array_equal(preprocess(list(FRAMES)), preprocess(FRAMES))


def test_preprocess_round_trips_through_plain_values():
    preprocess = tsf.Preprocess(num_frames=2, crop_size=8, mean=[0.1, 0.2, 0.3], sampling="segments")
    assert tsf.Preprocess.from_dict(json.loads(json.dumps({**preprocess.as_dict(), "later": 1}))) == preprocess
