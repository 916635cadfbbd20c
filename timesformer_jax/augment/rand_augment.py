"""RandAugment for clips on the device: a few random operations, each the same in all frames of a clip.

Every histogram and mean is computed over the whole clip, never per frame, so that nothing flickers.

Source: Cubuk et al. 2020, with the operations of AutoAugment (Cubuk et al. 2019). As is usual for videos
("rand-m7-n4-mstd0.5-inc1" in timm's notation), every operation gets stronger with its magnitude and is skipped with
probability 1/2.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding

from timesformer_jax._typing import Array, Float, PRNGKeyArray
from timesformer_jax.augment._dm_pix import pix

LARGEST_MAGNITUDE = 10.0
GREY = 0.5


def rand_augment(
    key: PRNGKeyArray, clip: Float[Array, "T H W 3"], *, num_ops: int, magnitude: float, magnitude_std: float = 0.5
) -> Float[Array, "T H W 3"]:
    """Apply `num_ops` operations of `OPERATIONS` to a clip in [0, 1], drawn with replacement.

    Under `jax.vmap`, all operations are computed for every clip; use `rand_augment_batch` for batches.

    Args:
        key: Random key.
        clip: Clip with values in [0, 1].
        num_ops: Number of operations drawn. Each is applied with probability 1/2.
        magnitude: Mean of the magnitude, from 0 to 10.
        magnitude_std: Standard deviation of the magnitude, which is normal and clipped to [0, 10].
    """
    # Skipping is a branch, so that it costs nothing.
    branches = [*OPERATIONS.values(), lambda clip, level, sign: clip]

    def change(clip: Array, key: PRNGKeyArray) -> tuple[Array, None]:
        which_key, whether_key, magnitude_key, sign_key = jax.random.split(key, 4)
        which = jax.random.randint(which_key, (), 0, len(OPERATIONS))
        branch = jnp.where(jax.random.bernoulli(whether_key), which, len(OPERATIONS))
        level = (magnitude + magnitude_std * jax.random.normal(magnitude_key)) / LARGEST_MAGNITUDE
        sign = jax.random.rademacher(sign_key, dtype=jnp.float32)
        changed = jax.lax.switch(branch, branches, clip, jnp.clip(level, 0.0, 1.0), sign)
        return jnp.clip(changed, 0.0, 1.0), None

    return jax.lax.scan(change, clip, jax.random.split(key, num_ops))[0]


def rand_augment_batch(
    key: PRNGKeyArray,
    clips: Float[Array, "B T H W 3"],
    *,
    num_ops: int,
    magnitude: float,
    magnitude_std: float = 0.5,
    split: NamedSharding | None = None,
) -> Float[Array, "B T H W 3"]:
    """Apply `rand_augment` to one clip after another, so that only the operations drawn are computed.

    Args:
        key: Random key.
        clips: Clips with values in [0, 1].
        num_ops: As in `rand_augment`.
        magnitude: As in `rand_augment`.
        magnitude_std: As in `rand_augment`.
        split: Sharding of the batch. Each device then processes only its own clips; otherwise every device processes all
            clips. The result is the same.
    """
    change = functools.partial(rand_augment, num_ops=num_ops, magnitude=magnitude, magnitude_std=magnitude_std)

    def change_all(keys: Array, clips: Array) -> Array:
        return jax.lax.map(lambda one: change(*one), (keys, clips))

    if split is not None:
        change_all = jax.shard_map(change_all, mesh=split.mesh, in_specs=(split.spec, split.spec), out_specs=split.spec)
    return change_all(jax.random.split(key, len(clips)), clips)


def _levels(clip: Array) -> Array:
    """Convert values in [0, 1] to int32 levels from 0 to 255."""
    return jnp.round(clip * 255).astype(jnp.int32)


def _blend(factor: Array, clip: Array, other: Array) -> Array:
    """Interpolate from `other` (`factor` 0) to the clip (1), and extrapolate beyond."""
    return factor * clip + (1 - factor) * other


def _grey(clip: Array) -> Array:
    """Luminance of a clip, `[T, H, W, 1]`."""
    return jnp.asarray(pix.rgb_to_grayscale(clip))


def _factor(level: Array, sign: Array) -> Array:
    return 1 + 0.9 * sign * level


def _auto_contrast(clip: Array) -> Array:
    low, high = clip.min(axis=(0, 1, 2), keepdims=True), clip.max(axis=(0, 1, 2), keepdims=True)
    return jnp.where(high > low, (clip - low) / jnp.where(high > low, high - low, 1.0), clip)


def _equalize(clip: Array) -> Array:
    """Equalise the histogram of each channel; the highest level doesn't count, as in Pillow."""
    channels = jnp.arange(3)[None, None, None, :]
    levels = _levels(clip)
    counts = jnp.bincount((levels + 256 * channels).reshape(-1), length=3 * 256).reshape(3, 256)
    up_to = jnp.cumsum(counts, axis=1)
    step = jnp.where(up_to < up_to[:, -1:], up_to, 0).max(axis=1, keepdims=True) // 255
    spread = (up_to - counts + step // 2) // jnp.maximum(step, 1)
    table = jnp.where(step > 0, jnp.minimum(spread, 255), jnp.arange(256)[None, :])
    return table[channels, levels].astype(jnp.float32) / 255


def _posterize(clip: Array, level: Array) -> Array:
    """Reduce each colour to 4 bits at level 0, down to 0 bits (black) at level 1."""
    dropped = 4 + jnp.floor(4 * level).astype(jnp.int32)
    return (_levels(clip) >> dropped << dropped).astype(jnp.float32) / 255


def _contrast(clip: Array, factor: Array) -> Array:
    return _blend(factor, clip, _grey(clip).mean())


def _sharpness(clip: Array, factor: Array) -> Array:
    """Blend with a smoothed clip: a 3 x 3 mean with weight 5 at the centre. Border pixels stay as they are."""
    rows = clip[:, :-2] + clip[:, 1:-1] + clip[:, 2:]
    around = rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:]
    inner = clip[:, 1:-1, 1:-1]
    return clip.at[:, 1:-1, 1:-1].set(_blend(factor, inner, (around + 4 * inner) / 13))


