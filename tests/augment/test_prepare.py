"""Preparation of clips on the device: one draw per clip, within bounds, and no augmentation that isn't configured."""

import colorsys

import jax
import numpy as np
import pytest

from timesformer_jax.augment import PixelOptions, prepare_training, sides_matter
from timesformer_jax.augment.prepare import CHANGES
from timesformer_jax.errors import InputError

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.5)


def random_clips() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (64, 3, 4, 6, 3), dtype=np.uint8)


PREPARE = jax.jit(prepare_training, static_argnames="options")


def prepared(video: np.ndarray, *, seed: int = 0, **changes) -> np.ndarray:
    """Prepare clips and undo the normalisation, back to [0, 1]."""
    options = PixelOptions(**{"flip": "off", "mean": MEAN, "std": STD, **changes})
    batch, _, height, width, _ = video.shape
    whole = {"rows": np.tile(np.arange(height, dtype=np.float32), (batch, 1))}
    whole["columns"] = np.tile(np.arange(width, dtype=np.float32), (batch, 1))
    return np.asarray(PREPARE(jax.random.key(seed), {"video": video, **whole}, options=options)) * STD + MEAN


def test_pixels_are_normalised_per_channel():
    np.testing.assert_allclose(prepared(random_clips()), random_clips() / 255.0, atol=1e-5)


def test_flips_mirror_about_half_of_the_clips():
    video = random_clips()
    got = prepared(video, flip="on")
    plain, mirrored = video / 255.0, video[:, :, :, ::-1] / 255.0
    flipped = np.array([np.allclose(clip, mirror, atol=1e-5) for clip, mirror in zip(got, mirrored, strict=True)])
    straight = np.array([np.allclose(clip, same, atol=1e-5) for clip, same in zip(got, plain, strict=True)])
    assert (flipped ^ straight).all()  # all frames of a clip, or none
    assert 16 < flipped.sum() < 48


def soft_clips(size: int = 4) -> np.ndarray:
    """Clips far from black and white, so that nothing is clipped; two frames are alike, the third differs."""
    clips = np.random.default_rng(1).integers(90, 160, (64, 3, size, size + 2, 3), dtype=np.uint8)
    clips[:, 1] = clips[:, 0]
    return clips


def test_brightness_is_one_factor_per_clip():
    difference = prepared(soft_clips(), brightness=0.2) - soft_clips() / 255.0
    numbers = difference.mean(axis=(1, 2, 3, 4))
    np.testing.assert_allclose(difference, np.broadcast_to(numbers[:, None, None, None, None], difference.shape), atol=1e-5)
    assert np.abs(numbers).max() <= 0.2
    assert len(set(np.round(numbers, 4))) > 50
    assert numbers.min() < -0.1 < 0.1 < numbers.max()


def test_contrast_is_around_the_clip_mean():
    video = soft_clips() / 255.0
    got = prepared(soft_clips(), contrast=0.5)
    mean = video.mean(axis=(1, 2, 3, 4), keepdims=True)
    factors = ((got - mean) / (video - mean)).reshape(64, -1)
    np.testing.assert_allclose(factors, np.broadcast_to(np.median(factors, axis=1, keepdims=True), factors.shape), rtol=2e-2)
    middle = np.median(factors, axis=1)
    assert 0.5 <= middle.min() < 0.7 < 1.3 < middle.max() <= 1.5


@pytest.mark.parametrize(("change", "index"), [("saturation", 1), ("hue", 0)])
def test_hue_and_saturation_keep_the_value(change: str, index: int):
    """The value (brightness) is unchanged, and all frames of a clip change by the same amount."""
    got = prepared(soft_clips(), **{change: 0.3})
    pixels = (soft_clips() / 255.0)[:8, :, 0, 0], got[:8, :, 0, 0]
    before, after = (np.array([[colorsys.rgb_to_hsv(*frame) for frame in clip] for clip in part]) for part in pixels)
    np.testing.assert_allclose(before[..., 2], after[..., 2], atol=1e-4)
    assert np.abs(before[..., index] - after[..., index]).max() > 0.03
    np.testing.assert_allclose(after[:, 0], after[:, 1], atol=1e-5)  # the frames that are alike still are
    assert np.abs(before[..., 1 - index] - after[..., 1 - index]).max() < 1e-3


@pytest.mark.parametrize(("change", "share"), [("grey", 0.25), ("blur", 0.5), ("erase", 0.5)])
def test_augmentation_changes_only_some_clips(change: str, share: float):
    video = soft_clips(12)
    got = np.stack([prepared(video, seed=seed, **{change: share}) for seed in range(4)])
    changed = np.abs(got - video / 255.0).max(axis=(2, 3, 4, 5)) > 1e-3
    assert share - 0.1 < changed.mean() < share + 0.1
    clip = got[0][changed[0]][0]
    if change == "grey":
        np.testing.assert_allclose(clip, np.broadcast_to(clip[..., :1], clip.shape), atol=1e-5)
    elif change == "blur":
        np.testing.assert_allclose(clip[0], clip[1], atol=1e-5)
        assert clip.mean() == pytest.approx((video / 255.0)[changed[0]][0].mean(), abs=0.02)


