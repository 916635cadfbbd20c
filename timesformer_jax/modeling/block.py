"""One TimeSformer block: attention in space and time, then the MLP (paper section 3)."""

import jax.numpy as jnp
from flax import linen as nn
from flax.typing import Dtype

from timesformer_jax._typing import Array, Float
from timesformer_jax.modeling.initialization import INITIALIZATIONS
from timesformer_jax.modeling.layers import Attention, LayerNorm, Mlp, drop_path_scale
from timesformer_jax.modeling.schemes import SCHEMES


class Block(nn.Module):
    """One block of any scheme: `(cls, patches) -> (cls, patches)`.

    Shapes: cls `[B, F, D]` with F = 1 CLS a clip, or F = T where each frame has its own (`space_only`); patches
    `[B, T, N, D]`, N row-major. Units: the residual stream, before any normalisation.

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
        patches: Float[Array, "B T N D"],
        drop_path_rate: float | Float[Array, ""] = 0.0,
        drop_paths: bool = False,
    ) -> tuple[Float[Array, "B F D"], Float[Array, "B T N D"]]:
        scheme = SCHEMES[self.attention_type]
        init = INITIALIZATIONS[self.initialization]

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
            groups = grouping.split(LayerNorm(name=f"{name}_norm1")(patches))  # [B, T, N, D] -> [B, G, L, D]
            (residual,) = drop(attention(f"{name}_attn")(groups))
            residual = nn.Dense(patches.shape[-1], kernel_init=init.extra_step_output, dtype=self.dtype, name=f"{name}_fc")(
                residual
            )
            patches = patches + grouping.merge(residual, patches.shape)

        # The image transformer's own attention: a copy of the CLS heads each group and is a query and a key there.
        groups = scheme.groups.split(patches)  # [B, T, N, D] -> [B, G, L, D]
        batch, num_groups, _, dim = groups.shape
        copies = jnp.broadcast_to(cls, (batch, num_groups, dim))[:, :, None]  # [B, F, D] -> [B, G, 1, D]
        tokens = LayerNorm(name="norm1")(jnp.concatenate([copies, groups], axis=2))
        (residual,) = drop(attention("attn")(tokens))
        cls_residual = residual[:, :, 0]  # [B, G, D]
        if not scheme.cls_per_frame:
            cls_residual = cls_residual.mean(axis=1, keepdims=True)  # [B, G, D] -> [B, 1, D]
        cls = cls + cls_residual
        patches = patches + scheme.groups.merge(residual[:, :, 1:], patches.shape)

        # The MLP, one drop for a clip's (or a frame's) CLS and patches together.
        norm2 = LayerNorm(name="norm2")
        mlp = Mlp(int(dim * self.mlp_ratio), kernel_init=init.linear, dtype=self.dtype, name="mlp")
        cls_residual, residual = mlp(norm2(cls)), mlp(norm2(patches))
        cls_rows = 1 + scheme.cls_per_frame
        cls_residual, residual = drop(cls_residual, residual, rows=cls_rows)
        return cls + cls_residual, patches + residual
