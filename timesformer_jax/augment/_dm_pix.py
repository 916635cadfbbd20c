"""The only import of dm-pix, so that an import error names the extra to install."""

from timesformer_jax.extras import needs

with needs("dm_pix", "Augmentation"):
    import dm_pix as pix

__all__ = ["pix"]
