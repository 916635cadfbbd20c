"""Plans of clips: official crops to the last digit, the full range of random draws, and sufficient windows."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.support import GOLDEN
from timesformer_jax.errors import InputError
from timesformer_jax.video import crop_and_scale, sample_positions, scale_short_side, standardize, view_crop_offset
from timesformer_jax.video.views import ClipOptions, EvalViews, Video, View, plan_windows

OPTIONS = ClipOptions(num_frames=4, crop_size=24, sampling="uniform", sampling_rate=1.0, short_side=(26, 40))
VIDEO = Video(num_frames=50, fps=30.0, height=30, width=60)


@pytest.fixture(scope="module")
def preprocess() -> dict[str, np.ndarray]:
    with np.load(GOLDEN / "preprocess.npz") as file:
        return dict(file)


def on_device(video: np.ndarray, view: View, window: int) -> np.ndarray:
    """Clip of a view, cropped from a window as on the device."""
    plan = plan_windows([view], Video(len(video), 30.0, *video.shape[1:3]), window)
    top, left, height, width = plan.box.tolist()
    boxes = video[plan.frames][:, top : top + height, left : left + width][plan.which[0]]
    first, begin = plan.corners[0].tolist()
    cut = boxes[:, first : first + window, begin : begin + window]
    cut = np.pad(cut, [(0, 0), (0, window - cut.shape[1]), (0, window - cut.shape[2]), (0, 0)])
    return np.asarray(crop_and_scale(cut[None], plan.rows, plan.columns))[0]


@pytest.mark.parametrize(
    ("name", "short_side", "size", "crops"),
    [("crop32", 32, 32, (0, 1, 2)), ("portrait_crop32", 32, 32, (0, 1, 2)), ("center48_of_64", 64, 48, (1,))],
)
def test_eval_crops_match_the_official_code(preprocess, name: str, short_side: int, size: int, crops: tuple[int, ...]):
    video = preprocess["video_uint8_thwc"]
    if name.startswith("portrait"):
        video = video.transpose(0, 2, 1, 3)
    options = dataclasses.replace(OPTIONS, num_frames=len(video), crop_size=size, short_side=(short_side, short_side))
    views = options.eval_views(Video(len(video), 30.0, *video.shape[1:3]), EvalViews(num_clips=1, num_crops=len(crops)))
    window = options.eval_window(min(video.shape[1:3]), len(crops))
    for crop, view in zip(crops, views, strict=True):
        view = view._replace(frames=np.arange(len(video)))
        clip = standardize(jnp.asarray(on_device(video, view, window)), (0.45,) * 3, (0.225,) * 3)
        np.testing.assert_allclose(clip, preprocess[f"{name}/{crop}"], atol=1e-5)


@pytest.mark.parametrize("num_crops", [1, 3])
def test_eval_crop_size_changes_evaluation_only(num_crops: int):
    """Views and windows equal those of a model with larger crops, and training's stay."""
    small = dataclasses.replace(OPTIONS, crop_size=16)
    both, video = dataclasses.replace(small, eval_crop_size=24), Video(20, 30.0, 40, 60)
    for ours, theirs in zip(
        both.eval_views(video, EvalViews(num_crops=num_crops)),
        OPTIONS.eval_views(video, EvalViews(num_crops=num_crops)),
        strict=True,
    ):
        jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    assert both.eval_window(40, num_crops) == OPTIONS.eval_window(40, num_crops)
    assert both.training_window(40) == small.training_window(40)
    drawn = [options.training_views(np.random.default_rng(0), video, 30) for options in (both, small)]
    jax.tree.map(np.testing.assert_array_equal, *drawn)
    with pytest.raises(InputError, match=r"smallest at least 27, the side of the crop \(clips.eval_crop_size\)"):
        dataclasses.replace(small, eval_crop_size=27)


@pytest.mark.parametrize("size", [(30, 60), (61, 33), (24, 24), (8, 11)])
@pytest.mark.parametrize("jitter", ["uniform", "inverse_uniform", "resized_crop"])
def test_windows_contain_every_crop(size: tuple[int, int], jitter: str):
    """A clip cropped from its window equals one cropped from full frames, even if these are smaller than the window."""
    video = np.random.default_rng(0).integers(0, 256, (6, *size, 3), dtype=np.uint8)
    options = dataclasses.replace(OPTIONS, jitter=jitter)
    window = options.training_window(min(size))
    facts = Video(6, 30.0, *size)
    random = np.random.default_rng(1)
    for _ in range(12):
        (view,) = options.training_views(random, facts, window - 2)
        whole = crop_and_scale(video[view.frames][None], view.rows[None], view.columns[None])[0]
        np.testing.assert_allclose(on_device(video, view, window), whole, atol=2e-5)


def test_views_of_a_video_share_decoded_frames():
    options = dataclasses.replace(OPTIONS, num_frames=8, sampling_rate=4.0)
    views = options.eval_views(VIDEO, EvalViews(num_clips=3, num_crops=3))
    plan = plan_windows(views, VIDEO, options.eval_window(30, 3))
    assert len(views) == 9
    assert plan.frames == sorted({int(frame) for view in views for frame in view.frames})
    for view, which in zip(views, plan.which, strict=True):
        np.testing.assert_array_equal(np.array(plan.frames)[which], view.frames)


def test_single_eval_crop_is_the_centre_of_the_smallest_training_size():
    video = VIDEO._replace(num_frames=20)
    (view,) = OPTIONS.eval_views(video, EvalViews())
    np.testing.assert_array_equal(view.rows, sample_positions(30, 26, 1, 24))
    np.testing.assert_array_equal(view.columns, sample_positions(60, 52, 14, 24))
    segments = dataclasses.replace(OPTIONS, sampling="segments")  # Something-Something's evaluation scales to the crop
    (view,) = segments.eval_views(video, EvalViews())
    np.testing.assert_array_equal(view.rows, sample_positions(30, 24, 0, 24))
    np.testing.assert_array_equal(view.columns, sample_positions(60, 48, 12, 24))


