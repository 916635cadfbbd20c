"""Crop, augment and normalise batches of uint8 windows on the device.

Random numbers are drawn once per clip, so all frames of a clip change in the same way.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding

from timesformer_jax._typing import Array, Float, PRNGKeyArray, ndarray
from timesformer_jax.augment._dm_pix import pix
from timesformer_jax.augment.boxes import inside_box
from timesformer_jax.augment.rand_augment import LARGEST_MAGNITUDE, rand_augment_batch
from timesformer_jax.augment.sides import sides_matter
from timesformer_jax.checks import check_choice
from timesformer_jax.errors import InputError
from timesformer_jax.video import CHANNEL_ORDERS, crop_and_scale, standardize
from timesformer_jax.video.pixels import OFFICIAL_MEAN, OFFICIAL_STD


@dataclasses.dataclass(frozen=True, kw_only=True)
class PixelOptions:
    """Augmentation of training clips on the device, and normalisation of all clips.

    Every change is the same for all frames of a clip. 0 disables a change. RandAugment comes first, then the flip and the
    colour changes, then normalisation and erasing.

    Attributes:
        flip: Mirror left to right with probability 1/2: "on", "off", or "auto", which is "off" if any label names a side.
        mean: The model's mean per channel, in `channel_order`, for values in [0, 1].
        std: The model's standard deviation per channel, in `channel_order`.
        channel_order: Channel order of the model's input, "rgb" or "bgr" (the official Something-Something models).
        brightness: Largest amount added or subtracted, in [0, 1].
        contrast: Largest relative change of contrast, in [0, 1].
        saturation: Largest relative change of saturation, in [0, 1].
        hue: Largest shift around the colour wheel, in [0, 0.5].
        grey: Probability of converting a clip to greyscale.
        blur: Probability of a Gaussian blur with a standard deviation of 0.1 to 2 pixels.
        erase: Probability of replacing a box, 2 to 33 % of the frame, with noise.
        rand_augment: RandAugment's (number of operations, magnitude from 0 to 10). Usual: (4, 7.0) or (2, 9.0).

    Raises:
        InputError: If a value is out of range.
    """

    flip: str = "auto"
    mean: tuple[float, ...] = OFFICIAL_MEAN
    std: tuple[float, ...] = OFFICIAL_STD
    channel_order: str = "rgb"
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    grey: float = 0.0
    blur: float = 0.0
    erase: float = 0.0
    rand_augment: Any = (0, 0.0)

    def __post_init__(self) -> None:
        if self.flip not in ("auto", "on", "off"):
            raise InputError(f"flip must be auto, on or off, got {self.flip!r}.")
        check_choice("channel_order", self.channel_order, CHANNEL_ORDERS)
        for name, largest in (("hue", 0.5), *((name, 1.0) for name in _SHARES)):
            if not 0 <= getattr(self, name) <= largest:
                raise InputError(f"{name} must be from 0 to {largest:g}, got {getattr(self, name)}.")
        if not _is_rand_augment(self.rand_augment):
            raise InputError(
                f"rand_augment must be (whole number of operations, magnitude from 0 to 10), got {self.rand_augment}."
            )
        if not len(self.mean) == len(self.std) == 3 or not all(map(_is_finite, (*self.mean, *self.std))):
            raise InputError(f"mean and std must be three numbers each, got {self.mean} and {self.std}.")
        if min(self.std) <= 0:
            raise InputError(f"std must be above 0, since pixels are divided by it; got {self.std}.")

    def for_labels(self, label_names: Sequence[str]) -> "PixelOptions":
        """Resolve `flip="auto"` for these labels."""
        decided = "off" if sides_matter(label_names) else "on"
        return dataclasses.replace(self, flip=decided) if self.flip == "auto" else self


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _is_rand_augment(pair: Any) -> bool:
    if not isinstance(pair, tuple | list) or len(pair) != 2 or type(pair[0]) is not int:
        return False
    return pair[0] >= 0 and isinstance(pair[1], int | float) and 0 <= pair[1] <= LARGEST_MAGNITUDE


_SHARES = ("brightness", "contrast", "saturation", "grey", "blur", "erase")


def prepare_eval(batch: Mapping[str, Array | ndarray], *, options: PixelOptions) -> Float[Array, "B T R S 3"]:
    """Crop and normalise a batch for evaluation; axes between batch and time, such as views, are merged into the batch axis."""
    return _normalize(_crops(batch), options)


def _crops(batch: Mapping[str, Array | ndarray]) -> Float[Array, "B T R S 3"]:
    video, rows, columns = (batch[name].reshape(-1, *batch[name].shape[-axes:]) for name, axes in WINDOW_AXES.items())
    return crop_and_scale(video, rows, columns)


def _normalize(clips: Float[Array, "B T R S 3"], options: PixelOptions) -> Float[Array, "B T R S 3"]:
    """Convert RGB clips in [0, 1] to the model's channel order, mean and standard deviation."""
    ordered = clips[..., ::-1] if options.channel_order == "bgr" else clips
    return standardize(ordered, options.mean, options.std)


