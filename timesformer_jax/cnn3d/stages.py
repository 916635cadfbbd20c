"""Stages of the residual networks: widths and spatial strides of all pathways, and the temporal kernels of each."""

from typing import NamedTuple


class Stage(NamedTuple):
    """Stage of bottleneck blocks; the same for every pathway."""

    width: int
    """Inner width of the blocks, as a multiple of the stem's; the output is `EXPANSION` times as wide."""
    stride: int
    """Spatial stride of the first block."""


STAGES: dict[str, Stage] = {"res2": Stage(1, 1), "res3": Stage(2, 2), "res4": Stage(4, 2), "res5": Stage(8, 2)}
"""Maps the name of a stage to its width and stride."""

EXPANSION = 4
"""Output width of a bottleneck block, as a multiple of its inner width."""


class Pathway(NamedTuple):
    """Temporal kernel sizes of a pathway, in frames."""

    stem: int
    """Kernel of the stem's convolution."""
    stages: tuple[tuple[int, ...], ...]
    """Kernels of the first convolution of each block, per stage; repeated if the stage has more blocks."""


INFLATED = Pathway(5, ((3,), (3, 1), (3, 1), (1, 3)))
"""I3D's only pathway."""
SLOW = Pathway(1, ((1,), (1,), (3,), (3,)))
"""SlowFast's pathway of few frames and many channels."""
FAST = Pathway(5, ((3,), (3,), (3,), (3,)))
"""SlowFast's pathway of many frames and few channels."""
