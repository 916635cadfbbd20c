"""One TimeSformer block: attention in space and time, then the MLP (paper section 3)."""

from collections.abc import Mapping
from typing import Any, NamedTuple

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


class Request(NamedTuple):
    """What one call of a block asks of all its steps."""

    frame_mask: Bool[Array, "B T"] | None
    drop_path_rate: float | Float[Array, ""] | None
    train: bool
    with_attention: bool | str


class Block(nn.Module):
    """One block of any scheme: the extra steps, the image transformer's own attention, the MLP (equations 5 to 9, 11).

    Units: the residual stream, before any normalisation. Stochastic depth drops whole rows, and what is a row differs from
    step to step: a group of an attention step (in divided attention a place of a clip in time, a frame of a clip in space), a
    CLS's clip or frame in the MLP.

    Source: official `models/vit.py`, class `Block`.
    """

    attention_type: str
    embed_dim: int
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
        """Apply the block.

        Args:
            cls: F = 1 CLS a clip, or F = T if each frame has its own (`space_only`).
            patches: Patch tokens of T frames.
            frame_mask: False for a masked frame; None if there are none.
            drop_path_rate: Probability with which a residual is dropped; None for no stochastic depth.
            train: Whether dropout applies.
            cls_only: Compute the CLS alone, as the last block of a classifier may.
            with_frame_cls: Also return the CLS as each frame sees it.
            with_attention: Also return attention weights: True for each head's, "mean" for their mean.
        """
        scheme, sizes = SCHEMES[self.attention_type], patches.shape[1:4]
        request = Request(frame_mask, drop_path_rate, train, with_attention)
        parallel, late = self.attention_order == "parallel", self.attention_order == "space_then_time"
        maps: dict[str, Array | None] = {}

        def extra_steps(cls: Array, patches: Array) -> Array:
            first = patches
            for name, grouping in scheme.extra_steps:
                residual, maps[name] = self._extra_step(name, grouping, cls, first if parallel else patches, request)
                patches = row_major(patches + residual)
            return patches

        first = row_major(patches)
        patches = first if late else extra_steps(cls, first)
        group_cls, residual, maps[scheme.name] = self._own_attention(cls, first if parallel else patches, request, cls_only)
        if residual is not None:
            patches = row_major(patches + residual)
        cls, frame_cls = self._merge_cls(cls, group_cls, sizes, frame_mask)
        if late:
            patches = extra_steps(cls, patches)
        tokens = {"cls": cls, "patches": None if cls_only else patches, "frame_cls": frame_cls if with_frame_cls else None}
        attention = {step: weights for step, weights in maps.items() if weights is not None}
        return BlockOutput(**self._mlp(tokens, request), attention=attention)

    @nn.nowrap
    def _extra_step(
        self, name: str, grouping: Grouping, cls: Array, patches: Float[Array, "B T h w D"], request: Request
    ) -> tuple[Float[Array, "B T h w D"], Array | None]:
        """Residual of the patches from a step that the image transformer lacks, and weights (equation 11 for time).

        The CLS is excluded; `temporal_cls_key` makes it one more key.
        """
        sizes = patches.shape[1:4]
        tokens, mask = grouping.split(patches), grouping.mask(sizes, request.frame_mask)  # [B, T, h, w, D] -> [B, G, L, D]
        queries = slice(None)
        if self.temporal_cls_key and name == "temporal":
            tokens, mask, queries = _lead_by_cls(cls, tokens), _seen_cls(mask), slice(1, None)
        attention = self._attention(name, f"{name}_attn")
        mixed, weights = self._mix(attention, self._norm(f"{name}_norm1")(tokens), mask, queries, request)
        folded = attention.is_folded
        if folded and request.train:
            raise InputError("These parameters were folded for inference: train with those that they were made from.")
        output = nn.DenseGeneral(
            self.embed_dim,
            axis=(-2, -1) if folded else -1,
            kernel_init=INITIALIZATIONS[self.initialization].extra_step_output,
            dtype=self.dtype,
            name=f"{name}_fc",
        )
        # The drop comes before the last layer, as in the official code, so a dropped path still adds that layer's bias.
        if not folded:
            (mixed,) = self._drop(request, attention.project(mixed, train=request.train))
        return grouping.merge(output(mixed), sizes), weights

    @nn.nowrap
    def _own_attention(
        self, cls: Array, patches: Float[Array, "B T h w D"], request: Request, cls_only: bool
    ) -> tuple[Float[Array, "B G D"], Float[Array, "B T h w D"] | None, Array | None]:
        """Residuals of each group's copy of the CLS and of the patches, and weights (equations 5 to 8)."""
        scheme, sizes = SCHEMES[self.attention_type], patches.shape[1:4]
        mask = _seen_cls(scheme.groups.mask(sizes, request.frame_mask))
        tokens = self._norm("norm1")(_lead_by_cls(cls, scheme.groups.split(patches)))  # -> [B, G, 1 + L, D]
        attention = self._attention(scheme.name, "attn")
        mixed, weights = self._mix(attention, tokens, mask, slice(1) if cls_only else slice(None), request)
        (residual,) = self._drop(request, attention.project(mixed, train=request.train))
        return residual[:, :, 0], None if cls_only else scheme.groups.merge(residual[:, :, 1:], sizes), weights

    @nn.nowrap
    def _merge_cls(
        self, cls: Float[Array, "B F D"], group_cls: Float[Array, "B G D"], sizes: tuple[int, ...], frame_mask: Array | None
    ) -> tuple[Float[Array, "B F D"], Float[Array, "B T D"] | None]:
        """The CLS after its groups' mean residual, and as each frame sees it (None if groups mix frames)."""
        scheme, frame_cls = SCHEMES[self.attention_type], None
        if scheme.groups.keeps_frames:
            by_frame = group_cls.reshape(group_cls.shape[0], sizes[0], -1, self.embed_dim)  # [B, G, D] -> [B, T, G/T, D]
            frame_cls = cls + by_frame.mean(axis=2)
        if scheme.cls_per_frame:
            return cls + group_cls, frame_cls
        # A group without a single patch is excluded.
        mask = scheme.groups.mask(sizes, frame_mask)
        filled = None if mask is None else mask.any(axis=2)  # [b, G]
        return cls + masked_mean(group_cls, filled, keepdims=True), frame_cls  # [B, G, D] -> [B, 1, D]

    @nn.nowrap
    def _mlp(self, tokens: Mapping[str, Array | None], request: Request) -> dict[str, Any]:
        """Tokens by name after the MLP (equation 9), with one drop for a clip's, or a frame's, CLS and patches together."""
        scheme, norm = SCHEMES[self.attention_type], self._norm("norm2")
        mlp = Mlp(
            mlp_width(self.embed_dim, self.mlp_ratio),
            kernel_init=INITIALIZATIONS[self.initialization].linear,
            dtype=self.dtype,
            activation=self.activation,
            dropout_rate=self.dropout_rate,
            name="mlp",
        )
        given = {name: x for name, x in tokens.items() if x is not None}
        residuals = (mlp(norm(x), train=request.train) for x in given.values())
        dropped = self._drop(request, *residuals, rows=2 if scheme.cls_per_frame else 1)
        return {**tokens, **{name: x + residual for (name, x), residual in zip(given.items(), dropped, strict=True)}}

    @nn.nowrap
    def _norm(self, name: str) -> LayerNorm:
        return LayerNorm(epsilon=self.layer_norm_epsilon, name=name)

    @nn.nowrap
    def _attention(self, step: str, name: str) -> Attention:
        given = self.attention_implementation
        return Attention(
            self.embed_dim,
            self.num_heads,
            kernel_init=INITIALIZATIONS[self.initialization].linear,
            dtype=self.dtype,
            dropout_rate=self.dropout_rate,
            attention_dropout_rate=self.attention_dropout_rate,
            implementation=given if isinstance(given, str) else given.get(step, "auto"),
            name=name,
        )

    @nn.nowrap
    def _mix(
        self, attention: Attention, tokens: Array, mask: Array | None, queries: slice, request: Request
    ) -> tuple[Float[Array, "B G Q h d"], Array | None]:
        """The heads' mixtures of values, and the weights as the caller asked for them."""
        wanted = bool(request.with_attention)
        mixed, weights = attention.mix(tokens, mask, queries=queries, train=request.train, with_weights=wanted)
        if weights is None or not wanted:
            return mixed, None
        return mixed, weights.mean(axis=2) if request.with_attention == "mean" else weights

    @nn.nowrap
    def _drop(self, request: Request, *residuals: Array, rows: int = 2) -> tuple[Array, ...]:
        """Stochastic depth over the residuals' first `rows` axes, one draw for all of them."""
        if request.drop_path_rate is None:
            return residuals
        scale = drop_path_scale(self.make_rng("dropout"), request.drop_path_rate, residuals[0].shape[:rows], self.dtype)
        return tuple(r * scale.reshape(scale.shape + (1,) * (r.ndim - rows)) for r in residuals)


def _lead_by_cls(cls: Float[Array, "B F D"], groups: Float[Array, "B G L D"]) -> Float[Array, "B G 1+L D"]:
    """Each group with a copy of the clip's (or its frame's) CLS in front."""
    batch, num_groups, _, dim = groups.shape
    copies = jnp.broadcast_to(cls, (batch, num_groups, dim))[:, :, None]  # [B, F, D] -> [B, G, 1, D]
    return jnp.concatenate([copies, groups], axis=2)


def _seen_cls(mask: Bool[Array, "b G L"] | None) -> Bool[Array, "b G 1+L"] | None:
    """The mask of groups that a CLS leads: everyone sees it."""
    return None if mask is None else jnp.pad(mask, ((0, 0), (0, 0), (1, 0)), constant_values=True)
