"""Even spacing of a few positions among many."""

import numpy as np

from timesformer_jax._typing import Int, ndarray


def evenly(count: int, most: int) -> Int[ndarray, "chosen"]:
    """Choose at most `most` of `count` positions, evenly spaced, the first and the last among them."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int))
