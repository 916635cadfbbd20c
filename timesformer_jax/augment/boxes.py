"""Boxes in a frame, as masks."""

import jax.numpy as jnp

from timesformer_jax._typing import Array, Bool


def inside_box(shape: tuple[int, int], top: Array, left: Array, height: Array, width: Array) -> Bool[Array, "H W"]:
    """Mask of the pixels whose centre lies in the box.

    Args:
        shape: (height, width) of the frame in pixels.
        top: Upper edge of the box in pixels. The box may extend beyond the frame.
        left: Left edge of the box.
        height: Height of the box.
        width: Width of the box.
    """

    def inside(length: int, first: Array, extent: Array) -> Array:
        places = jnp.arange(length, dtype=jnp.float32) + 0.5
        return (places >= first) & (places < first + extent)

    return inside(shape[0], top, height)[:, None] & inside(shape[1], left, width)[None, :]
