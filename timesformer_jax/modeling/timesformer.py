"""The TimeSformer model: pixels -> tokens -> blocks -> CLS -> logits."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.typing import Dtype

from timesformer_jax._typing import Array, Float
from timesformer_jax.errors import InputError
from timesformer_jax.modeling.block import Block
from timesformer_jax.modeling.embeddings import PatchEmbed, resize_position_embedding, resize_time_embedding
from timesformer_jax.modeling.initialization import INITIALIZATIONS
from timesformer_jax.modeling.layers import LayerNorm
from timesformer_jax.modeling.schemes import SCHEMES


class Features(NamedTuple):
    """What the model knows of a clip before the classifier, after the last LayerNorm."""

    cls: Float[Array, "B D"]
    """The clip's CLS token: what the classifier reads."""
    patches: Float[Array, "B T h w D"]
    """Every patch's token, at its place in the clip."""


class TimeSformer(nn.Module):
    """A space-time vision transformer (Bertasius, Wang, Torresani: "Is Space-Time Attention All You Need for Video
    Understanding?", ICML 2021).

    Shapes: normalised video `[B, T, H, W, C]` (any T; H and W multiples of `patch_size`; the embeddings are resized) to
    float32 logits `[B, num_classes]`. With `train=True` and a positive `drop_path_rate`, `apply` needs
    `rngs={"dropout": key}`.

    Fields: `image_size` in pixels, an int or (height, width), and `num_frames`: the size that the embeddings are made for.
    `attention_type`: a key of `SCHEMES`. `drop_path_rate` in [0, 1): stochastic depth of the last block, rising linearly
    from 0 in the first. `initialization`: "official" (zero time embedding and zero `temporal_fc`: the start for pretrained
    image weights) or "from_scratch" (large time and position embeddings, ordinary `temporal_fc`: without pretrained weights
    the official start doesn't learn the order of frames in reasonable time). `attention_order`: "time_space" (extra steps
    first), "space_time" (last) or "parallel" (all from the block's input, residuals added; paper 4.7). `temporal_cls_key`: the
    CLS is a key in temporal attention, as in the paper's equation 11 and unlike the official code. `position_embedding`:
    "none", "space" or "space_time" (paper Table 4; there is no time embedding in `space_only`). `scan_layers`: trace one block
    instead of
    `depth`, parameters stacked under `blocks` (see `stack_blocks`). `dtype`: of the computation; parameters, softmax,
    LayerNorm statistics and logits stay float32.

    Raises `InputError` for fields or a video that can't work, naming the value and the remedy.

    Source: paper section 3; official `models/vit.py`, class `VisionTransformer`.
    """

    num_classes: int
    image_size: int | tuple[int, int] = 224
    patch_size: int = 16
    num_frames: int = 8
    embed_dim: int = 768
    depth: int = 12
    num_heads: int = 12
    mlp_ratio: float = 4.0
    attention_type: str = "divided_space_time"
    drop_path_rate: float = 0.0
    initialization: str = "official"
    attention_order: str = "time_space"
    temporal_cls_key: bool = False
    position_embedding: str = "space_time"
    num_channels: int = 3
    scan_layers: bool = False
    dtype: Dtype = jnp.float32

    def __post_init__(self) -> None:
        _one_of("attention_type", self.attention_type, SCHEMES)
        _one_of("initialization", self.initialization, INITIALIZATIONS)
        _one_of("attention_order", self.attention_order, ("time_space", "space_time", "parallel"))
        _one_of("position_embedding", self.position_embedding, ("none", "space", "space_time"))
        for name in ("num_classes", "num_frames", "patch_size", "embed_dim", "depth", "num_heads", "num_channels"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if self.embed_dim % self.num_heads:
            raise InputError(
                f"embed_dim must be a multiple of num_heads, got embed_dim={self.embed_dim} with num_heads={self.num_heads}."
            )
        if not 0 <= self.drop_path_rate < 1:
            raise InputError(f"drop_path_rate must be at least 0 and below 1, got {self.drop_path_rate}.")
        _whole_patches("image_size", *_pair(self.image_size), self.patch_size)
        super().__post_init__()

    @property
    def grid(self) -> tuple[int, int]:
        """Patches in height and width of the size that the position embedding is made for."""
        height, width = _pair(self.image_size)
        return height // self.patch_size, width // self.patch_size

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
        shared = {field: getattr(self, field) for field in Block.__annotations__ if field not in ("parent", "name")}
        self.blocks: Any = Block(**shared) if self.scan_layers else [Block(**shared) for _ in range(self.depth)]
        self.norm = LayerNorm()
        self.head = nn.Dense(self.num_classes, kernel_init=init.linear, dtype=jnp.float32)

    def __call__(self, video: Float[Array, "B T H W C"], *, train: bool = False) -> Float[Array, "B classes"]:
        """Logits, in float32."""
        return self.head(self.features(video, train=train).cls.astype(jnp.float32))

    def features(self, video: Float[Array, "B T H W C"], *, train: bool = False) -> Features:
        """The clip's CLS and patch tokens after the last LayerNorm."""
        self._check(video.shape)
        cls, patches = self._embed(video.astype(self.dtype))
        cls, patches = self._run_blocks(cls, patches, drop_paths=train and self.drop_path_rate > 0)
        # Where each frame has a CLS of its own, frames are averaged here: before the LayerNorm, as in the official code.
        return Features(cls=self.norm(cls.mean(axis=1)), patches=self.norm(patches))  # [B, F, D] -> [B, D]

    def _embed(self, video: Float[Array, "B T H W C"]) -> tuple[Float[Array, "B F D"], Float[Array, "B T h w D"]]:
        """Equation 1: the CLS and the patches, each with its position."""
        scheme = SCHEMES[self.attention_type]
        patches = self.patch_embed(video)
        batch, num_frames, rows, columns, dim = patches.shape
        cls = self.cls_token.astype(self.dtype)
        if self.position_embedding != "none":
            position = resize_position_embedding(self.pos_embed, self.grid, (rows, columns)).astype(self.dtype)
            patches = patches + position[:, 1:].reshape(1, 1, rows, columns, dim)  # the same in every frame
            cls = cls + position[:, :1]  # the CLS has a place (entry 0) but no time
        if self._has_time_embedding:
            time = resize_time_embedding(self.time_embed, num_frames).astype(self.dtype)
            patches = patches + time[:, :, None, None]  # [1, T, 1, 1, D]: the same at every place
        cls = jnp.broadcast_to(cls, (batch, num_frames if scheme.cls_per_frame else 1, dim))
        return cls, patches

    def _run_blocks(self, cls: Array, patches: Array, *, drop_paths: bool) -> tuple[Array, Array]:
        rates = [self.drop_path_rate * i / max(self.depth - 1, 1) for i in range(self.depth)]
        if not self.scan_layers:
            for block, rate in zip(self.blocks, rates, strict=True):
                cls, patches = block(cls, patches, rate, drop_paths)
            return cls, patches

        def one_block(block: Block, tokens: tuple[Array, Array], rate: Array) -> tuple[tuple[Array, Array], None]:
            return block(*tokens, rate, drop_paths), None

        scan = nn.scan(one_block, variable_axes={"params": 0}, split_rngs={"params": True, "dropout": True}, length=self.depth)
        tokens, _ = scan(self.blocks, (cls, patches), jnp.asarray(rates, jnp.float32))
        return tokens

    def _check(self, shape: tuple[int, ...]) -> None:
        if len(shape) != 5 or shape[-1] != self.num_channels or 0 in shape:
            raise InputError(
                f"The video must be [batch, frames, height, width, {self.num_channels}] with no empty axis, got {shape}."
            )
        _whole_patches("The video's size", shape[2], shape[3], self.patch_size)


def parameter_shapes(model: TimeSformer) -> Any:
    """The model's parameter tree with shapes and dtypes for leaves; nothing is computed or allocated."""
    video = jax.ShapeDtypeStruct((1, 1, model.patch_size, model.patch_size, model.num_channels), jnp.float32)
    return jax.eval_shape(model.init, jax.random.key(0), video)["params"]


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def _one_of(name: str, value: str, choices: Iterable[str]) -> None:
    if value not in choices:
        raise InputError(f"{name} must be one of {', '.join(choices)}, got {value!r}.")


def _whole_patches(name: str, height: int, width: int, patch_size: int) -> None:
    if height < patch_size or width < patch_size or height % patch_size or width % patch_size:
        smaller = max(patch_size, min(height, width) // patch_size * patch_size)
        raise InputError(
            f"{name} {height} x {width} is not a whole number of {patch_size} x {patch_size} patches: use multiples of "
            f"patch_size={patch_size}, for example {smaller} or {smaller + patch_size}."
        )
