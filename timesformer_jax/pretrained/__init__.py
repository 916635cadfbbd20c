"""Reading published weights."""

from timesformer_jax.pretrained.official import params_from_official

__all__ = ["params_from_official"]
