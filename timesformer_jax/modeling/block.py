"""One TimeSformer block: attention in space and time, then the MLP (paper section 3)."""

from collections.abc import Mapping
from typing import NamedTuple

import jax.numpy as jnp
from flax import linen as nn
from flax.typing import Dtype

from timesformer_jax._typing import Array, Bool, Float
from timesformer_jax.errors import InputError
from timesformer_jax.modeling.attention import Attention
from timesformer_jax.modeling.initialization import INITIALIZATIONS
from timesformer_jax.modeling.layers import LayerNorm, Mlp, drop_path_scale, masked_mean, mlp_width
from timesformer_jax.modeling.memory_order import row_major
from timesformer_jax.modeling.schemes import SCHEMES, Grouping


class BlockOutput(NamedTuple):
    """What a block makes of its tokens."""

    cls: Float[Array, "B F D"]
    patches: Float[Array, "B T h w D"] | None
    """None where only the CLS was asked for."""
    frame_cls: Float[Array, "B T D"] | None
    """The CLS as each frame sees it, before the frames' mean; None unless asked for and where groups mix frames."""
    attention: dict[str, Float[Array, "B G *heads Q L"]]
    """Attention step -> weights; empty unless asked for."""


class Block(nn.Module):
    """One block of any scheme: `(cls, patches) -> (cls, patches)` and more, on request.

    Shapes: cls `[B, F, D]` with F = 1 CLS a clip, or F = T where each frame has its own (`space_only`); patches
    `[B, T, h, w, D]`; `frame_mask` `[B, T]`, False for a frame that nobody shall see; `with_attention`: False, True, or "mean"
    over the heads. Units: the residual stream, before any
    normalisation.

    Source: official `models/vit.py`, class `Block`. Stochastic depth (`drop_path_rate`, not None) drops whole rows, and what
    is a row differs from step to step as it does there: a group of an attention step (in divided attention a place of a clip
    in time, a frame of a clip in space), a CLS's clip or frame in the MLP.
    """

    attention_type: str
    num_heads: int
    mlp_ratio: float
    initialization: str
    attention_order: str
    temporal_cls_key: bool
    activation: str
    layer_norm_epsilon: float
    dropout_rate: float
    attention_dropout_rate: float
    attention_implementation: str | Mapping[str, str]
    dtype: Dtype

    @nn.compact
    def __call__(
        self,
        cls: Float[Array, "B F D"],
        patches: Float[Array, "B T h w D"],
        frame_mask: Bool[Array, "B T"] | None = None,
        drop_path_rate: float | Float[Array, ""] | None = None,
        *,
        train: bool = False,
        cls_only: bool = False,
        with_frame_cls: bool = False,
        with_attention: bool | str = False,
    ) -> BlockOutput:
        scheme = SCHEMES[self.attention_type]
        init = INITIALIZATIONS[self.initialization]
        dim, sizes = patches.shape[-1], patches.shape[1:4]
        maps: dict[str, Array] = {}

        def layer_norm(name: str) -> LayerNorm:
            return LayerNorm(epsilon=self.layer_norm_epsilon, name=name)

        def attend(step: str, name: str, x: Array, mask: Array | None, queries: slice) -> Array:
            """`[B, G, L, D] -> [B, G, Q, D]` (folded parameters leave it as [B, G, Q, heads, head_dim])."""
            given = self.attention_implementation
            attention = Attention(
                self.num_heads,
                kernel_init=init.linear,
                dtype=self.dtype,
                dropout_rate=self.dropout_rate,
                attention_dropout_rate=self.attention_dropout_rate,
                implementation=given if isinstance(given, str) else given.get(step, "auto"),
                foldable=step != scheme.name,
                name=name,
            )
            output, weights = attention(x, mask, queries=queries, train=train, with_weights=bool(with_attention))
            if weights is not None and with_attention:
                maps[step] = weights.mean(axis=2) if with_attention == "mean" else weights
            return output

        def drop(*residuals: Array, rows: int = 2) -> tuple[Array, ...]:
            if drop_path_rate is None:
                return residuals
            scale = drop_path_scale(self.make_rng("dropout"), drop_path_rate, residuals[0].shape[:rows], self.dtype)
            return tuple(r * scale.reshape(scale.shape + (1,) * (r.ndim - rows)) for r in residuals)

        def extra_step(name: str, grouping: Grouping, cls: Array, patches: Array) -> Array:
            """Patches alone; the CLS takes no part, or is one more key. Returns the patches' residual."""
            tokens, mask = grouping.split(patches), grouping.mask(sizes, frame_mask)  # [B, T, h, w, D] -> [B, G, L, D]
            queries = slice(None)
            if self.temporal_cls_key and name == "temporal":
                tokens, mask, queries = _lead_by_cls(cls, tokens), _seen_cls(mask), slice(1, None)
            residual = attend(name, f"{name}_attn", layer_norm(f"{name}_norm1")(tokens), mask, queries)
            folded = residual.ndim == 5
            if folded and train:
                raise InputError("These parameters were folded for inference: train with those that they were made from.")
            # The drop comes before the last layer, as in the official code, so a dropped path still adds that layer's bias.
            (residual,) = drop(residual)
            output = nn.DenseGeneral(
                dim,
                axis=(-2, -1) if folded else -1,
                kernel_init=init.extra_step_output,
                dtype=self.dtype,
                name=f"{name}_fc",
            )
            return grouping.merge(output(residual), sizes)

        def own_attention(patches: Array) -> tuple[Array, Array | None]:
            """The image transformer's: a copy of the CLS leads each group. Returns the residuals of CLS copies and patches."""
            tokens = layer_norm("norm1")(_lead_by_cls(cls, scheme.groups.split(patches)))  # -> [B, G, 1 + L, D]
            queries = slice(1) if cls_only else slice(None)
            (residual,) = drop(attend(scheme.name, "attn", tokens, _seen_cls(group_mask), queries))
            return residual[:, :, 0], None if cls_only else scheme.groups.merge(residual[:, :, 1:], sizes)

        group_mask = scheme.groups.mask(sizes, frame_mask)
        patches = first = row_major(patches)
        if self.attention_order != "space_then_time":
            for name, grouping in scheme.extra_steps:
                origin = first if self.attention_order == "parallel" else patches
                patches = row_major(patches + extra_step(name, grouping, cls, origin))
        group_cls, residual = own_attention(first if self.attention_order == "parallel" else patches)
        if residual is not None:
            patches = row_major(patches + residual)

        # Each group's copy of the CLS has seen that group; a group without a single patch has no say.
        frame_cls = None
        if with_frame_cls and scheme.groups.keeps_frames:
            frame_cls = cls + group_cls.reshape(group_cls.shape[0], sizes[0], -1, dim).mean(axis=2)  # [B, G, D] -> [B, T, D]
        if scheme.cls_per_frame:
            cls = cls + group_cls
        else:
            filled = None if group_mask is None else group_mask.any(axis=2)  # [b, G]
            cls = cls + masked_mean(group_cls, filled, keepdims=True)  # [B, G, D] -> [B, 1, D]
        if self.attention_order == "space_then_time":
            for name, grouping in scheme.extra_steps:
                patches = row_major(patches + extra_step(name, grouping, cls, patches))

        # The MLP, one drop for a clip's (or a frame's) CLS and patches together.
        norm2 = layer_norm("norm2")
        mlp = Mlp(
            mlp_width(dim, self.mlp_ratio),
            kernel_init=init.linear,
            dtype=self.dtype,
            activation=self.activation,
            dropout_rate=self.dropout_rate,
            name="mlp",
        )
        tokens = {"cls": cls, "patches": None if cls_only else patches, "frame_cls": frame_cls}
        wanted = {name: x for name, x in tokens.items() if x is not None}
        residuals = drop(*(mlp(norm2(x), train=train) for x in wanted.values()), rows=2 if scheme.cls_per_frame else 1)
        tokens |= {name: x + residual for (name, x), residual in zip(wanted.items(), residuals, strict=True)}
        return BlockOutput(**tokens, attention=maps)


def _lead_by_cls(cls: Float[Array, "B F D"], groups: Float[Array, "B G L D"]) -> Float[Array, "B G 1+L D"]:
    """Each group with a copy of the clip's (or its frame's) CLS in front."""
    batch, num_groups, _, dim = groups.shape
    copies = jnp.broadcast_to(cls, (batch, num_groups, dim))[:, :, None]  # [B, F, D] -> [B, G, 1, D]
    return jnp.concatenate([copies, groups], axis=2)


def _seen_cls(mask: Bool[Array, "b G L"] | None) -> Bool[Array, "b G 1+L"] | None:
    """The mask of groups that a CLS leads: everyone sees it."""
    return None if mask is None else jnp.pad(mask, ((0, 0), (0, 0), (1, 0)), constant_values=True)
