"""What the device does to a batch of uint8 clips before the model: random flips, normalisation."""

import dm_pix as pix
import jax
import jax.numpy as jnp

from timesformer_jax._typing import Array, Float, PRNGKeyArray, UInt8
from timesformer_jax.video import normalize


def prepare_training(
    key: PRNGKeyArray,
    video: UInt8[Array, "B T H W 3"],
    *,
    flip: bool,
    mean: tuple[float, ...],
    std: tuple[float, ...],
) -> Float[Array, "B T H W 3"]:
    """Mirrors each clip left to right with probability 1/2 where `flip` is set (one draw a clip), then normalises."""
    if flip:
        keys = jax.random.split(key, video.shape[0])
        video = jnp.asarray(jax.vmap(pix.random_flip_left_right)(keys, video))
    return normalize(video, mean, std)