def test_eval_crops_span_the_long_side():
    views = OPTIONS.eval_views(VIDEO, EvalViews(num_clips=1, num_crops=3))
    scaled = scale_short_side(30, 60, 24)
    for crop, view in enumerate(views):
        _, left = view_crop_offset(*scaled, 24, crop)
        np.testing.assert_array_equal(view.columns, sample_positions(60, 48, left, 24))


def test_number_of_tiled_clips_follows_the_video_length():
    tiled = dataclasses.replace(OPTIONS, placement="tiled")
    for num_frames, count in ((3, 1), (4, 1), (5, 2), (50, 13)):
        views = tiled.eval_views(VIDEO._replace(num_frames=num_frames), EvalViews(num_clips=2, num_crops=1))
        assert len(views) == count
        assert {int(frame) for view in views for frame in view.frames} == set(range(num_frames))


def short_side_of(view: View) -> int:
    """Short side that a view was scaled to, from the distance between the crop's pixels."""
    return round(30 * 23 / float(view.rows[-2] - view.rows[1]) * 21 / 23)


def test_training_crops_use_the_whole_size_range():
    random = np.random.default_rng(0)
    views = [OPTIONS.training_views(random, VIDEO, 99)[0] for _ in range(400)]
    assert {short_side_of(view) for view in views} == set(range(26, 41))
    assert {int(view.frames[0]) for view in views} == set(range(46))
    tops = {round(float(view.rows[0]) * 26 / 30) for view in views if short_side_of(view) == 26}
    assert tops == {0, 1, 2}


def test_inverse_uniform_draws_small_sizes_more_often():
    random = np.random.default_rng(0)
    sizes = {}
    for jitter in ("uniform", "inverse_uniform"):
        options = dataclasses.replace(OPTIONS, jitter=jitter)
        sizes[jitter] = np.mean([short_side_of(options.training_views(random, VIDEO, 99)[0]) for _ in range(2000)])
    assert sizes["uniform"] == pytest.approx(33, abs=0.4)
    assert sizes["inverse_uniform"] == pytest.approx(np.log(40 / 26) / (1 / 26 - 1 / 40), abs=0.4)


def test_resized_crops_have_the_drawn_area_and_aspect_ratio():
    options = dataclasses.replace(OPTIONS, jitter="resized_crop", area=(0.2, 0.5), crop_size=8, short_side=(8, 8))
    random = np.random.default_rng(0)
    video = Video(50, 30.0, 300, 600)
    views = [options.training_views(random, video, 9999)[0] for _ in range(500)]
    sides = np.array([[float(at[-1] - at[0]) * 8 / 7 for at in (view.rows, view.columns)] for view in views])
    areas, aspects = sides.prod(axis=1) / (300 * 600), sides[:, 1] / sides[:, 0]
    whole = sides[:, 0] < 299  # a box higher than the frame is clipped to its height
    assert 0.195 < areas.min() < 0.22 < 0.45 < areas.max() < 0.505
    assert 0.74 < aspects[whole].min() < 0.8 < 1.25 < aspects[whole].max() < 1.35
    assert {float(view.rows[0]) < 15 for view in views} == {True, False}
    assert max(float(view.columns[-1]) for view in views) < 600
    limited = [options.training_views(random, video, 100)[0] for _ in range(20)]
    assert max(float(at[-1] - at[0]) for view in limited for at in (view.rows, view.columns)) < 100


def test_multiple_clips_are_drawn_independently():
    options = dataclasses.replace(OPTIONS, clips_per_video=3)
    views = options.training_views(np.random.default_rng(0), VIDEO, 99)
    assert len({view.rows.tobytes() for view in views}) == len({view.frames.tobytes() for view in views}) == 3
    (first,) = OPTIONS.training_views(np.random.default_rng(0), VIDEO, 99)
    np.testing.assert_array_equal(first.rows, views[0].rows)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sampling": "all"}, "one of uniform, segments, got 'all'"),
        ({"placement": "middle"}, "one of official, centre, dense, tiled, got 'middle'"),
        ({"placement": "tiled", "sampling": "segments"}, "placement=tiled needs sampling=uniform"),
        ({"jitter": "some"}, "one of uniform, inverse_uniform, resized_crop, got 'some'"),
        ({"short_side": (20, 30)}, "at least 24, the side of the crop"),
        ({"short_side": 30}, "got 30"),
        ({"area": (0.0, 1.0)}, "area must be .*above 0 and at most 1"),
        ({"aspect": (2.0, 1.0)}, "aspect must be"),
        ({"clips_per_video": 0}, "clips_per_video must be a whole number of at least 1"),
        ({"num_frames": 0, "sampling_rate": None, "span": 8.0}, "num_frames must be a whole number of at least 1, got 0"),
        ({"crop_size": 0}, "crop_size must be a whole number of at least 1, got 0"),
        ({"aspect": (1.0, float("inf"))}, "aspect must be"),
        ({"sampling_rate": 0.0}, "sampling_rate must be above 0"),
        ({"sampling_rate": float("inf")}, "sampling_rate must be above 0 and finite, got inf"),
        ({"sampling_rate": float("nan")}, "sampling_rate must be above 0 and finite, got nan"),
    ],
)
def test_impossible_options_are_rejected(changes: dict, words: str):
    with pytest.raises(InputError, match=words):
        dataclasses.replace(OPTIONS, **changes)
