"""One TimeSformer block: attention in space and time, then the MLP (paper section 3)."""

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.typing import Dtype

from timesformer_jax._typing import Array, Bool, Float, ndarray
from timesformer_jax.modeling.initialization import INITIALIZATIONS
from timesformer_jax.modeling.layers import Attention, LayerNorm, Mlp, drop_path_scale
from timesformer_jax.modeling.schemes import SCHEMES


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
        batch, *sizes, dim = patches.shape

        def attention(name: str) -> Attention:
            return Attention(self.num_heads, kernel_init=init.linear, dtype=self.dtype, name=name)

        def drop(*residuals: Array, rows: int = 2) -> tuple[Array, ...]:
            if not drop_paths:
                return residuals
            scale = drop_path_scale(self.make_rng("dropout"), drop_path_rate, residuals[0].shape[:rows], self.dtype)
            return tuple(r * scale.reshape(scale.shape + (1,) * (r.ndim - rows)) for r in residuals)

        # Extra steps: the patches alone, the CLS takes no part. The drop comes before the last layer, as in the official
        # code, so a dropped path still adds that layer's bias.
        for name, grouping in scheme.extra_steps:
            groups = grouping.split(LayerNorm(name=f"{name}_norm1")(patches))  # [B, T, h, w, D] -> [B, G, L, D]
            (residual,) = drop(attention(f"{name}_attn")(groups, grouping.mask(sizes)))
            output = nn.Dense(dim, kernel_init=init.extra_step_output, dtype=self.dtype, name=f"{name}_fc")
            patches = patches + grouping.merge(output(residual), patches.shape)

        # The image transformer's own attention: a copy of the CLS heads each group and is a query and a key there.
        groups, mask = scheme.groups.split(patches), scheme.groups.mask(sizes)  # [B, T, h, w, D] -> [B, G, L, D]
        num_groups = groups.shape[1]
        copies = jnp.broadcast_to(cls, (batch, num_groups, dim))[:, :, None]  # [B, F, D] -> [B, G, 1, D]
        tokens = LayerNorm(name="norm1")(jnp.concatenate([copies, groups], axis=2))
        (residual,) = drop(attention("attn")(tokens, _with_cls(mask)))
        cls_residual = residual[:, :, 0]  # [B, G, D]
        if not scheme.cls_per_frame:
            filled = slice(None) if mask is None else np.flatnonzero(mask.any(axis=1))
            cls_residual = cls_residual[:, filled].mean(axis=1, keepdims=True)  # [B, G, D] -> [B, 1, D]
        cls = cls + cls_residual
        patches = patches + scheme.groups.merge(residual[:, :, 1:], patches.shape)

        # The MLP, one drop for a clip's (or a frame's) CLS and patches together.
        norm2 = LayerNorm(name="norm2")
        mlp = Mlp(int(dim * self.mlp_ratio), kernel_init=init.linear, dtype=self.dtype, name="mlp")
        cls_residual, residual = mlp(norm2(cls)), mlp(norm2(patches))
        cls_residual, residual = drop(cls_residual, residual, rows=2 if scheme.cls_per_frame else 1)
        return cls + cls_residual, patches + residual


def _with_cls(mask: Bool[ndarray, "G L"] | None) -> Bool[ndarray, "G 1+L"] | None:
    """The mask of groups that a CLS heads: everyone sees it."""
    return None if mask is None else np.pad(mask, ((0, 0), (1, 0)), constant_values=True)
