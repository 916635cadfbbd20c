"""Building blocks of the networks: convolutions with BatchNorm, the stem, bottleneck blocks and pathways."""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from flax.typing import Dtype

from timesformer_jax._typing import Array, Float
from timesformer_jax.cnn3d.stages import EXPANSION, STAGES, Pathway

Sizes = tuple[int, int, int]


class ConvNorm(nn.Module):
    """Convolution without bias, padded by half its kernel, followed by BatchNorm.

    The statistics of BatchNorm are those of the whole batch, also if it is sharded over devices under `jax.jit`. They and the
    parameters are float32. Their variance is computed in two passes and stored without Bessel's correction.

    Attributes:
        width: Number of output channels.
        kernel: Kernel size (frames, rows, columns).
        stride: Stride (frames, rows, columns).
        zero_scale: Whether the BatchNorm's scale starts at zero.
        dtype: Dtype of the computation.
    """

    width: int
    kernel: Sizes
    stride: Sizes = (1, 1, 1)
    zero_scale: bool = False
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B T H W C"], *, train: bool) -> Float[Array, "B t h w c"]:
        x = nn.Conv(
            self.width,
            self.kernel,
            self.stride,
            padding=[(size // 2, size // 2) for size in self.kernel],
            use_bias=False,
            kernel_init=nn.initializers.variance_scaling(2.0, "fan_out", "normal"),
            dtype=self.dtype,
            name="conv",
        )(x)
        x = nn.BatchNorm(
            use_running_average=not train,
            momentum=0.9,
            epsilon=1e-5,
            use_fast_variance=False,
            scale_init=nn.initializers.zeros if self.zero_scale else nn.initializers.ones,
            dtype=jnp.float32,
            name="bn",
        )(x.astype(jnp.float32))
        return x.astype(self.dtype)


class Bottleneck(nn.Module):
    """Residual block: a temporal, a spatial and a pointwise convolution.

    The last BatchNorm's scale starts at zero, so that a new block computes only its shortcut. Only the first
    block of a stage, which changes the width, has a projected shortcut.

    Attributes:
        width: Inner width; the output is `EXPANSION` times as wide.
        kernel: Temporal kernel size of the first convolution.
        stride: Spatial stride of the second convolution and of the shortcut.
        projected: Whether the shortcut is a convolution instead of the identity.
        dtype: Dtype of the computation.
    """

    width: int
    kernel: int
    stride: int = 1
    projected: bool = False
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B T H W C"], *, train: bool) -> Float[Array, "B T h w c"]:
        stride, width = (1, self.stride, self.stride), EXPANSION * self.width
        inner = nn.relu(ConvNorm(self.width, (self.kernel, 1, 1), dtype=self.dtype, name="a")(x, train=train))
        inner = nn.relu(ConvNorm(self.width, (1, 3, 3), stride, dtype=self.dtype, name="b")(inner, train=train))
        inner = ConvNorm(width, (1, 1, 1), zero_scale=True, dtype=self.dtype, name="c")(inner, train=train)
        if self.projected:
            x = ConvNorm(width, (1, 1, 1), stride, dtype=self.dtype, name="shortcut")(x, train=train)
        return nn.relu(x + inner)


_POOL_PADDING: Any = ((0, 0), (1, 1), (1, 1))


class ResidualPathway(nn.Module):
    """Stem and stages of one pathway, which the model runs stage by stage.

    Attributes:
        pathway: Temporal kernel sizes.
        width: Width of the stem.
        depths: Number of blocks per stage.
        dtype: Dtype of the computation.
    """

    pathway: Pathway
    width: int
    depths: tuple[int, ...]
    dtype: Dtype = jnp.float32

    def setup(self) -> None:
        self.stem = ConvNorm(self.width, (self.pathway.stem, 7, 7), (1, 2, 2), dtype=self.dtype)
        for (name, stage), depth, kernels in zip(STAGES.items(), self.depths, self.pathway.stages, strict=True):
            blocks = [
                Bottleneck(
                    stage.width * self.width,
                    kernels[i % len(kernels)],
                    stride=stage.stride if i == 0 else 1,
                    projected=i == 0,
                    dtype=self.dtype,
                )
                for i in range(depth)
            ]
            setattr(self, name, blocks)

    def run_stem(self, video: Float[Array, "B T H W C"], *, train: bool) -> Float[Array, "B T h w c"]:
        """Apply the stem: convolution and max-pooling, each of which halves the resolution."""
        x = nn.relu(self.stem(video, train=train))
        return nn.max_pool(x, (1, 3, 3), (1, 2, 2), _POOL_PADDING)

    def run_stage(self, stage: str, x: Float[Array, "B T H W C"], *, train: bool) -> Float[Array, "B T h w c"]:
        """Apply the blocks of one stage, a key of `STAGES`."""
        for block in getattr(self, stage):
            x = block(x, train=train)
        return x
