"""PyTorch's `interpolate` along one axis, as matrices: (old length, new length) -> weights `[new, old]`.

Used for embeddings and frames. Imports nothing else from the library.
"""

from collections.abc import Callable

import numpy as np


def nearest_indices(source: int, target: int) -> np.ndarray:
    """Return the source index of each target position under PyTorch's `interpolate(mode="nearest")`.

    This is floor(i * source / target) in float32, as PyTorch computes it. `jax.image.resize` rounds half-pixel centres instead
    and selects other indices: 8 -> 4 must give 0, 2, 4, 6.
    """
    scale = np.float32(source) / np.float32(target)
    indices = np.floor(np.arange(target, dtype=np.float32) * scale).astype(np.int32)
    return np.minimum(indices, source - 1)


def nearest(source: int, target: int) -> np.ndarray:
    """Return the weights of PyTorch's `mode="nearest"`."""
    return np.eye(source)[nearest_indices(source, target)]


def linear(source: int, target: int, span: tuple[int, int] | None = None) -> np.ndarray:
    """Return the weights of PyTorch's `mode="linear"` and, along each axis, `"bilinear"`.

    `span` is a half-open range of rows to compute; all by default.
    """
    return _interpolate(source, target, lambda x: np.maximum(1 - x, 0), reach=1, span=span)


def cubic(source: int, target: int, a: float = -0.75) -> np.ndarray:
    """Return the weights of PyTorch's `mode="bicubic"` along each axis: Keys' kernel with PyTorch's `a`."""

    def kernel(x: np.ndarray) -> np.ndarray:
        near = (a + 2) * x**3 - (a + 3) * x**2 + 1
        far = a * (x**3 - 5 * x**2 + 8 * x - 4)
        return np.where(x <= 1, near, np.where(x < 2, far, 0))

    return _interpolate(source, target, kernel, reach=2)


def _interpolate(
    source: int, target: int, kernel: Callable[[np.ndarray], np.ndarray], *, reach: int, span: tuple[int, int] | None = None
) -> np.ndarray:
    """Return the weights of PyTorch's `interpolate(align_corners=False)`: half-pixel centres, no antialiasing, edge padding.

    `jax.image.resize` antialiases, and at the border drops entries and rescales the others instead.

    Args:
        source: Old length.
        target: New length.
        kernel: Maps distances between positions to weights.
        reach: Distance from which on the kernel is zero.
        span: Half-open range of rows to compute; all by default.

    Returns:
        Weights `[new, old]`.
    """
    scale = np.float32(source) / np.float32(target)  # in float32, as PyTorch computes it
    places = np.arange(*(span or (0, target)))
    centres = (places.astype(np.float32) + np.float32(0.5)) * scale - np.float32(0.5)
    weights = np.zeros((len(places), source))
    for offset in range(1 - reach, reach + 1):
        neighbours = np.floor(centres).astype(int) + offset
        # Accumulated, because several neighbours beyond the border map to the same entry.
        np.add.at(weights, (np.arange(len(places)), neighbours.clip(0, source - 1)), kernel(np.abs(centres - neighbours)))
    return weights
