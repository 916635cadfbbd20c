"""I3D and SlowFast as Flax modules, from pixels to logits."""

import math
from collections.abc import Sequence
from numbers import Integral
from typing import Any, ClassVar, NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.typing import Dtype

from timesformer_jax._typing import Array, Float
from timesformer_jax.checks import check_choice, check_whole
from timesformer_jax.cnn3d.head import MEAN_LOGITS, pool_windows
from timesformer_jax.cnn3d.layers import ConvNorm, ResidualPathway
from timesformer_jax.cnn3d.stages import FAST, INFLATED, SLOW, STAGES, Pathway
from timesformer_jax.errors import InputError

REDUCTION = 32
"""Pixels per row or column of the last feature maps."""


class ConvFeatures(NamedTuple):
    """Features of a batch of clips."""

    clip: Float[Array, "B D"]
    """Mean of all feature maps over time and space, concatenated: the classifier's input in training."""
    maps: tuple[Float[Array, "B T h w C"], ...]
    """Last feature maps of each pathway, after the ReLU."""


class ConvNet(nn.Module):
    """Base class of `I3D` and `SlowFast`: fields, head and features.

    Maps normalised video `[B, T, H, W, 3]` to float32 logits `[B, num_classes]`. The variables are `{"params": ...,
    "batch_stats": ...}`. With `train=True`, BatchNorm uses the statistics of the batch, `apply` needs `mutable=["batch_stats"]`
    to return the updated running ones, and `rngs={"dropout": key}` if `dropout_rate` is positive.

    In training, the classifier reads the mean of each feature map. In evaluation it is fully convolutional: it is applied to
    the mean of every window as large as the training crop's feature map, and the probabilities of all windows are averaged. The
    returned logits have this mean as their softmax (or sigmoid), so that views are averaged as for any other model. For frames
    of `image_size` there is one window, and the logits are the classifier's output.

    Attributes:
        num_classes: Number of classes.
        num_frames: Frames per clip; clips of other lengths are accepted.
        image_size: Size in pixels of the training crops, an int or (height, width). Determines the windows of the evaluation.
        width: Number of channels of the first convolution; 64 is the ResNet-50's.
        depths: Number of blocks in each of the four stages.
        dropout_rate: Dropout rate of the classifier's input, in [0, 1).
        objective: "softmax" or "sigmoid", the probabilities that are averaged over windows in evaluation.
        dtype: Dtype of the computation. Parameters, statistics and logits stay float32.

    Raises:
        InputError: If a field or the video is invalid.
    """

    num_classes: int
    num_frames: int = 8
    image_size: int | Sequence[int] = 224
    width: int = 64
    depths: Sequence[int] = (3, 4, 6, 3)
    dropout_rate: float = 0.5
    objective: str = "softmax"
    dtype: Dtype = jnp.float32

    pathways: ClassVar[tuple[Pathway, ...]]

    def __post_init__(self) -> None:
        for name in ("image_size", "depths"):  # hashable, so that a model can be a static argument of `jax.jit`
            if isinstance(getattr(self, name), list):
                object.__setattr__(self, name, tuple(getattr(self, name)))
        for name in self._whole_numbers:
            check_whole(name, getattr(self, name))
        if not _are_counts(self.depths, len(STAGES)):
            raise InputError(f"depths must be {len(STAGES)} whole numbers of at least 1, got {self.depths!r}.")
        if not _are_counts(self.image_sides, 2):
            raise InputError(f"image_size must be an int or (height, width), in pixels, got {self.image_size!r}.")
        if not 0 <= self.dropout_rate < 1:
            raise InputError(f"dropout_rate must be at least 0 and below 1, got {self.dropout_rate}.")
        check_choice("objective", self.objective, MEAN_LOGITS)
        self._check_frames("num_frames", self.num_frames)
        super().__post_init__()

    @property
    def _whole_numbers(self) -> tuple[str, ...]:
        return "num_classes", "num_frames", "width"

    @property
    def image_sides(self) -> tuple[int, int]:
        """Height and width of `image_size`."""
        sides: Any = (self.image_size,) * 2 if isinstance(self.image_size, Integral) else self.image_size
        return sides

    @property
    def window(self) -> tuple[int, int]:
        """Rows and columns of the feature maps of a training crop."""
        height, width = self.image_sides
        return math.ceil(height / REDUCTION), math.ceil(width / REDUCTION)

    @property
    def widths(self) -> tuple[int, ...]:
        """Width of the stem of each pathway."""
        return (self.width,)

    def setup(self) -> None:
        for i, (pathway, width) in enumerate(zip(self.pathways, self.widths, strict=True)):
            setattr(self, f"pathway{i}", ResidualPathway(pathway, width, tuple(self.depths), self.dtype))
        self.dropout = nn.Dropout(self.dropout_rate)
        self.head = nn.Dense(self.num_classes, kernel_init=nn.initializers.normal(0.01), dtype=jnp.float32)

    def __call__(self, video: Float[Array, "B T H W C"], *, train: bool = False) -> Float[Array, "B classes"]:
        """Classify a batch of clips.

        Args:
            video: Normalised clips, floating-point.
            train: Whether dropout applies and BatchNorm uses the statistics of the batch.

        Returns:
            Logits in float32; see the class for their meaning in evaluation.
        """
        maps = self._run(video, train=train)
        return self.classify(maps, train=train)

    def features(self, video: Float[Array, "B T H W C"], *, train: bool = False) -> ConvFeatures:
        """Compute the features of a batch of clips, without the classifier."""
        maps = self._run(video, train=train)
        return ConvFeatures(_pool(maps, None)[:, 0], maps)

    def classify(self, maps: Sequence[Float[Array, "B _ _ _ _"]], *, train: bool = False) -> Float[Array, "B classes"]:
        """Compute the logits of the last feature maps."""
        pooled = self.dropout(_pool(maps, None if train else self.window), deterministic=not train)
        logits = self.head(pooled)
        return logits[:, 0] if logits.shape[1] == 1 else MEAN_LOGITS[self.objective](logits)

    def _run(self, video: Float[Array, "B T H W C"], *, train: bool) -> tuple[Array, ...]:
        if video.ndim != 5 or video.shape[-1] != 3 or 0 in video.shape:
            raise InputError(f"The video must be [batch, frames, height, width, 3] with no empty axis, got {video.shape}.")
        if not jnp.issubdtype(video.dtype, jnp.floating):
            raise InputError(
                f"The video must be normalised floats, got {jnp.dtype(video.dtype).name}: see timesformer_jax.video.normalize."
            )
        self._check_frames("The video's number of frames", video.shape[1])
        return self._run_pathways(video.astype(self.dtype), train=train)

    def _check_frames(self, name: str, frames: int) -> None:
        """Raise `InputError` if the model can't compute clips of this many frames."""
        raise NotImplementedError

    def _run_pathways(self, video: Array, *, train: bool) -> tuple[Array, ...]:
        """Return the last feature maps of each pathway."""
        raise NotImplementedError


