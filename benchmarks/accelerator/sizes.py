"""Sizes of the model and the batches that are measured."""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple


class LongClip(NamedTuple):
    """A clip that needs a lot of memory: frames, pixels per side, clips per batch."""

    num_frames: int
    image_size: int
    batch_size: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Size:
    """One row of `SIZES`."""

    about: str
    model: Mapping[str, Any]
    """Fields of `TimeSformer` that no measurement varies."""
    batch_size: int
    """Clips per batch for measurements with a single batch size."""
    train_batches: tuple[int, ...]
    """Clips per training batch, most informative first; the larger ones are skipped once one does not fit."""
    forward_batches: tuple[int, ...]
    long_clips: tuple[LongClip, ...]
    joint_clip: LongClip
    systems: Mapping[str, Mapping[str, Any]]
    """Maps names of `timesformer_jax.cost.SYSTEMS` to fields that differ."""
    matrix: int
    """Rows and columns of the reference matrix product."""
    copy_mib: int
    """Size of the array that is read and written to measure memory bandwidth, in MiB."""
    timing_seconds: float
    """Wall time of each timing in seconds, without warm-up."""
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Environment variables for all measurements, unless they are already set."""


SIZES: dict[str, Size] = {
    "base": Size(
        about="the paper's base model: 8 frames of 224 x 224 pixels, patches of 16, width 768, 12 blocks",
        model={"num_classes": 400, "image_size": 224, "num_frames": 8, "embed_dim": 768, "depth": 12, "num_heads": 12},
        batch_size=32,
        train_batches=(32, 8, 16, 64, 128),
        forward_batches=(32, 8, 128),
        long_clips=(LongClip(16, 448, 2), LongClip(96, 224, 1)),
        joint_clip=LongClip(96, 224, 1),
        systems={"timesformer-base": {}, "i3d-8x8-r50": {}, "slowfast-8x8-r50": {}},
        matrix=8192,
        copy_mib=2048,
        timing_seconds=0.5,
    ),
    # Runs every measurement in a minute on two CPU cores, to test the script; its speeds mean nothing.
    "tiny": Size(
        about="a model of 2 blocks and 32 channels on 4 frames of 32 x 32 pixels, to try the script",
        model={"num_classes": 4, "image_size": 32, "num_frames": 4, "embed_dim": 32, "depth": 2, "num_heads": 4},
        batch_size=2,
        train_batches=(2, 1),
        forward_batches=(2,),
        long_clips=(LongClip(4, 64, 1),),
        joint_clip=LongClip(8, 32, 1),
        systems={"i3d-8x8-r50": {"width": 8, "depths": (1, 1, 1, 1), "num_frames": 4, "image_size": 32}},
        matrix=256,
        copy_mib=4,
        timing_seconds=0.02,
        environment={"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"},  # compiling takes most of the time
    ),
}
"""Maps each name to its size."""
