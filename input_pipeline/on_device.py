"""What the device does to a batch of uint8 clips before the model: flips, colours, normalisation, erasing.

Every random number is drawn once a clip, so that all frames of a clip change alike.
"""

import dataclasses
import re
from collections.abc import Sequence

import dm_pix as pix
import jax
import jax.numpy as jnp

from timesformer_jax._typing import Array, Float, PRNGKeyArray, UInt8
from timesformer_jax.errors import InputError
from timesformer_jax.video import normalize

LEFT_OR_RIGHT = re.compile(r"(?<![a-z])(left|right)(?![a-z])", re.IGNORECASE)


def sides_matter(label_names: Sequence[str]) -> bool:
    """Whether a label speaks of left or right, so that a mirrored clip would have another label.

    "Pushing something from left to right" does, "bright" doesn't.
    """
    return any(LEFT_OR_RIGHT.search(name) for name in label_names)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PixelOptions:
    """How training clips are changed on the device; 0 leaves a change out.

    `flip`: mirrored left to right with probability 1/2: "on", "off", or "auto", which is "off" where `sides_matter`.
    `brightness` in [0, 1] is added or taken away at most; `contrast` and `saturation` in [0, 1) are the largest shares by
    which they grow or shrink; `hue` in [0, 0.5] is the largest turn of the colour circle. `grey`, `blur` and `erase` are
    probabilities: of a clip without colours, of one blurred by a Gaussian of 0.1 to 2 pixels, and of one with a box of
    noise, 2 to 33 % of the picture, the same in all frames. `mean` and `std` are the model's.

    Raises `InputError` for values out of range.
    """

    flip: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    grey: float = 0.0
    blur: float = 0.0
    erase: float = 0.0

    def __post_init__(self) -> None:
        if self.flip not in ("auto", "on", "off"):
            raise InputError(f"pixels.flip must be auto, on or off, got {self.flip!r}.")
        for name, largest in (("hue", 0.5), *((name, 1.0) for name in _SHARES)):
            if not 0 <= getattr(self, name) <= largest:
                raise InputError(f"pixels.{name} must be from 0 to {largest:g}, got {getattr(self, name)}.")

    def for_labels(self, label_names: Sequence[str]) -> "PixelOptions":
        """The same with "auto" decided."""
        decided = "off" if sides_matter(label_names) else "on"
        return dataclasses.replace(self, flip=decided) if self.flip == "auto" else self


_SHARES = ("brightness", "contrast", "saturation", "grey", "blur", "erase")


def prepare_training(
    key: PRNGKeyArray, video: UInt8[Array, "B T H W 3"], *, options: PixelOptions
) -> Float[Array, "B T H W 3"]:
    """Changes each clip by `options` (whose `flip` is decided) and normalises it."""
    changes = _changes(options)
    if not changes and not options.erase:
        return normalize(video, options.mean, options.std)

    def prepare(key: PRNGKeyArray, clip: Array) -> Array:
        for change in changes:
            key, own = jax.random.split(key)
            with jax.numpy_dtype_promotion("standard"):  # dm-pix mixes bools and floats
                clip = change(own, clip)
        clip = (jnp.clip(clip, 0.0, 1.0) - jnp.asarray(options.mean, jnp.float32)[None, None, None]) / jnp.asarray(
            options.std, jnp.float32
        )[None, None, None]
        return _erase(key, clip, options.erase) if options.erase else clip

    keys = jax.random.split(key, video.shape[0])
    return jax.vmap(prepare)(keys, jnp.asarray(video, jnp.float32) / 255.0)


def _changes(options: PixelOptions) -> list:
    """The functions (key, clip `[T, H, W, 3]` in [0, 1]) -> clip that `options` ask for, in order."""
    share = {name: getattr(options, name) for name in (*_SHARES, "hue")}
    changes = []
    if options.flip == "on":
        changes.append(pix.random_flip_left_right)
    if share["brightness"]:
        changes.append(lambda key, clip: pix.random_brightness(key, clip, share["brightness"]))
    if share["contrast"]:
        changes.append(lambda key, clip: _random_contrast(key, clip, share["contrast"]))
    if share["saturation"]:
        low, high = 1 - share["saturation"], 1 + share["saturation"]
        changes.append(lambda key, clip: pix.random_saturation(key, jnp.clip(clip, 0.0, 1.0), low, high))
    if share["hue"]:
        changes.append(lambda key, clip: pix.random_hue(key, jnp.clip(clip, 0.0, 1.0), share["hue"]))
    if share["grey"]:
        changes.append(lambda key, clip: _sometimes(key, share["grey"], clip, lambda _: _grey(clip)))
    if share["blur"]:
        changes.append(lambda key, clip: _sometimes(key, share["blur"], clip, lambda own: _blur(own, clip)))
    return changes


def _sometimes(key: PRNGKeyArray, probability: float, clip: Array, change) -> Array:
    whether, own = jax.random.split(key)
    return jnp.where(jax.random.bernoulli(whether, probability), change(own), clip)


def _grey(clip: Array) -> Array:
    return jnp.broadcast_to(pix.rgb_to_grayscale(clip), clip.shape)


def _random_contrast(key: PRNGKeyArray, clip: Array, share: float) -> Array:
    """Around the clip's mean, not each frame's: frames of a clip must not drift apart."""
    factor = jax.random.uniform(key, (), minval=1 - share, maxval=1 + share)
    mean = clip.mean()
    return (clip - mean) * factor + mean


def _blur(key: PRNGKeyArray, clip: Array) -> Array:
    sigma = jax.random.uniform(key, (), minval=0.1, maxval=2.0)
    border = ((0, 0), (4, 4), (4, 4), (0, 0))  # repeated, where dm-pix would take black
    return jnp.asarray(pix.gaussian_blur(jnp.pad(clip, border, mode="edge"), sigma, kernel_size=9, padding="VALID"))


def _erase(key: PRNGKeyArray, clip: Float[Array, "T H W 3"], probability: float) -> Float[Array, "T H W 3"]:
    """A box of normal noise through all frames, with `probability`; 2 to 33 % of the picture, sides 1 : 3.3 to 3.3 : 1."""
    _, height, width, _ = clip.shape
    whether, area_key, ratio_key, top_key, left_key, noise_key = jax.random.split(key, 6)
    area = jax.random.uniform(area_key, (), minval=0.02, maxval=1 / 3)
    ratio = jnp.exp(jax.random.uniform(ratio_key, (), minval=jnp.log(0.3), maxval=jnp.log(1 / 0.3)))
    box_height = jnp.minimum(jnp.sqrt(area * ratio), 1.0) * height
    box_width = jnp.minimum(jnp.sqrt(area / ratio), 1.0) * width
    inside = _box(height, width, top_key, left_key, box_height, box_width)
    noise = jax.random.normal(noise_key, clip.shape)
    return jnp.where(inside[None, :, :, None] & jax.random.bernoulli(whether, probability), noise, clip)


def _box(height: int, width: int, top_key: PRNGKeyArray, left_key: PRNGKeyArray, box_height: Array, box_width: Array) -> Array:
    """bool `[H, W]`: a box that lies within the picture, anywhere."""
    top = jax.random.uniform(top_key) * (height - box_height)
    left = jax.random.uniform(left_key) * (width - box_width)
    rows, columns = jnp.arange(height, dtype=jnp.float32) + 0.5, jnp.arange(width, dtype=jnp.float32) + 0.5
    in_rows, in_columns = (rows >= top) & (rows < top + box_height), (columns >= left) & (columns < left + box_width)
    return in_rows[:, None] & in_columns[None, :]
