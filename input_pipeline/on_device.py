"""Former location of `timesformer_jax.augment`, kept for one release."""

from timesformer_jax.augment.prepare import CHANGES, WINDOW_AXES, PixelOptions, prepare_eval, prepare_training
from timesformer_jax.augment.sides import sides_matter

__all__ = ["CHANGES", "WINDOW_AXES", "PixelOptions", "prepare_eval", "prepare_training", "sides_matter"]
