"""Boxes in a picture, as masks."""

import jax.numpy as jnp

from timesformer_jax._typing import Array, Bool


def inside_box(shape: tuple[int, int], top: Array, left: Array, height: Array, width: Array) -> Bool[Array, "H W"]:
    """Which pixels of a picture of `shape` have their centre in the box; it may reach over the border."""

    def inside(length: int, first: Array, extent: Array) -> Array:
        places = jnp.arange(length, dtype=jnp.float32) + 0.5
        return (places >= first) & (places < first + extent)

    return inside(shape[0], top, height)[:, None] & inside(shape[1], left, width)[None, :]
