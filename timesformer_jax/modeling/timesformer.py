"""The TimeSformer model, from pixels to tokens, blocks, CLS and logits."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.core import FrozenDict
from flax.typing import Dtype

from timesformer_jax._typing import Array, Bool, Float
from timesformer_jax.checks import check_choice, check_whole
from timesformer_jax.errors import InputError
from timesformer_jax.modeling.block import Block, BlockOutput
from timesformer_jax.modeling.checks import check_implementations, check_patches, pair
from timesformer_jax.modeling.embeddings import RESIZES, PatchEmbed, resize_position_embedding, resize_time_embedding
from timesformer_jax.modeling.features import AttentionMap, Features, Tokens, name_attention
from timesformer_jax.modeling.initialization import INITIALIZATIONS
from timesformer_jax.modeling.layers import ACTIVATIONS, LayerNorm, masked_mean
from timesformer_jax.modeling.schemes import SCHEMES
from timesformer_jax.modeling.stacking import run_blocks

REMATS: dict[str, Any] = {
    "none": None,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "full": jax.checkpoint_policies.nothing_saveable,
}
"""Maps `remat` to the checkpoint policy of each block.

"none" saves everything for the backward pass, "dots" only the outputs of linear layers, "full" only the block's input; the
backward pass recomputes the rest.
"""


class TimeSformer(nn.Module):
    """TimeSformer, a space-time vision transformer for video classification.

    Maps normalised video `[B, T, H, W, C]` to float32 logits `[B, num_classes]`. T is arbitrary, and H and W are multiples of
    `patch_size`; the position embeddings are resized to the input. Clips of different lengths are padded to the same T and
    passed with a `frame_mask` `[B, T]` that is False for padding. Masked frames don't influence the result. The padded length T
    does if the time embedding has to be resized to it, so pad to `num_frames`.

    With `train=True`, `apply` needs `rngs={"dropout": key}` if one of the three rates below is positive.

    Source: Bertasius, Wang and Torresani, "Is Space-Time Attention All You Need for Video Understanding?", ICML 2021,
    section 3; official `models/vit.py`, class `VisionTransformer`.

    Attributes:
        num_classes: Number of classes; 0 for a feature extractor without a classifier.
        image_size: Size in pixels for which the space embedding is stored, an int or (height, width). The embedding is resized
            for inputs of other sizes.
        patch_size: Side of the square patches in pixels.
        num_frames: Number of frames of the time embedding, which is resized for inputs with other numbers of frames.
        num_channels: Number of channels C of the video.

        embed_dim: Token width D, a multiple of `num_heads`.
        depth: Number of blocks.
        num_heads: Number of attention heads.
        mlp_ratio: Hidden width of the MLP divided by `embed_dim`.
        attention_type: Space-time attention scheme, a key of `SCHEMES`.
        attention_order: Order of a block's attention steps: "time_then_space" (extra steps first), "space_then_time" (extra
            steps last) or "parallel" (all steps read the block's input and their residuals are added; paper section 4.7).
            Ignored by schemes without extra steps.
        temporal_cls_key: Whether the CLS is a key in temporal attention, as in the paper's equation 11 and unlike the
            official code. Ignored by schemes without a temporal step.
        position_embedding: "none", "space" or "space_time" (paper Table 4). `space_only` never has a time embedding.
        resize: Interpolation of position embeddings to other input sizes, a key of `RESIZES`; "nearest" is official.

        activation: Non-linearity of the MLP, a key of `ACTIVATIONS`. This field and the next two depend on the image
            transformer whose weights are loaded; CLIP differs from the defaults in all three.
        layer_norm_epsilon: Epsilon of every LayerNorm.
        pre_norm: Whether a LayerNorm is applied to the embedded tokens before the first block.

        drop_path_rate: Stochastic depth rate of the last block, in [0, 1). The rate rises linearly from 0 in the first block.
        dropout_rate: Dropout rate of the embedded tokens, the attention projections and both layers of the MLP, in [0, 1).
        attention_dropout_rate: Dropout rate of the attention weights, in [0, 1).
        initialization: A key of `INITIALIZATIONS`. "official" starts with zero time embeddings and zero `temporal_fc`, for
            pretrained image weights. "from_images" draws a new classifier with larger weights, which lets short trainings learn
            the order of frames (docs/model.md). "from_scratch" starts with large time and position embeddings and an ordinary
            `temporal_fc`; without pretrained weights, the official start doesn't learn the order of frames in reasonable time.

        scan_layers: Whether to trace two blocks instead of `depth`, with parameters stacked under `blocks` (see
            `stack_blocks`). This and the following fields affect how the model is computed, not what it computes.
        remat: Rematerialization in the backward pass, a key of `REMATS`.
        attention_implementation: A key of `IMPLEMENTATIONS` ("auto" picks the fastest for the device), or a mapping from some
            of the scheme's attention steps to keys, such as `{"spatial": "xla"}`.
        dtype: Dtype of the computation. Parameters, softmax, LayerNorm statistics and logits stay float32.

    Raises:
        InputError: If a field or the video is invalid. The message names the value and the remedy.
    """

    num_classes: int
    image_size: int | Sequence[int] = 224
    patch_size: int = 16
    num_frames: int = 8
    embed_dim: int = 768
    depth: int = 12
    num_heads: int = 12
    mlp_ratio: float = 4.0
    attention_type: str = "divided_space_time"
    drop_path_rate: float = 0.0
    initialization: str = "official"
    attention_order: str = "time_then_space"
    temporal_cls_key: bool = False
    position_embedding: str = "space_time"
    resize: str = "nearest"
    activation: str = "gelu"
    layer_norm_epsilon: float = 1e-6
    pre_norm: bool = False
    dropout_rate: float = 0.0
    attention_dropout_rate: float = 0.0
    num_channels: int = 3
    scan_layers: bool = False
    remat: str = "none"
    attention_implementation: str | Mapping[str, str] = "auto"
    dtype: Dtype = jnp.float32

    def __post_init__(self) -> None:
        # Fields must be hashable, so that a model can be a static argument of `jax.jit`.
        if isinstance(self.image_size, list):
            object.__setattr__(self, "image_size", tuple(self.image_size))
        if isinstance(self.attention_implementation, Mapping):
            object.__setattr__(self, "attention_implementation", FrozenDict(self.attention_implementation))
        check_choice("attention_type", self.attention_type, SCHEMES)
        check_choice("initialization", self.initialization, INITIALIZATIONS)
        check_choice("attention_order", self.attention_order, ("time_then_space", "space_then_time", "parallel"))
        check_choice("position_embedding", self.position_embedding, ("none", "space", "space_time"))
        check_choice("resize", self.resize, RESIZES)
        check_choice("activation", self.activation, ACTIVATIONS)
        check_choice("remat", self.remat, REMATS)
        check_implementations(self.attention_implementation, self.attention_type, self.attention_dropout_rate)
        for name in ("num_classes", "num_frames", "patch_size", "embed_dim", "depth", "num_heads", "num_channels"):
            check_whole(name, getattr(self, name), least=0 if name == "num_classes" else 1)
        if self.layer_norm_epsilon <= 0:
            raise InputError(f"layer_norm_epsilon must be positive, got {self.layer_norm_epsilon}.")
        if self.mlp_ratio * self.embed_dim < 1:
            raise InputError(f"mlp_ratio must be positive, got {self.mlp_ratio}.")
        if self.embed_dim % self.num_heads:
            raise InputError(
                f"embed_dim must be a multiple of num_heads, got embed_dim={self.embed_dim} with num_heads={self.num_heads}."
            )
        for name in ("drop_path_rate", "dropout_rate", "attention_dropout_rate"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 0 and below 1, got {getattr(self, name)}.")
        check_patches("image_size", *pair(self.image_size), self.patch_size)
        super().__post_init__()

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches at `image_size`, the grid of the space embedding."""
        height, width = pair(self.image_size)
        return height // self.patch_size, width // self.patch_size

    @property
    def block_fields(self) -> dict[str, Any]:
        """Fields of every `Block` of this model."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(Block) if f.name not in ("parent", "name")}

    @property
    def _has_time_embedding(self) -> bool:
        return self.position_embedding == "space_time" and SCHEMES[self.attention_type].time_embedding

    def setup(self) -> None:
        init = INITIALIZATIONS[self.initialization]
        num_patches = self.grid[0] * self.grid[1]
        self.patch_embed = PatchEmbed(self.patch_size, self.embed_dim, dtype=self.dtype)
        self.cls_token = self.param("cls_token", init.cls_token, (1, 1, self.embed_dim), jnp.float32)
        if self.position_embedding != "none":
            self.pos_embed = self.param("pos_embed", init.pos_embed, (1, 1 + num_patches, self.embed_dim), jnp.float32)
        if self._has_time_embedding:
            self.time_embed = self.param("time_embed", init.time_embed, (1, self.num_frames, self.embed_dim), jnp.float32)
        self.blocks: Any = (
            Block(**self.block_fields) if self.scan_layers else [Block(**self.block_fields) for _ in range(self.depth)]
        )
        self.dropout = nn.Dropout(self.dropout_rate)
        if self.pre_norm:
            self.norm_pre = LayerNorm(epsilon=self.layer_norm_epsilon)
        self.norm = LayerNorm(epsilon=self.layer_norm_epsilon)
        self.head = nn.Dense(self.num_classes, kernel_init=init.head, dtype=jnp.float32)

    def __call__(
        self, video: Float[Array, "B T H W C"], frame_mask: Bool[Array, "B T"] | None = None, *, train: bool = False
    ) -> Float[Array, "B classes"]:
        """Classify a batch of clips. The last block computes only what the CLS needs.

        Args:
            video: Normalised clips, floating-point.
            frame_mask: False for masked frames; None if no frame is masked.
            train: Whether dropout and stochastic depth apply.

        Returns:
            Logits in float32.
        """
        outputs, _ = self._run(video, frame_mask, train=train, cls_only=True)
        return self.head(self._clip_cls(outputs.cls, frame_mask).astype(jnp.float32))

    def features(
        self,
        video: Float[Array, "B T H W C"],
        frame_mask: Bool[Array, "B T"] | None = None,
        *,
        train: bool = False,
        blocks: bool = False,
        attention: bool | str = False,
    ) -> Features:
        """Compute the features of a batch of clips, without the classifier.

        Args:
            video: Normalised clips, floating-point.
            frame_mask: False for masked frames; None if no frame is masked.
            train: Whether dropout and stochastic depth apply.
            blocks: Also return the output of every block.
            attention: Also return the attention maps of every block: per head if True, averaged over heads if "mean". This
                materializes the full matrix of weights, whatever `attention_implementation` is.

        Returns:
            The CLS of each clip and of its frames, and all patches, after the final LayerNorm. `blocks` and `attention` cost
            nothing unless requested.

        Raises:
            InputError: If `attention` or the video is invalid.
        """
        if attention not in (False, True, "mean"):
            raise InputError(f"attention must be True, False or 'mean' (of the heads), got {attention!r}.")
        last, (tokens, weights) = self._run(
            video, frame_mask, train=train, with_frame_cls=True, with_blocks=blocks, with_attention=attention
        )
        grid, patches = self._grid_of(video), cast(Array, last.patches)

        def in_rows(patches: Any) -> Array:  # [..., N, D] -> [..., h, w, D]
            return patches.reshape(*patches.shape[:-2], *grid, patches.shape[-1])

        return Features(
            cls=self._clip_cls(last.cls, frame_mask),
            frame_cls=None if last.frame_cls is None else self.norm(last.frame_cls),
            patches=in_rows(self.norm(patches)),
            blocks=None if tokens is None else Tokens(tokens[0], in_rows(tokens[1])),
            attention=self._name_attention(weights, (video.shape[1], *grid)) if attention else None,
        )

    def _grid_of(self, video: Float[Array, "B T H W C"]) -> tuple[int, int]:
        """Return the rows and columns of the video's patches."""
        return video.shape[2] // self.patch_size, video.shape[3] // self.patch_size

    def _clip_cls(self, cls: Float[Array, "B F D"], frame_mask: Bool[Array, "B T"] | None) -> Float[Array, "B D"]:
        """Compute a clip's CLS (equation 10).

        Per-frame CLS tokens are averaged before the LayerNorm, as in the official code.
        """
        return self.norm(masked_mean(cls, frame_mask if SCHEMES[self.attention_type].cls_per_frame else None))

    def _name_attention(self, weights: dict[str, Array], sizes: tuple[int, ...]) -> dict[str, AttentionMap]:
        scheme = SCHEMES[self.attention_type]
        own = scheme.name
        return {
            step: name_attention(
                weights[step],
                grouping,
                sizes,
                cls_queries=int(step == own),
                cls_keys=int(step == own or (step == "temporal" and self.temporal_cls_key)),
            )
            for step, grouping in scheme.steps.items()
        }

    def _embed(self, video: Float[Array, "B T H W C"]) -> tuple[Float[Array, "B F D"], Float[Array, "B T N D"]]:
        """Embed the CLS and the patches with their positions (equation 1), followed by a LayerNorm if `pre_norm`."""
        scheme = SCHEMES[self.attention_type]
        patches = self.patch_embed(video)
        batch, num_frames, rows, columns, dim = patches.shape
        patches = patches.reshape(batch, num_frames, rows * columns, dim)
        cls = self.cls_token.astype(self.dtype)
        if self.position_embedding != "none":
            position = resize_position_embedding(self.pos_embed, self.grid, (rows, columns), self.resize).astype(self.dtype)
            patches = patches + position[:, None, 1:]  # [1, 1, N, D]: the same in every frame
            cls = cls + position[:, :1]  # the CLS has a space embedding (entry 0) but no time embedding
        if self._has_time_embedding:
            time = resize_time_embedding(self.time_embed, num_frames, self.resize).astype(self.dtype)
            patches = patches + time[:, :, None]  # [1, T, 1, D]: the same at every location
        cls = jnp.broadcast_to(cls, (batch, num_frames if scheme.cls_per_frame else 1, dim))
        return (self.norm_pre(cls), self.norm_pre(patches)) if self.pre_norm else (cls, patches)

    def _run(
        self,
        video: Float[Array, "B T H W C"],
        frame_mask: Bool[Array, "B T"] | None,
        *,
        train: bool,
        with_blocks: bool = False,
        with_attention: bool | str = False,
        **last_wants: bool,
    ) -> tuple[BlockOutput, tuple[tuple[Array, Array] | None, dict[str, Array]]]:
        """Run all blocks.

        Args:
            video: Normalised clips, floating-point.
            frame_mask: False for masked frames; None if no frame is masked.
            train: Whether dropout and stochastic depth apply.
            with_blocks: Also return the tokens of every block.
            with_attention: Also return the attention weights of every block, or "mean" for their mean over heads.
            **last_wants: Further arguments of the last block.

        Returns:
            The last block's output; and, if requested, the stacked tokens (CLS, patches) and attention weights of all blocks.
        """
        self._check(video.shape, video.dtype, frame_mask)
        self._check_layout()
        if frame_mask is not None:  # masked frames may hold NaN, which survives a weight of zero
            video = jnp.where(frame_mask[:, :, None, None, None], video, jnp.zeros((), video.dtype))
        cls, patches = (self.dropout(x, deterministic=not train) for x in self._embed(video.astype(self.dtype)))
        rates = jnp.linspace(0.0, self.drop_path_rate, self.depth)
        drop_paths = train and self.drop_path_rate > 0
        grid = self._grid_of(video)

        def run(block: Any, tokens: tuple[Array, Array], rate: Array, **wants: bool) -> tuple[BlockOutput, Any]:
            given = rate if drop_paths else None
            output = block(*tokens, frame_mask, given, grid=grid, train=train, with_attention=with_attention, **wants)
            return output, ((output.cls, output.patches) if with_blocks else None, output.attention)

        def run_last(block: Any, tokens: tuple[Array, Array], rate: Array) -> tuple[BlockOutput, Any]:
            return run(block, tokens, rate, **last_wants)

        return run_blocks(run, run_last, self.blocks, (cls, patches), rates, policy=REMATS[self.remat])

    def _check(self, shape: tuple[Any, ...], dtype: Any, frame_mask: Any) -> None:
        if len(shape) != 5 or shape[-1] != self.num_channels or 0 in shape:
            raise InputError(
                f"The video must be [batch, frames, height, width, {self.num_channels}] with no empty axis, got {shape}."
            )
        if not jnp.issubdtype(dtype, jnp.floating):
            raise InputError(
                f"The video must be normalised floats, got {jnp.dtype(dtype).name}: see timesformer_jax.video.normalize."
            )
        check_patches("The video's size", shape[2], shape[3], self.patch_size)
        if frame_mask is not None:
            given = getattr(frame_mask, "dtype", type(frame_mask).__name__), getattr(frame_mask, "shape", "")
            if given != (jnp.bool_, shape[:2]):
                raise InputError(
                    f"frame_mask must be a bool array [batch, frames], here {shape[:2]}, got {given[0]} {given[1]}."
                )

    def _check_layout(self) -> None:
        """Raise `InputError` if the parameters' stacking or depth doesn't match this model's."""
        params = self.variables.get("params", {})
        if self.is_initializing() or not params:
            return
        stacked = "blocks" in params
        depth = jax.tree.leaves(params["blocks"])[0].shape[0] if stacked else sum(name.startswith("blocks_") for name in params)
        if stacked != self.scan_layers:
            raise InputError(
                f"These parameters are {'stacked' if stacked else 'per block'}, but scan_layers={self.scan_layers}: use "
                f"{'unstack_blocks' if stacked else 'stack_blocks'}(params), or scan_layers={stacked}."
            )
        if depth != self.depth:
            raise InputError(f"These parameters have {depth} block(s), but depth={self.depth}.")


def parameter_shapes(model: TimeSformer) -> Any:
    """Return the model's parameter tree with shapes and dtypes as leaves, without computing or allocating anything."""
    video = jax.ShapeDtypeStruct((1, 1, model.patch_size, model.patch_size, model.num_channels), jnp.float32)
    key = jax.eval_shape(lambda: jax.random.key(0))
    # All blocks have the same shapes, and tracing only one takes a tenth of the time.
    params = jax.eval_shape(model.clone(depth=1, scan_layers=False).init, key, video)["params"]
    block = params.pop("blocks_0")
    if model.scan_layers:
        return {**params, "blocks": jax.tree.map(lambda x: jax.ShapeDtypeStruct((model.depth, *x.shape), x.dtype), block)}
    return {**params, **{f"blocks_{i}": block for i in range(model.depth)}}


def flatten_params(params: Mapping[str, Any]) -> dict[str, Any]:
    """Flatten a tree of parameters into a mapping from paths, such as `blocks_0/attn/qkv/kernel`, to leaves."""
    return {"/".join(key.key for key in keys): leaf for keys, leaf in jax.tree_util.tree_flatten_with_path(params)[0]}
