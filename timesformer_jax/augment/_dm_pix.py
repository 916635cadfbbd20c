"""The only import of dm-pix, so that an import error names the extra to install."""

from timesformer_jax.extras import MissingPackageError

try:
    import dm_pix as pix
except ImportError as error:
    raise MissingPackageError("dm_pix", "Augmentation") from error

__all__ = ["pix"]
