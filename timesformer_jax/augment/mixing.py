"""Mix pairs of clips on the device: mixup, and VideoMix (CutMix for videos)."""

import dataclasses
import math

import jax
import jax.numpy as jnp

from timesformer_jax._typing import Array, Float, PRNGKeyArray, Shaped
from timesformer_jax.augment.boxes import inside_box
from timesformer_jax.errors import InputError


@dataclasses.dataclass(frozen=True, kw_only=True)
class MixingOptions:
    """Mixup and CutMix settings; 0 disables a method.

    If both are enabled, each clip uses one of them, chosen at random with equal probability.

    Attributes:
        mixup: Alpha of the Beta(alpha, alpha) distribution from which mixup draws the weight of the clip itself. Usual: 0.8.
        cutmix: The same for CutMix. Usual: 1.0.

    Raises:
        InputError: If a value is negative or not finite.

    Sources: Zhang et al. 2018 (mixup), Yun et al. 2019 and 2020 (CutMix, VideoMix).
    """

    mixup: float = 0.0
    cutmix: float = 0.0

    def __post_init__(self) -> None:
        for name in ("mixup", "cutmix"):
            if not 0 <= getattr(self, name) < math.inf:
                raise InputError(f"{name} must be at least 0 and finite, got {getattr(self, name)}.")

    @property
    def mixes(self) -> bool:
        """True if either method is enabled."""
        return self.mixup > 0 or self.cutmix > 0


def mix_clips(
    key: PRNGKeyArray, video: Float[Array, "B T H W C"], labels: Shaped[Array, "B *classes"], *, options: MixingOptions
) -> tuple[Float[Array, "B T H W C"], Shaped[Array, "B *classes"], Float[Array, "B"]]:
    """Mix each clip with another clip of the batch.

    Clip i is paired with clip B - 1 - i, and each clip draws its own weight. VideoMix pastes the same box of the other clip
    into every frame, and the clip's weight is the fraction of the frame that the box leaves uncovered. (Two well-known
    implementations cut time and height instead, or count a different area.)

    Args:
        key: Random key.
        video: Prepared clips.
        labels: Class indices, or one entry per class.
        options: Methods to use.

    Returns:
        The mixed clips, the labels of the clips mixed in, and the weight of each clip's own label.
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
    """Mask `[H, W]` of a box with the frame's aspect ratio.

    It covers 1 - `share` of the frame, minus any area that extends beyond the border.
    """
    row_key, column_key = jax.random.split(key)
    box_height, box_width = jnp.sqrt(1 - share) * height, jnp.sqrt(1 - share) * width
    top = jax.random.uniform(row_key) * height - box_height / 2
    left = jax.random.uniform(column_key) * width - box_width / 2
    return inside_box((height, width), top, left, box_height, box_width)
