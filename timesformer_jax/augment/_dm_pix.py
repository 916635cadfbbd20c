"""The only place that imports dm-pix, so that an error about it names the extra."""

from timesformer_jax.extras import MissingPackageError

try:
    import dm_pix as pix
except ImportError as error:
    raise MissingPackageError("dm_pix", "Augmentation") from error

__all__ = ["pix"]