def test_erasing_uses_the_same_box_in_all_frames():
    video = soft_clips(30)
    got = prepared(video, erase=1.0)
    boxes = np.abs(got - video / 255.0).max(axis=-1) > 1e-6  # [B, T, H, W]
    np.testing.assert_array_equal(boxes.any(axis=1), boxes.all(axis=1))
    shares = boxes[:, 0].mean(axis=(1, 2))
    assert 0.01 < shares.min() < 0.1 < 0.25 < shares.max() < 0.36
    for box in boxes[:, 0]:
        rows, columns = box.any(axis=1), box.any(axis=0)
        np.testing.assert_array_equal(box, rows[:, None] & columns[None])  # really a box
        assert np.diff(np.flatnonzero(rows)).max(initial=1) == np.diff(np.flatnonzero(columns)).max(initial=1) == 1
    centres = np.array([np.argwhere(box).mean(axis=0) for box in boxes[:, 0]])
    assert (centres.std(axis=0) > 3).all()  # anywhere


def test_prepare_is_deterministic_for_a_key():
    changes = {
        "flip": "on",
        "brightness": 0.3,
        "contrast": 0.3,
        "saturation": 0.3,
        "hue": 0.1,
        "grey": 0.2,
        "blur": 0.5,
        "erase": 0.5,
        "rand_augment": (2, 9.0),
    }
    one, again, other = (prepared(soft_clips(12), seed=seed, **changes) for seed in (3, 3, 4))
    np.testing.assert_array_equal(one, again)
    assert (np.abs(one - other).max(axis=(1, 2, 3, 4)) > 1e-3).all()
    assert np.isfinite(one).all()


def test_labels_naming_a_side_are_detected():
    assert sides_matter(["walking", "Pushing [something] from left to right"])
    assert sides_matter(["move_left"])
    assert sides_matter(["RIGHT"])
    for name in (
        "TurnLeft",
        "turnRight",
        "LEFTTurn",
        "LeftHand2",
        "facing leftward",
        "rightwards",
        "Leftwards",
        "go_RIGHTWARDS",
        "turnleft",
        "moveleftward",
        "righthand",
        "Turning Hand Counterclockwise",
        "rotate_cw",
        "rotateCCW",
        "links abbiegen",
        "向左转",
    ):
        assert sides_matter([name]), name
    assert not sides_matter(["bright lights", "cleft", "lefty", "upright", "leftover", "copyright", "Brightness", "BRIGHT"])
    assert not sides_matter(
        ["CopyrightNotice", "EatingLeftovers", "otherwise", "likewise", "fright", "playwright", "downright"]
    )
    assert sides_matter(["bright, turning left"])
    auto = PixelOptions(flip="auto", mean=MEAN, std=STD)
    with pytest.raises(InputError, match=r"depends on the labels: pass options\.for_labels"):
        prepare_training(jax.random.key(0), {}, options=auto)
    assert auto.for_labels(["bright"]).flip == "on"
    assert auto.for_labels(["turn right"]).flip == "off"
    assert PixelOptions(flip="on", mean=MEAN, std=STD).for_labels(["turn right"]).flip == "on"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"flip": "yes"}, "flip must be auto, on or off, got 'yes'"),
        ({"hue": 0.7}, r"hue must be from 0 to 0\.5, got 0\.7"),
        ({"erase": -0.1}, "erase must be from 0 to 1"),
        ({"rand_augment": (2,)}, r"rand_augment must be .*, got \(2,\)"),
        ({"rand_augment": 2}, "rand_augment must be .*, got 2"),
        ({"rand_augment": (2.5, 9.0)}, r"must be \(whole number of operations, .*, got \(2\.5, 9\.0\)"),
        ({"rand_augment": (-1, 9.0)}, "rand_augment must be"),
        ({"rand_augment": (2, float("nan"))}, "rand_augment must be"),
        ({"rand_augment": (2, "9")}, "rand_augment must be"),
        ({"hue": float("nan")}, "hue must be from 0"),
        ({"std": (0.2, 0.0, 0.2)}, r"std must be above 0, .* got \(0\.2, 0\.0, 0\.2\)"),
        ({"std": (0.2, float("nan"), 0.2)}, "mean and std must be three numbers each"),
        ({"mean": (0.5,)}, "mean and std must be three numbers each"),
        ({"rand_augment": (2, 11.0)}, r"rand_augment must be .*magnitude from 0 to 10\), got \(2, 11\.0\)"),
    ],
)
def test_impossible_options_are_rejected(changes: dict, words: str):
    with pytest.raises(InputError, match=words):
        PixelOptions(**{"flip": "off", "mean": MEAN, "std": STD, **changes})


def test_every_option_has_an_augmentation():
    fields = set(PixelOptions.__dataclass_fields__) - {"mean", "std", "channel_order", "erase", "rand_augment"}
    assert CHANGES.keys() == fields
