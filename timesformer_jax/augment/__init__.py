"""Augment clips on the device with JAX and dm-pix, behind any input pipeline."""

from timesformer_jax.augment.mixing import MixingOptions, mix_clips
from timesformer_jax.augment.prepare import WINDOW_AXES, PixelOptions, prepare_eval, prepare_training
from timesformer_jax.augment.sides import sides_matter
from timesformer_jax.renamed import renamed

__all__ = [
    "WINDOW_AXES",
    "MixingOptions",
    "PixelOptions",
    "mix_clips",
    "prepare_eval",
    "prepare_training",
    "sides_matter",
]

__getattr__ = renamed(__name__, {"prepare_test": "prepare_eval"})