WINDOW_AXES = {"video": 4, "rows": 1, "columns": 1}
"""Maps the arrays of a batch of windows to their number of axes for a single clip."""


def prepare_training(
    key: PRNGKeyArray, batch: Mapping[str, Array | ndarray], *, options: PixelOptions, split: NamedSharding | None = None
) -> Float[Array, "B T R S 3"]:
    """Crop each clip from its window, augment it and normalise it.

    Axes between batch and time, such as several clips of a video, are merged into the batch axis.

    Args:
        key: Random key.
        batch: The arrays of `WINDOW_AXES`.
        options: Augmentation and normalisation; `flip` must be resolved (see `PixelOptions.for_labels`).
        split: Sharding of the batch over devices, for RandAugment, which works clip by clip.

    Raises:
        InputError: If `flip` is "auto".
    """
    if options.flip == "auto":
        raise InputError('flip="auto" depends on the labels: pass options.for_labels(label_names), or flip="on" or "off".')
    change_key, erase_key = jax.random.split(key)
    clips = _crops(batch)
    num_ops, magnitude = options.rand_augment
    if num_ops:
        augment_key, change_key = jax.random.split(change_key)
        clips = rand_augment_batch(augment_key, clips, num_ops=num_ops, magnitude=magnitude, split=split)
    wanted = [(change, amount) for name, change in CHANGES.items() if (amount := getattr(options, name)) not in (0, "off")]

    def change_all(key: PRNGKeyArray, clip: Array) -> Array:
        for change, amount in wanted:
            key, own = jax.random.split(key)
            with jax.numpy_dtype_promotion("standard"):  # dm-pix mixes bools and floats
                clip = jnp.clip(change(own, clip, amount), 0.0, 1.0)
        return clip

    if wanted:
        clips = jax.vmap(change_all)(jax.random.split(change_key, len(clips)), clips)
    clips = _normalize(clips, options)
    if options.erase:
        erase = functools.partial(_erase, probability=options.erase)
        clips = jax.vmap(erase)(jax.random.split(erase_key, len(clips)), clips)
    return clips


def _contrast(key: PRNGKeyArray, clip: Array, share: float) -> Array:
    """Scale around the mean of the clip rather than of each frame, so that frames stay consistent."""
    factor = jax.random.uniform(key, (), minval=1 - share, maxval=1 + share)
    mean = clip.mean()
    return (clip - mean) * factor + mean


def _grey(key: PRNGKeyArray, clip: Array, probability: float) -> Array:
    grey = jnp.broadcast_to(pix.rgb_to_grayscale(clip), clip.shape)
    return jnp.where(jax.random.bernoulli(key, probability), grey, clip)


def _blur(key: PRNGKeyArray, clip: Array, probability: float) -> Array:
    whether, sigma_key = jax.random.split(key)
    sigma = jax.random.uniform(sigma_key, (), minval=0.1, maxval=2.0)
    border = ((0, 0), (4, 4), (4, 4), (0, 0))  # repeat the edge; dm-pix would pad with black
    blurred = pix.gaussian_blur(jnp.pad(clip, border, mode="edge"), sigma, kernel_size=9, padding="VALID")
    return jnp.where(jax.random.bernoulli(whether, probability), jnp.asarray(blurred), clip)


CHANGES: dict[str, Callable[..., Any]] = {
    "flip": lambda key, clip, on: pix.random_flip_left_right(key, clip),
    "brightness": pix.random_brightness,
    "contrast": _contrast,
    "saturation": lambda key, clip, share: pix.random_saturation(key, clip, 1 - share, 1 + share),
    "hue": pix.random_hue,
    "grey": _grey,
    "blur": _blur,
}
"""Maps a field of `PixelOptions` to a function (key, clip `[T, H, W, 3]` in [0, 1], value) -> clip, in order of application."""


def _erase(key: PRNGKeyArray, clip: Float[Array, "T H W 3"], probability: float) -> Float[Array, "T H W 3"]:
    """Replace a box with normal noise in all frames, with the given probability.

    The box covers 2 to 33 % of the frame, with an aspect ratio from 1 : 3.3 to 3.3 : 1.
    """
    _, height, width, _ = clip.shape
    whether, area_key, ratio_key, top_key, left_key, noise_key = jax.random.split(key, 6)
    area = jax.random.uniform(area_key, (), minval=0.02, maxval=1 / 3)
    ratio = jnp.exp(jax.random.uniform(ratio_key, (), minval=jnp.log(0.3), maxval=jnp.log(1 / 0.3)))
    box_height = jnp.minimum(jnp.sqrt(area * ratio), 1.0) * height
    box_width = jnp.minimum(jnp.sqrt(area / ratio), 1.0) * width
    top = jax.random.uniform(top_key) * (height - box_height)
    left = jax.random.uniform(left_key) * (width - box_width)
    inside = inside_box((height, width), top, left, box_height, box_width)
    noise = jax.random.normal(noise_key, clip.shape)
    return jnp.where(inside[None, :, :, None] & jax.random.bernoulli(whether, probability), noise, clip)
