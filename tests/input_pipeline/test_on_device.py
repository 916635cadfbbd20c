"""Flips and normalisation on the device."""

import jax
import numpy as np

from input_pipeline import prepare_training

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.5)


def random_clips() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (64, 3, 4, 6, 3), dtype=np.uint8)


def expected(video: np.ndarray) -> np.ndarray:
    return (video / 255.0 - MEAN) / STD


def test_pixels_are_normalised_per_channel():
    video = random_clips()
    got = jax.jit(lambda key, v: prepare_training(key, v, flip=False, mean=MEAN, std=STD))(jax.random.key(0), video)
    np.testing.assert_allclose(got, expected(video), atol=1e-5)


def test_about_half_of_the_clips_are_mirrored_whole():
    video = random_clips()
    got = np.asarray(prepare_training(jax.random.key(0), video, flip=True, mean=MEAN, std=STD))
    plain, mirrored = expected(video), expected(video[:, :, :, ::-1])
    flipped = np.array([np.allclose(clip, mirror, atol=1e-5) for clip, mirror in zip(got, mirrored, strict=True)])
    straight = np.array([np.allclose(clip, same, atol=1e-5) for clip, same in zip(got, plain, strict=True)])
    assert (flipped ^ straight).all()  # all frames of a clip, or none
    assert 16 < flipped.sum() < 48