class I3D(ConvNet):
    """I3D with a ResNet, "I3D 8x8 R50" by default: temporal convolutions in about half of the blocks.

    See `ConvNet` for inputs, outputs and fields.

    Source: Carreira and Zisserman, "Quo Vadis, Action Recognition?", CVPR 2017, with the ResNet of Wang et al., "Non-local
    Neural Networks", CVPR 2018, as published in PySlowFast's model zoo (`I3D_8x8_R50`).
    """

    pathways: ClassVar[tuple[Pathway, ...]] = (INFLATED,)

    def _check_frames(self, name: str, frames: int) -> None:
        if frames < 2:
            raise InputError(f"{name} must be at least 2 for I3D, which pools pairs of frames, got {frames}.")

    def _run_pathways(self, video: Array, *, train: bool) -> tuple[Array, ...]:
        x = self.pathway0.run_stem(video, train=train)
        for stage in STAGES:
            x = self.pathway0.run_stage(stage, x, train=train)
            if stage == "res2":
                x = nn.max_pool(x, (2, 1, 1), (2, 1, 1))
        return (x,)


class SlowFast(ConvNet):
    """SlowFast with ResNets, "SlowFast 8x8 R50" by default: a slow and wide pathway beside a fast and narrow one.

    The model samples the slow pathway's frames from the clip. See `ConvNet` for inputs, outputs and further fields. The number
    of frames is a multiple of `alpha`.

    Source: Feichtenhofer et al., "SlowFast Networks for Video Recognition", ICCV 2019; PySlowFast, `SLOWFAST_8x8_R50`.

    Attributes:
        alpha: Frames of the fast pathway per frame of the slow one.
        beta_inv: Channels of the slow pathway per channel of the fast one; divides `width`.
    """

    num_frames: int = 32
    alpha: int = 4
    beta_inv: int = 8

    pathways: ClassVar[tuple[Pathway, ...]] = (SLOW, FAST)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.width % self.beta_inv:
            smaller = max(1, self.width // self.beta_inv) * self.beta_inv
            raise InputError(
                f"width must be a multiple of beta_inv={self.beta_inv}, got {self.width}: use {smaller} or "
                f"{smaller + self.beta_inv}."
            )

    @property
    def _whole_numbers(self) -> tuple[str, ...]:
        return *super()._whole_numbers, "alpha", "beta_inv"

    @property
    def widths(self) -> tuple[int, ...]:
        """Width of the stem of each pathway."""
        return self.width, self.width // self.beta_inv

    def setup(self) -> None:
        super().setup()
        fast = self.widths[1]
        for stage, channels in zip(FUSED, (fast, *(4 * fast * STAGES[stage].width for stage in FUSED[1:])), strict=True):
            setattr(self, f"fuse_{stage}", ConvNorm(2 * channels, (7, 1, 1), (self.alpha, 1, 1), dtype=self.dtype))

    def _check_frames(self, name: str, frames: int) -> None:
        if frames % self.alpha:
            smaller = max(1, frames // self.alpha) * self.alpha
            raise InputError(
                f"{name} must be a multiple of alpha={self.alpha} for SlowFast, got {frames}: use {smaller} or "
                f"{smaller + self.alpha}."
            )

    def _run_pathways(self, video: Array, *, train: bool) -> tuple[Array, ...]:
        slow = self.pathway0.run_stem(video[:, slow_frames(video.shape[1], self.alpha)], train=train)
        fast = self.pathway1.run_stem(video, train=train)
        slow = self._fuse("stem", slow, fast, train=train)
        for stage in STAGES:
            slow = self.pathway0.run_stage(stage, slow, train=train)
            fast = self.pathway1.run_stage(stage, fast, train=train)
            if stage in FUSED:
                slow = self._fuse(stage, slow, fast, train=train)
        return slow, fast

    def _fuse(self, place: str, slow: Array, fast: Array, *, train: bool) -> Array:
        """Append the fast pathway's features, at the slow pathway's frame rate, to the slow one's."""
        return jnp.concatenate([slow, nn.relu(getattr(self, f"fuse_{place}")(fast, train=train))], axis=-1)


FUSED = ("stem", "res2", "res3", "res4")
"""Places after which the fast pathway is fused into the slow one."""


def slow_frames(num_frames: int, alpha: int) -> np.ndarray:
    """Return the frames of the slow pathway: evenly spaced from the first to the last, rounded down.

    0, 4, 8, 13, 17, 22, 26 and 31 of 32 frames, as in PySlowFast, rather than every fourth.
    """
    return np.linspace(0, num_frames - 1, num_frames // alpha).astype(int)


CONVNETS: dict[str, type[ConvNet]] = {"i3d": I3D, "slowfast": SlowFast}
"""Maps the name of an architecture to its class."""


def _pool(maps: Sequence[Array], window: tuple[int, int] | None) -> Float[Array, "B places D"]:
    """Average each map over windows, or over all places if `window` is None, and concatenate their channels."""
    return jnp.concatenate([pool_windows(x, window or (x.shape[2], x.shape[3])) for x in maps], axis=-1)


def _are_counts(values: Any, length: int) -> bool:
    if not isinstance(values, Sequence) or len(values) != length:
        return False
    return all(isinstance(value, Integral) and int(value) >= 1 for value in values)
