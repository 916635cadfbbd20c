"""RandAugment: each operation matches Pillow on the whole clip, and operations are drawn uniformly."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from timesformer_jax.augment import rand_augment as module
from timesformer_jax.augment.rand_augment import OPERATIONS, rand_augment, rand_augment_batch
from timesformer_jax.training import batch_sharding, make_mesh

Picture = Image.Image
FRAMES, HEIGHT, WIDTH = SHAPE = 3, 24, 30
GEOMETRIC = ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")
NO_CHANGE_AT_ZERO = (*GEOMETRIC, "solarize", "solarize_add", "color", "contrast", "brightness", "sharpness")

JITTED = {name: jax.jit(operation) for name, operation in OPERATIONS.items()}
AUGMENT = jax.jit(rand_augment, static_argnames=("num_ops", "magnitude", "magnitude_std"))
AUGMENT_BATCH = jax.jit(rand_augment_batch, static_argnames=("num_ops", "magnitude", "magnitude_std", "split"))


def uneven_clip() -> np.ndarray:
    """A smooth uint8 clip with some noise, whose range differs between frames and channels."""
    frame, y, x, channel = np.meshgrid(*(np.arange(length) for length in (*SHAPE, 3)), indexing="ij")
    waves = np.sin(y / 5 + channel) * np.cos(x / 4 + frame)
    noise = np.random.default_rng(0).normal(0, 6, waves.shape)
    return np.clip(90 + 35 * frame + 10 * channel + (30 + 15 * frame) * waves + noise, 20, 235).astype(np.uint8)


def apply(name: str, clip: np.ndarray, level: float, sign: float) -> np.ndarray:
    """Apply the operation to a uint8 clip and scale the result to [0, 255]."""
    changed = JITTED[name](jnp.asarray(clip, jnp.float32) / 255, jnp.float32(level), jnp.float32(sign))
    assert changed.dtype == jnp.float32
    assert changed.shape == clip.shape
    return np.clip(np.asarray(changed) * 255, 0, 255)


def affine(picture: Picture, *matrix: float) -> Picture:
    transform, bilinear = Image.Transform.AFFINE, Image.Resampling.BILINEAR
    return picture.transform(picture.size, transform, matrix, resample=bilinear, fillcolor=(128, 128, 128))


def solarized_part(picture: Picture, added: float) -> Picture:
    return picture.point([min(round(i + added), 255) if i < 128 else i for i in range(256)] * 3)


def factor(level: float, sign: float) -> float:
    return 1 + sign * 0.9 * level


BY_PILLOW: dict[str, Callable[[Picture, float, float], Picture]] = {
    "auto_contrast": lambda picture, level, sign: ImageOps.autocontrast(picture),
    "equalize": lambda picture, level, sign: ImageOps.equalize(picture),
    "invert": lambda picture, level, sign: ImageOps.invert(picture),
    "rotate": lambda picture, level, sign: picture.rotate(
        sign * level * 30, Image.Resampling.BILINEAR, fillcolor=(128, 128, 128)
    ),
    "posterize": lambda picture, level, sign: ImageOps.posterize(picture, 4 - int(level * 4)),
    "solarize": lambda picture, level, sign: ImageOps.solarize(picture, int(256 - level * 256 + 0.999)),
    "solarize_add": lambda picture, level, sign: solarized_part(picture, 110 * level),
    "color": lambda picture, level, sign: ImageEnhance.Color(picture).enhance(factor(level, sign)),
    "contrast": lambda picture, level, sign: ImageEnhance.Contrast(picture).enhance(factor(level, sign)),
    "brightness": lambda picture, level, sign: ImageEnhance.Brightness(picture).enhance(factor(level, sign)),
    "sharpness": lambda picture, level, sign: ImageEnhance.Sharpness(picture).enhance(factor(level, sign)),
    "shear_x": lambda picture, level, sign: affine(picture, 1, sign * level * 0.3, 0, 0, 1, 0),
    "shear_y": lambda picture, level, sign: affine(picture, 1, 0, 0, sign * level * 0.3, 1, 0),
    "translate_x": lambda picture, level, sign: affine(picture, 1, 0, sign * level * 0.45 * WIDTH, 0, 1, 0),
    "translate_y": lambda picture, level, sign: affine(picture, 1, 0, 0, 0, 1, sign * level * 0.45 * HEIGHT),
}


def by_pillow(name: str, clip: np.ndarray, level: float, sign: float) -> np.ndarray:
    """Apply Pillow frame by frame if neighbours matter, else to all frames stacked into one image."""
    pictures = list(clip) if name in (*GEOMETRIC, "sharpness") else [clip.reshape(-1, WIDTH, 3)]
    changed = [np.asarray(BY_PILLOW[name](Image.fromarray(picture), level, sign)) for picture in pictures]
    return np.concatenate(changed).reshape(clip.shape).astype(np.float32)


def test_rand_augment_has_all_fifteen_operations():
    assert len(OPERATIONS) == 15
    assert OPERATIONS.keys() == BY_PILLOW.keys()


@pytest.mark.parametrize(("level", "sign"), [(0.0, 1), (0.3, -1), (0.7, 1), (0.97, -1)])
@pytest.mark.parametrize("name", BY_PILLOW)
def test_operations_match_pillow_on_a_clip(name: str, level: float, sign: int):
    clip = uneven_clip()
    np.testing.assert_allclose(apply(name, clip, level, sign), by_pillow(name, clip, level, sign), atol=1.6)


@pytest.mark.parametrize("name", ["equalize", "posterize", "invert", "solarize"])
def test_operations_on_whole_levels_are_exact(name: str):
    clip = uneven_clip()
    np.testing.assert_allclose(apply(name, clip, 0.6, 1), by_pillow(name, clip, 0.6, 1), atol=1e-3)


@pytest.mark.parametrize("name", NO_CHANGE_AT_ZERO)
@pytest.mark.parametrize("sign", [-1, 1])
def test_lowest_level_changes_nothing(name: str, sign: int):
    np.testing.assert_allclose(apply(name, uneven_clip(), 0.0, sign), uneven_clip(), atol=1e-3)


@pytest.mark.parametrize("name", ["auto_contrast", "equalize"])
def test_constant_channel_is_unchanged(name: str):
    clip = uneven_clip()
    clip[..., 1] = 77
    changed = apply(name, clip, 0.5, 1)
    np.testing.assert_allclose(changed[..., 1], 77, atol=1e-3)
    assert changed[..., 0].min() < 1
    assert changed[..., 2].max() > 254


@pytest.mark.parametrize("name", OPERATIONS)
def test_rand_augment_keeps_equal_frames_equal(name: str):
    clip = np.repeat(uneven_clip()[:1], FRAMES, axis=0)
    for sign in (-1, 1):
        changed = apply(name, clip, 0.7, sign)
        assert np.abs(changed - clip).max() > 2
        np.testing.assert_array_equal(changed, np.broadcast_to(changed[:1], changed.shape))


@pytest.mark.parametrize(("name", "axis", "moved"), [("translate_x", 2, 9), ("translate_y", 1, 9)])
def test_uncovered_pixels_are_grey(name: str, axis: int, moved: int):
    clip = uneven_clip()
    level = moved / (0.45 * clip.shape[axis])
    grey = np.full_like(np.take(clip, range(moved), axis), 127.5, dtype=np.float32)
    back, forth = apply(name, clip, level, 1), apply(name, clip, level, -1)
    np.testing.assert_allclose(
        back, np.concatenate([np.take(clip, range(moved, clip.shape[axis]), axis), grey], axis), atol=0.1
    )
    np.testing.assert_allclose(
        forth, np.concatenate([grey, np.take(clip, range(clip.shape[axis] - moved), axis)], axis), atol=0.1
    )


@pytest.fixture
def draw_operations(monkeypatch: pytest.MonkeyPatch) -> Callable[..., np.ndarray]:
    """Draw with many keys: the number of operations, and the operation, level and sign of the last one."""

    def encode(number: int, clip: jax.Array, level: jax.Array, sign: jax.Array) -> jax.Array:
        pixels = jnp.stack([clip[0, 0, 0, 0] + 1 / 8, jnp.float32(number / 16), (level + 1) / 3])  # room on both sides
        return jnp.stack([pixels, jnp.stack([(sign + 1) / 2] * 3)]).reshape(2, 1, 1, 3)

    stubs = {name: functools.partial(encode, number) for number, name in enumerate(OPERATIONS)}
    monkeypatch.setattr(module, "OPERATIONS", stubs)

    def draw(**options) -> np.ndarray:
        keys = jax.random.split(jax.random.key(0), 6000)
        one = functools.partial(rand_augment, clip=jnp.zeros((2, 1, 1, 3)), **options)
        drawn = np.asarray(jax.jit(jax.vmap(one))(keys)).reshape(-1, 6)
        return drawn[:, :4] * [8, 16, 30, 1] - [0, 0, 10, 0]

    return draw


def test_operations_are_drawn_uniformly_and_applied_half_of_the_time(draw_operations: Callable[..., np.ndarray]):
    happened, number, magnitude, sign = draw_operations(num_ops=1, magnitude=7.0).T
    assert set(happened) == {0, 1}
    assert happened.mean() == pytest.approx(0.5, abs=0.03)
    number, magnitude, sign = (drawn[happened == 1] for drawn in (number, magnitude, sign))
    counts = np.bincount(number.round().astype(int), minlength=15)
    assert len(counts) == 15
    assert (np.abs(counts / counts.sum() - 1 / 15) < 0.02).all()
    assert magnitude.mean() == pytest.approx(7.0, abs=0.05)
    assert magnitude.std() == pytest.approx(0.5, abs=0.03)
    assert set(sign) == {0, 1}
    assert sign.mean() == pytest.approx(0.5, abs=0.04)
    drawn = np.corrcoef([number, magnitude, sign])
    assert np.abs(drawn - np.eye(3)).max() < 0.07


def test_operations_are_drawn_independently(draw_operations: Callable[..., np.ndarray]):
    happened = draw_operations(num_ops=4, magnitude=7.0)[:, 0]
    shares = np.bincount(happened.astype(int)) / len(happened)
    np.testing.assert_allclose(shares, np.array([1, 4, 6, 4, 1]) / 16, atol=0.03)


@pytest.mark.parametrize(("magnitude", "cut"), [(10.0, 10.0), (0.0, 0.0)])
def test_magnitudes_are_clipped(draw_operations: Callable[..., np.ndarray], magnitude: float, cut: float):
    drawn = draw_operations(num_ops=1, magnitude=magnitude, magnitude_std=2.0)
    magnitudes = drawn[drawn[:, 0] == 1, 2]
    assert magnitudes.min() >= -1e-5
    assert magnitudes.max() <= 10 + 1e-5
    assert np.isclose(magnitudes, cut, atol=1e-5).mean() == pytest.approx(0.5, abs=0.04)


def float_clips(number: int) -> jax.Array:
    return jnp.asarray(np.stack([np.roll(uneven_clip(), index, axis=2) for index in range(number)]), jnp.float32) / 255


def test_draw_is_shared_by_frames_and_determined_by_the_key():
    clip = jnp.repeat(float_clips(1)[0, :1], FRAMES, axis=0)
    changed = [np.asarray(AUGMENT(jax.random.key(seed), clip, num_ops=4, magnitude=7.0)) for seed in (*range(40), 0)]
    for one in changed:
        assert one.dtype == np.float32
        assert np.isfinite(one).all()
        assert one.min() >= 0
        assert one.max() <= 1
        np.testing.assert_array_equal(one, np.broadcast_to(one[:1], one.shape))
    np.testing.assert_array_equal(changed[0], changed[-1])
    different = [np.abs(one - clip).max() > 1e-3 for one in changed[:-1]]
    assert sum(different) > 30  # 15 of 16 are changed, but for what changes nothing
    assert len({one.tobytes() for one in changed}) > 30


def test_sharded_batch_equals_single_clips():
    key, clips, over = jax.random.key(1), float_clips(16), batch_sharding(make_mesh(data=2, fsdp=2, context=2))
    options = {"num_ops": 4, "magnitude": 7.0}
    plain = AUGMENT_BATCH(key, clips, **options)
    split = AUGMENT_BATCH(key, clips, **options, split=over)
    single = [AUGMENT(own, clip, **options) for own, clip in zip(jax.random.split(key, 16), clips, strict=True)]
    np.testing.assert_allclose(plain, np.stack(single), atol=1e-6)
    np.testing.assert_allclose(split, plain, atol=1e-6)
    assert split.sharding.is_equivalent_to(over, split.ndim)


def test_batch_computes_only_the_drawn_operations():
    clips = jax.ShapeDtypeStruct((2, *SHAPE, 3), jnp.float32)
    augment = functools.partial(rand_augment_batch, num_ops=1, magnitude=7.0)
    jaxpr = str(jax.make_jaxpr(augment)(jax.random.key(0), clips))
    assert jaxpr.count("cond[") == 1  # vmap would turn it into a select
