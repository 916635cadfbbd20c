"""One TimeSformer block: attention in space and time, then the MLP (paper section 3)."""

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.typing import Dtype

from timesformer_jax._typing import Array, Bool, Float, ndarray
from timesformer_jax.modeling.initialization import INITIALIZATIONS
from timesformer_jax.modeling.layers import Attention, LayerNorm, Mlp, drop_path_scale
from timesformer_jax.modeling.schemes import SCHEMES, Grouping


class Block(nn.Module):
    """One block of any scheme: `(cls, patches) -> (cls, patches)`.

    Shapes: cls `[B, F, D]` with F = 1 CLS a clip, or F = T where each frame has its own (`space_only`); patches
    `[B, T, h, w, D]`. Units: the residual stream, before any normalisation.

    Source: official `models/vit.py`, class `Block`. Stochastic depth drops whole rows, and what is a row differs from step
    to step as it does there: a group of an attention step (in divided attention a place of a clip in time, a frame of a
    clip in space), a CLS's clip or frame in the MLP.
    """

    attention_type: str
    num_heads: int
    mlp_ratio: float
    initialization: str
    attention_order: str
    temporal_cls_key: bool
    dtype: Dtype

    @nn.compact
    def __call__(
        self,
        cls: Float[Array, "B F D"],
        patches: Float[Array, "B T h w D"],
        drop_path_rate: float | Float[Array, ""] = 0.0,
        drop_paths: bool = False,
    ) -> tuple[Float[Array, "B F D"], Float[Array, "B T h w D"]]:
        scheme = SCHEMES[self.attention_type]
        init = INITIALIZATIONS[self.initialization]
        dim, sizes = patches.shape[-1], patches.shape[1:4]

        def attention(name: str) -> Attention:
            return Attention(self.num_heads, kernel_init=init.linear, dtype=self.dtype, name=name)

        def drop(*residuals: Array, rows: int = 2) -> tuple[Array, ...]:
            if not drop_paths:
                return residuals
            scale = drop_path_scale(self.make_rng("dropout"), drop_path_rate, residuals[0].shape[:rows], self.dtype)
            return tuple(r * scale.reshape(scale.shape + (1,) * (r.ndim - rows)) for r in residuals)

        def extra_step(name: str, grouping: Grouping, patches: Array) -> Array:
            """Patches alone; the CLS takes no part, or is one more key. Returns the patches' residual."""
            with_cls = self.temporal_cls_key and name == "temporal"
            tokens, mask = grouping.split(patches), grouping.mask(sizes)  # [B, T, h, w, D] -> [B, G, L, D]
            if with_cls:
                tokens, mask = _lead_by_cls(cls, tokens), _seen_cls(mask)
            residual = attention(f"{name}_attn")(LayerNorm(name=f"{name}_norm1")(tokens), mask)[:, :, int(with_cls) :]
            # The drop comes before the last layer, as in the official code, so a dropped path still adds that layer's bias.
            (residual,) = drop(residual)
            output = nn.Dense(dim, kernel_init=init.extra_step_output, dtype=self.dtype, name=f"{name}_fc")
            return grouping.merge(output(residual), patches.shape)

        def own_attention(patches: Array) -> tuple[Array, Array]:
            """The image transformer's: a copy of the CLS leads each group. Returns the residuals of CLS and patches."""
            mask = scheme.groups.mask(sizes)
            tokens = LayerNorm(name="norm1")(_lead_by_cls(cls, scheme.groups.split(patches)))  # -> [B, G, 1 + L, D]
            (residual,) = drop(attention("attn")(tokens, _seen_cls(mask)))
            cls_residual = residual[:, :, 0]  # [B, G, D]
            if not scheme.cls_per_frame:
                filled = slice(None) if mask is None else np.flatnonzero(mask.any(axis=1))
                cls_residual = cls_residual[:, filled].mean(axis=1, keepdims=True)  # [B, G, D] -> [B, 1, D]
            return cls_residual, scheme.groups.merge(residual[:, :, 1:], patches.shape)

        start = patches
        if self.attention_order != "space_time":
            for name, grouping in scheme.extra_steps:
                patches = patches + extra_step(name, grouping, start if self.attention_order == "parallel" else patches)
        cls_residual, residual = own_attention(start if self.attention_order == "parallel" else patches)
        patches = patches + residual
        if self.attention_order == "space_time":
            for name, grouping in scheme.extra_steps:
                patches = patches + extra_step(name, grouping, patches)
        cls = cls + cls_residual

        # The MLP, one drop for a clip's (or a frame's) CLS and patches together.
        norm2 = LayerNorm(name="norm2")
        mlp = Mlp(int(dim * self.mlp_ratio), kernel_init=init.linear, dtype=self.dtype, name="mlp")
        cls_residual, residual = mlp(norm2(cls)), mlp(norm2(patches))
        cls_residual, residual = drop(cls_residual, residual, rows=2 if scheme.cls_per_frame else 1)
        return cls + cls_residual, patches + residual


def _lead_by_cls(cls: Float[Array, "B F D"], groups: Float[Array, "B G L D"]) -> Float[Array, "B G 1+L D"]:
    """Each group with a copy of the clip's (or its frame's) CLS in front."""
    batch, num_groups, _, dim = groups.shape
    copies = jnp.broadcast_to(cls, (batch, num_groups, dim))[:, :, None]  # [B, F, D] -> [B, G, 1, D]
    return jnp.concatenate([copies, groups], axis=2)


def _seen_cls(mask: Bool[ndarray, "G L"] | None) -> Bool[ndarray, "G 1+L"] | None:
    """The mask of groups that a CLS leads: everyone sees it."""
    return None if mask is None else np.pad(mask, ((0, 0), (1, 0)), constant_values=True)
