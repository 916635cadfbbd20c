"""Two clips in one: mixup, and VideoMix (CutMix for videos), on the device."""

import dataclasses
import math

import jax
import jax.numpy as jnp

from timesformer_jax._typing import Array, Float, PRNGKeyArray, Shaped
from timesformer_jax.augment.boxes import inside_box
from timesformer_jax.errors import InputError


@dataclasses.dataclass(frozen=True, kw_only=True)
class MixingOptions:
    """How clips of a batch are mixed; 0 leaves a way out, and where both are given each clip gets one of them by chance.

    `mixup`, `cutmix`: the alpha of the Beta(alpha, alpha) that the share of the first clip is drawn from (usual: 0.8 and 1.0).

    Sources: Zhang et al. 2018 (mixup), Yun et al. 2019 and 2020 (CutMix, VideoMix).
    """

    mixup: float = 0.0
    cutmix: float = 0.0

    def __post_init__(self) -> None:
        for name in ("mixup", "cutmix"):
            if not 0 <= getattr(self, name) < math.inf:
                raise InputError(f"mixing.{name} must be at least 0 and finite, got {getattr(self, name)}.")

    @property
    def mixes(self) -> bool:
        return self.mixup > 0 or self.cutmix > 0


def mix_clips(
    key: PRNGKeyArray, video: Float[Array, "B T H W C"], labels: Shaped[Array, "B *classes"], *, options: MixingOptions
) -> tuple[Float[Array, "B T H W C"], Shaped[Array, "B *classes"], Float[Array, "B"]]:
    """The mixed clips, the other label of each (its number, or one entry per class), and the share of its own.

    Every clip is mixed with its mirror image in the batch (the first with the last), by a share of its own. VideoMix puts a
    box of the other clip into all frames at the same place in height and width, and the share is what the box really leaves.
    (Two well-known implementations cut time and height instead, or count another area.)
    """
    batch, _, height, width, _ = video.shape
    way_key, mixup_key, cutmix_key, box_key = jax.random.split(key, 4)
    other_video, other_labels = video[::-1], labels[::-1]
    cuts = (
        jax.random.bernoulli(way_key, 0.5, (batch,))
        if options.mixup and options.cutmix
        else jnp.full(batch, options.cutmix > 0)
    )
    share = jnp.ones(batch)
    mixed = video
    if options.mixup:
        share = jax.random.beta(mixup_key, options.mixup, options.mixup, (batch,))
        own = share[:, None, None, None, None].astype(video.dtype)
        mixed = own * video + (1 - own) * other_video
    if options.cutmix:
        wanted = jax.random.beta(cutmix_key, options.cutmix, options.cutmix, (batch,))
        inside = jax.vmap(_box, in_axes=(0, 0, None, None))(
            jax.random.split(box_key, batch), wanted, height, width
        )  # [B, H, W]
        left = 1 - inside.astype(jnp.float32).mean(axis=(1, 2))
        cut = jnp.where(inside[:, None, :, :, None], other_video, video)
        mixed = jnp.where(cuts[:, None, None, None, None], cut, mixed)
        share = jnp.where(cuts, left, share)
    return mixed, other_labels, share


def _box(key: PRNGKeyArray, share: Float[Array, ""], height: int, width: int) -> Array:
    """bool `[H, W]`: a box of the picture's proportions that covers 1 - share of it, but for what hangs over the border."""
    row_key, column_key = jax.random.split(key)
    box_height, box_width = jnp.sqrt(1 - share) * height, jnp.sqrt(1 - share) * width
    top = jax.random.uniform(row_key) * height - box_height / 2
    left = jax.random.uniform(column_key) * width - box_width / 2
    return inside_box((height, width), top, left, box_height, box_width)
