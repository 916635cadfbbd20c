"""One TimeSformer block: attention in space and time, then the MLP (paper section 3)."""

import functools
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
from flax import linen as nn
from flax.typing import Dtype

from timesformer_jax._typing import Array, Bool, Float
from timesformer_jax.errors import InputError
from timesformer_jax.modeling.attention import Attention, HeadsToTokens, ProjectionAndLayer
from timesformer_jax.modeling.initialization import INITIALIZATIONS
from timesformer_jax.modeling.kernels.partitioned import has_constant_shape
from timesformer_jax.modeling.layers import LayerNorm, Mlp, drop_path_scale, masked_mean, mlp_width
from timesformer_jax.modeling.memory_order import row_major
from timesformer_jax.modeling.per_device import current_placement, sharding_of_axes
from timesformer_jax.modeling.projections import Mixed
from timesformer_jax.modeling.schemes import SCHEMES, Grouping


class BlockOutput(NamedTuple):
    """Output tokens of a block, with optional attention weights."""

    cls: Float[Array, "B F D"]
    """CLS tokens: F = 1 per clip, or one per frame (`space_only`)."""
    patches: Float[Array, "B T N D"] | None
    """Patch tokens, row-major within a frame; None if only the CLS was requested."""
    frame_cls: Float[Array, "B T D"] | None
    """The CLS in each frame, before the mean over frames; None unless requested, or if the scheme's groups span frames."""
    attention: dict[str, Float[Array, "B G *heads Q L"]]
    """Maps each attention step to its weights; empty unless requested."""


class Request(NamedTuple):
    """Arguments of a block's call that all of its steps share."""

    sizes: tuple[int, int, int]
    """Numbers of frames, rows and columns of patches."""
    frame_mask: Bool[Array, "B T"] | None
    """False for masked frames; None if no frame is masked."""
    drop_path_rate: float | Float[Array, ""] | None
    """Probability of dropping a residual; None disables stochastic depth."""
    train: bool
    """Apply dropout."""
    with_attention: bool | str
    """Return attention weights: per head if True, averaged over heads if "mean"."""