def _moved(clip: Array, places: Callable[[Array, Array], tuple[Array, Array]]) -> Array:
    """Resample a clip bilinearly at other positions; positions outside the frame become grey.

    `places` maps the (y, x) of pixel centres to (y, x) in the clip, where pixel i extends from i to i + 1.
    """
    _, height, width, _ = clip.shape
    y, x = places(*(jnp.mgrid[:height, :width].astype(jnp.float32) + 0.5))
    inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
    # XLA may compute a position twice and round it differently: a whole number must give the same pixel both times.
    top, left = jnp.floor(y - 0.5 + 2e-4), jnp.floor(x - 0.5 + 2e-4)
    down, right = y - 0.5 - top, x - 0.5 - left
    # Indexing all frames at once takes half the time of map_coordinates and a tenth of that of pix.affine_transform.
    taps = (
        clip[:, _index(top + row, height), _index(left + column, width)] * (row_share * column_share)[None, :, :, None]
        for row, row_share in ((0, 1 - down), (1, down))
        for column, column_share in ((0, 1 - right), (1, right))
    )
    return jnp.where(inside[None, :, :, None], sum(taps), GREY)


def _index(place: Array, length: int) -> Array:
    return jnp.clip(place, 0, length - 1).astype(jnp.int32)


def _rotate(clip: Array, degrees: Array) -> Array:
    """Rotate counter-clockwise around the centre."""
    middle_y, middle_x = clip.shape[1] / 2, clip.shape[2] / 2
    cos, sin = jnp.cos(jnp.deg2rad(degrees)), jnp.sin(jnp.deg2rad(degrees))

    def places(y: Array, x: Array) -> tuple[Array, Array]:
        y, x = y - middle_y, x - middle_x
        return cos * y + sin * x + middle_y, cos * x - sin * y + middle_x

    return _moved(clip, places)


OPERATIONS: dict[str, Callable[..., Any]] = {
    "auto_contrast": lambda clip, level, sign: _auto_contrast(clip),
    "equalize": lambda clip, level, sign: _equalize(clip),
    "invert": lambda clip, level, sign: 1 - clip,
    "rotate": lambda clip, level, sign: _rotate(clip, 30 * sign * level),
    "posterize": lambda clip, level, sign: _posterize(clip, level),
    "solarize": lambda clip, level, sign: pix.solarize(clip, 256 / 255 * (1 - level)),
    "solarize_add": lambda clip, level, sign: jnp.where(clip < 0.5, clip + 110 / 255 * level, clip),
    "color": lambda clip, level, sign: _blend(_factor(level, sign), clip, _grey(clip)),
    "contrast": lambda clip, level, sign: _contrast(clip, _factor(level, sign)),
    "brightness": lambda clip, level, sign: _factor(level, sign) * clip,
    "sharpness": lambda clip, level, sign: _sharpness(clip, _factor(level, sign)),
    "shear_x": lambda clip, level, sign: _moved(clip, lambda y, x: (y, x + 0.3 * sign * level * y)),
    "shear_y": lambda clip, level, sign: _moved(clip, lambda y, x: (y + 0.3 * sign * level * x, x)),
    "translate_x": lambda clip, level, sign: _moved(clip, lambda y, x: (y, x + 0.45 * sign * level * clip.shape[2])),
    "translate_y": lambda clip, level, sign: _moved(clip, lambda y, x: (y + 0.45 * sign * level * clip.shape[1], x)),
}
"""Maps a name to a function (clip in [0, 1], level from 0 to 1, sign -1 or 1) -> clip, not yet clipped to [0, 1].

"posterize" and "solarize" are the increasing variants of other libraries. "color" to "sharpness" are neutral at level 0.
"""
