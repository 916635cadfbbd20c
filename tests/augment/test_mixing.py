"""Mixup and VideoMix: the share of a clip in the pixels is its share in the label."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from timesformer_jax.augment import MixingOptions, mix_clips
from timesformer_jax.errors import InputError


def marked_clips(batch: int = 32, height: int = 20, width: int = 30) -> tuple[jax.Array, jax.Array]:
    """Make clips in which every pixel of clip i is i + 1, plus a hundredth for the frame."""
    video = jnp.arange(1.0, batch + 1)[:, None, None, None, None] + 0.01 * jnp.arange(4.0)[None, :, None, None, None]
    return jnp.broadcast_to(video, (batch, 4, height, width, 3)), jnp.arange(batch, dtype=jnp.int32)


MIX = jax.jit(mix_clips, static_argnames="options")


def mixed(seed: int = 0, **options: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    video, labels = marked_clips()
    got, others, share = MIX(jax.random.key(seed), video, labels, options=MixingOptions(**options))
    np.testing.assert_array_equal(others, labels[::-1])
    return np.asarray(got), np.asarray(others), np.asarray(share)


def test_mixup_weighs_each_clip_by_its_share():
    got, _, share = mixed(mixup=0.8, cutmix=0.0)
    own, other = np.arange(1.0, 33), np.arange(32.0, 0, -1)
    expected = share * own + (1 - share) * other
    np.testing.assert_allclose(got[:, 0, 0, 0, 0], expected, rtol=1e-5)
    np.testing.assert_allclose(got[:, 3], np.broadcast_to((expected + 0.03)[:, None, None, None], got[:, 3].shape), rtol=1e-5)
    assert len(set(share)) == 32
    assert 0 <= share.min() < 0.2 < 0.8 < share.max() <= 1


def test_videomix_cuts_one_box_through_all_frames():
    """The box has the same place in all frames, and the clip's share is the area outside the box."""
    got, _, share = mixed(mixup=0.0, cutmix=1.0)
    other = np.arange(32.0, 0, -1)
    frames = 0.01 * np.arange(4)
    cut = np.abs(got[..., 0] - frames[None, :, None, None] - other[:, None, None, None]) < 1e-4  # [B, T, H, W]
    np.testing.assert_array_equal(cut.any(axis=1), cut.all(axis=1))
    np.testing.assert_allclose(share, 1 - cut[:, 0].mean(axis=(1, 2)), atol=1e-6)
    own = np.arange(1.0, 33)
    untouched = np.abs(got[..., 0] - frames[None, :, None, None] - own[:, None, None, None]) < 1e-4
    assert (cut ^ untouched).all()
    for box in cut[:, 0]:
        rows, columns = box.any(axis=1), box.any(axis=0)
        np.testing.assert_array_equal(box, rows[:, None] & columns[None])
        assert np.diff(np.flatnonzero(rows)).max(initial=1) == np.diff(np.flatnonzero(columns)).max(initial=1) == 1
    assert share.min() < 0.5 < 0.9 < share.max()


def test_each_clip_gets_either_mixup_or_videomix():
    got, _, share = mixed(mixup=1.0, cutmix=1.0)
    whole = (got.std(axis=(2, 3, 4)) < 1e-5).all(axis=1)  # mixup, or a tiny cut
    assert 4 < whole.sum() < 28
    assert ((share >= 0) & (share <= 1)).all()


def test_mixing_shares_follow_the_beta_distribution():
    """Shares follow Beta(alpha, alpha), whose variance is 1 / (4 (2 alpha + 1))."""
    for alpha in (0.3, 1.0, 4.0):
        share = np.concatenate([mixed(seed, mixup=alpha, cutmix=0.0)[2] for seed in range(30)])
        assert share.mean() == pytest.approx(0.5, abs=0.05)
        assert share.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.15)


def test_mixing_options_are_checked():
    assert not MixingOptions(mixup=0.0, cutmix=0.0).mixes
    assert MixingOptions(mixup=0.0, cutmix=1.0).mixes
    for value in (-1.0, float("nan"), float("inf")):
        with pytest.raises(InputError, match=rf"mixup must be at least 0 and finite, got {value}"):
            MixingOptions(mixup=value, cutmix=0.0)