class Block(nn.Module):
    """One block of any scheme: extra attention steps, the image transformer's own attention, the MLP (equations 5 to 9, 11).

    Inputs and outputs are the residual stream, before any normalisation. Stochastic depth drops whole rows. In an attention
    step a row is one group (for divided attention: one location of a clip in the temporal step, one frame of a clip in the
    spatial step). In the MLP a row is one clip, or one frame if each frame has its own CLS.

    Source: official `models/vit.py`, class `Block`.

    Attributes:
        attention_type: A key of `SCHEMES`.
        embed_dim: Token width D.
        num_heads: Number of attention heads.
        mlp_ratio: Hidden width of the MLP divided by `embed_dim`.
        initialization: A key of `INITIALIZATIONS`.
        attention_order: "time_then_space", "space_then_time" or "parallel".
        temporal_cls_key: Whether the CLS is a key in the temporal step.
        activation: A key of `ACTIVATIONS`.
        layer_norm_epsilon: Epsilon of every LayerNorm.
        dropout_rate: Dropout rate of the attention projections and both layers of the MLP.
        attention_dropout_rate: Dropout rate of the attention weights.
        attention_implementation: A key of `IMPLEMENTATIONS`, or a mapping from attention steps to keys.
        dtype: Dtype of the computation. Parameters are float32.
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
        patches: Float[Array, "B T N D"],
        frame_mask: Bool[Array, "B T"] | None = None,
        drop_path_rate: float | Float[Array, ""] | None = None,
        *,
        grid: tuple[int, int],
        train: bool = False,
        cls_only: bool = False,
        with_frame_cls: bool = False,
        with_attention: bool | str = False,
    ) -> BlockOutput:
        """Apply the block.

        Args:
            cls: CLS tokens: F = 1 per clip, or F = T if each frame has its own (`space_only`).
            patches: Patch tokens of T frames, row-major within a frame.
            frame_mask: False for masked frames; None if no frame is masked.
            drop_path_rate: Probability of dropping a residual; None disables stochastic depth.
            grid: Rows and columns of a frame's N patches.
            train: Whether dropout applies.
            cls_only: Compute only the CLS, which is all that a classifier needs of the last block.
            with_frame_cls: Also return the CLS in each frame, before the mean over frames.
            with_attention: Also return attention weights: per head if True, averaged over heads if "mean".

        Returns:
            The output tokens and whatever else was requested.

        Raises:
            InputError: If the parameters were folded for inference and `train` is set.
        """
        scheme = SCHEMES[self.attention_type]
        request = Request((patches.shape[1], *grid), frame_mask, drop_path_rate, train, with_attention)
        parallel, late = self.attention_order == "parallel", self.attention_order == "space_then_time"
        maps: dict[str, Array | None] = {}

        def extra_steps(cls: Array, patches: Array) -> Array:
            first = patches
            for name, grouping in scheme.extra_steps:
                kept, residual, maps[name] = self._extra_step(name, grouping, cls, first if parallel else patches, request)
                patches = row_major((patches if parallel else kept) + residual)
            return patches

        first = row_major(patches)
        patches = first if late else extra_steps(cls, first)
        given = first if parallel else patches
        group_cls, kept, residual, maps[scheme.name] = self._own_attention(cls, given, request, cls_only)
        if residual is not None:
            patches = row_major((patches if parallel else kept) + residual)
        cls, frame_cls = self._merge_cls(cls, group_cls, request)
        if late:
            patches = extra_steps(cls, patches)
        tokens = {"cls": cls, "patches": None if cls_only else patches, "frame_cls": frame_cls if with_frame_cls else None}
        attention = {step: weights for step, weights in maps.items() if weights is not None}
        return BlockOutput(**self._mlp(tokens, request), attention=attention)

    @nn.nowrap
    def _extra_step(
        self, name: str, grouping: Grouping, cls: Array, patches: Float[Array, "B T N D"], request: Request
    ) -> tuple[Float[Array, "B T N D"], Float[Array, "B T N D"], Array | None]:
        """Return the patches, their residual and the attention weights of an extra attention step (equation 11 if temporal).

        The CLS is excluded unless `temporal_cls_key` makes it an additional key.
        """
        norm, queries, key = self._norm(f"{name}_norm1"), slice(None), None
        if self.temporal_cls_key and name == "temporal":
            queries, key = slice(-1), norm(cls)
        attention = self._attention(name, f"{name}_attn")
        patches, normal = norm(patches, fork=True)
        mixed, weights = self._mix(attention, grouping, normal, key, queries, request)
        folded = attention.is_folded
        if folded and request.train:
            raise InputError("These parameters were folded for inference and can't be trained: use the original ones.")
        fields = {
            "kernel_init": INITIALIZATIONS[self.initialization].extra_step_output,
            "dtype": self.dtype,
            "name": f"{name}_fc",
        }
        if folded:
            return patches, HeadsToTokens(self.embed_dim, **fields)(mixed.patches), weights
        # Stochastic depth acts before the last layer, as in the official code, so a dropped residual still adds that layer's
        # bias.
        _, factors = self._group_factors(request, grouping, patches.shape[0])
        if self._composes(patches, request):
            layer = ProjectionAndLayer(self.embed_dim, **fields)
            return patches, layer(mixed.patches, projection=attention.projection(), factors=factors), weights
        residual = _times(attention.project(mixed.patches, train=request.train), factors)
        return patches, nn.Dense(self.embed_dim, **fields)(residual), weights

    @nn.nowrap
    def _composes(self, patches: Float[Array, "B T N D"], request: Request) -> bool:
        """Decide whether to apply an extra step's last two layers as one: if no dropout lies between them and it saves work."""
        if self.is_initializing() or (request.train and self.dropout_rate > 0) or not has_constant_shape(patches):
            return False
        sharding = sharding_of_axes(current_placement(), patches.shape, ("clips", "frames", None, None))
        on_each_device = patches.shape if sharding is None else sharding.shard_shape(patches.shape)
        return math.prod(on_each_device[:3]) > self.embed_dim

    @nn.nowrap
    def _own_attention(
        self, cls: Array, patches: Float[Array, "B T N D"], request: Request, cls_only: bool
    ) -> tuple[Float[Array, "B G D"], Float[Array, "B T N D"], Float[Array, "B T N D"] | None, Array | None]:
        """Return the residual of each group's CLS copy, the patches, their residual, and the weights (equations 5 to 8)."""
        scheme, norm = SCHEMES[self.attention_type], self._norm("norm1")
        attention = self._attention(scheme.name, "attn")
        queries = slice(-1, None) if cls_only else slice(None)
        patches, normal = norm(patches, fork=True)
        mixed, weights = self._mix(attention, scheme.groups, normal, norm(cls), queries, request)
        project = functools.partial(attention.project, train=request.train)
        residual = None if mixed.patches is None else project(mixed.patches)
        factors, at_patches = self._group_factors(request, scheme.groups, cls.shape[0])
        residual, group_cls = _times(residual, at_patches), _times(project(mixed.cls), factors)
        return group_cls, patches, residual, weights

    @nn.nowrap
    def _merge_cls(
        self, cls: Float[Array, "B F D"], group_cls: Float[Array, "B G D"], request: Request
    ) -> tuple[Float[Array, "B F D"], Float[Array, "B T D"] | None]:
        """Add the groups' mean residual to the CLS; also return the CLS in each frame (None if groups span frames)."""
        scheme, frame_cls = SCHEMES[self.attention_type], None
        if scheme.groups.keeps_frames:
            # [B, G, D] -> [B, T, G/T, D]
            by_frame = group_cls.reshape(group_cls.shape[0], request.sizes[0], -1, self.embed_dim)
            frame_cls = cls + by_frame.mean(axis=2)
        if scheme.cls_per_frame:
            return cls + group_cls, frame_cls
        # Groups that hold only padding or masked frames are excluded from the mean.
        mask = scheme.groups.mask(request.sizes, request.frame_mask)
        filled = None if mask is None else mask.any(axis=2)  # [b, G]
        return cls + masked_mean(group_cls, filled, keepdims=True), frame_cls  # [B, G, D] -> [B, 1, D]

    @nn.nowrap
    def _mlp(self, tokens: Mapping[str, Array | None], request: Request) -> dict[str, Any]:
        """Apply the MLP to each entry of `tokens` (equation 9); stochastic depth drops a row's CLS and patches together."""
        scheme, norm = SCHEMES[self.attention_type], self._norm("norm2")
        mlp = Mlp(
            mlp_width(self.embed_dim, self.mlp_ratio),
            kernel_init=INITIALIZATIONS[self.initialization].linear,
            dtype=self.dtype,
            activation=self.activation,
            dropout_rate=self.dropout_rate,
            name="mlp",
        )
        forks = {name: norm(x, fork=True) for name, x in tokens.items() if x is not None}
        residuals = (mlp(fork.branch, train=request.train) for fork in forks.values())
        dropped = self._drop(request, *residuals, rows=2 if scheme.cls_per_frame else 1)
        summed = (fork.residual + residual for fork, residual in zip(forks.values(), dropped, strict=True))
        return {**tokens, **dict(zip(forks, summed, strict=True))}

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
        self,
        attention: Attention,
        grouping: Grouping,
        patches: Float[Array, "B T N D"],
        cls: Float[Array, "B F D"] | None,
        queries: slice,
        request: Request,
    ) -> tuple[Mixed, Array | None]:
        """Return the values mixed by each head within the groups, and the weights in the requested form."""
        wanted, mask = bool(request.with_attention), grouping.mask(request.sizes, request.frame_mask)
        groups = {"grouping": grouping, "sizes": request.sizes, "queries": queries}
        mixed, weights = attention.mix(patches, mask, cls=cls, **groups, train=request.train, with_weights=wanted)
        if weights is None or not wanted:
            return mixed, None
        return mixed, weights.mean(axis=2) if request.with_attention == "mean" else weights

    @nn.nowrap
    def _drop(self, request: Request, *residuals: Array, rows: int) -> tuple[Array, ...]:
        """Apply stochastic depth over the first `rows` axes, with one draw for all residuals."""
        if request.drop_path_rate is None:
            return residuals
        scale = drop_path_scale(self.make_rng("dropout"), request.drop_path_rate, residuals[0].shape[:rows], self.dtype)
        return tuple(r * scale.reshape(scale.shape + (1,) * (r.ndim - rows)) for r in residuals)

    @nn.nowrap
    def _group_factors(self, request: Request, grouping: Grouping, batch: Any) -> tuple[Any, Any]:
        """Draw the factors of stochastic depth for groups, `[B, G, 1]`, and for patches, `[B, T, N, 1]`; None without it."""
        if request.drop_path_rate is None:
            return None, None
        num_groups, length = grouping.shape(request.sizes)
        factors = drop_path_scale(self.make_rng("dropout"), request.drop_path_rate, (batch, num_groups), self.dtype)[..., None]
        copies = jnp.broadcast_to(factors[:, :, None], (batch, num_groups, length, 1))
        return factors, grouping.merge(copies, request.sizes)


def _times(residual: Array | None, factors: Array | None) -> Any:
    return residual if residual is None or factors is None else residual * factors
