"""Parameter and multiply-add counts of a model, by arithmetic, without allocating anything."""

import math
from typing import NamedTuple

import jax

from timesformer_jax.cnn3d import ConvNet, count_layer_multiply_adds
from timesformer_jax.errors import InputError
from timesformer_jax.modeling import SCHEMES, TimeSformer, variables_of, weight_shapes
from timesformer_jax.modeling.layers import mlp_width
from timesformer_jax.modeling.schemes import Grouping
from timesformer_jax.variants import create


def count_parameters(model: TimeSformer | ConvNet) -> int:
    """Count the model's parameters, without the statistics of BatchNorm."""
    return sum(leaf.size for leaf in jax.tree.leaves(variables_of(weight_shapes(model))["params"]))


def count_multiply_adds(
    model: TimeSformer | ConvNet, num_frames: int | None = None, image_size: int | None = None, *, for_logits: bool = False
) -> int:
    """Count the multiply-adds of one clip's forward pass.

    By default, counts as the paper does: the patch embedding, every linear layer, queries by keys, weights by values and the
    head, for all tokens of all blocks. The paper's "TFLOPs" (Tables 2 and 5) are this count for three views, divided by
    10^12: 0.59, 5.11 and 7.14 for base, hr and large-frames. For I3D and SlowFast, every tap of a convolution's kernel counts,
    also in the padding; 30 views of 256 px are 1.11 and 1.97. The number of floating-point operations is twice the count.

    Args:
        model: A TimeSformer of any scheme, an I3D or a SlowFast. `scan_layers`, `remat`, and temporal layers
            that are folded or applied as one product, don't affect the count.
        num_frames: Number of frames; the model's own by default.
        image_size: Height and width in pixels; the model's own by default.
        for_logits: Count only what the logits need, which excludes whatever the CLS doesn't depend on in the last block. This
            is 95.0 % of the full count for base at 8 x 224. The FLOPs of training (6 per multiply-add) and the MFU in the log
            are based on it.

    Returns:
        The number of multiply-adds.

    Raises:
        InputError: If `image_size` isn't a whole number of patches.
    """
    frames = model.num_frames if num_frames is None else num_frames
    if isinstance(model, ConvNet):
        return count_layer_multiply_adds(model, frames, (image_size, image_size) if image_size else model.image_sides)
    rows, columns = model.grid
    if image_size is not None:
        if image_size < 1 or image_size % model.patch_size:
            raise InputError(f"image_size must be a multiple of patch_size={model.patch_size}, got {image_size}.")
        rows = columns = image_size // model.patch_size
    sizes, width = (frames, rows, columns), model.embed_dim
    scheme = SCHEMES[model.attention_type]

    def attention(grouping: Grouping, query_layers: int, more_keys: int, queries: int) -> int:
        """Count one attention step: `query_layers` linear layers per query, two per key, and two matrix products."""
        groups = math.prod(rule.count(size) for rule, size in zip(grouping, sizes, strict=True))
        keys = places(grouping) + more_keys
        return groups * ((query_layers * queries + 2 * keys) * width**2 + 2 * queries * keys * width)

    def places(grouping: Grouping) -> int:
        return math.prod(rule.length(size) for rule, size in zip(grouping, sizes, strict=True))

    def mlp(tokens: int) -> int:
        return tokens * 2 * width * mlp_width(width, model.mlp_ratio)

    num_cls = frames if scheme.cls_per_frame else 1
    # Extra steps have one more linear layer; the image transformer's own attention has the CLS as one more token.
    extra_steps = sum(
        attention(grouping, 3, int(model.temporal_cls_key and name == "temporal"), places(grouping))
        for name, grouping in scheme.extra_steps
    )
    block = extra_steps + attention(scheme.groups, 2, 1, places(scheme.groups) + 1) + mlp(math.prod(sizes) + num_cls)
    last_block = block
    if for_logits:
        # Only the CLS is a query and enters the MLP. It depends on the extra steps only if they come first.
        before = extra_steps if model.attention_order == "time_then_space" else 0
        last_block = before + attention(scheme.groups, 2, 1, 1) + mlp(num_cls)
    patch_embedding = math.prod(sizes) * model.num_channels * model.patch_size**2 * width
    return patch_embedding + (model.depth - 1) * block + last_block + width * model.num_classes


class SystemCost(NamedTuple):
    """Row of `systems_table`."""

    name: str
    """A key of `VARIANTS`."""
    num_frames: int
    """Frames per view."""
    image_size: int
    """Height and width of a view in pixels."""
    num_views: int
    """Views per video: clips times crops."""
    parameters: int
    """Number of parameters."""
    multiply_adds: int
    """Multiply-adds of one view's forward pass."""

    @property
    def video_multiply_adds(self) -> int:
        """Multiply-adds of the whole evaluation of a video."""
        return self.num_views * self.multiply_adds


SYSTEMS: dict[str, tuple[int, int]] = {
    "timesformer-base": (224, 3),
    "timesformer-hr": (448, 3),
    "timesformer-large-frames": (224, 3),
    "i3d-8x8-r50": (256, 30),
    "slowfast-8x8-r50": (256, 30),
}
"""Maps the systems of the paper's Table 2 to the image size and the number of views of their evaluation."""


def systems_table(num_classes: int = 400) -> list[SystemCost]:
    """Count the cost of evaluating a video with each of the paper's systems (Table 2)."""
    lines = []
    for name, (size, views) in SYSTEMS.items():
        model = create(name, num_classes=num_classes, **({} if "timesformer" not in name else {"scan_layers": True}))
        counts = count_parameters(model), count_multiply_adds(model, image_size=size)
        lines.append(SystemCost(name, model.num_frames, size, views, *counts))
    return lines


class Cost(NamedTuple):
    """Row of `cost_table`."""

    attention_type: str
    """A key of `SCHEMES`."""
    num_frames: int
    """Frames per clip."""
    image_size: int
    """Height and width in pixels."""
    parameters: int
    """Number of parameters."""
    multiply_adds: int
    """Multiply-adds of one clip's forward pass."""


def cost_table(model: TimeSformer, num_frames: list[int], image_sizes: list[int]) -> list[Cost]:
    """Count every scheme's cost at every number of frames and image size (the paper's Figure 3, for all five schemes)."""
    lines = []
    for attention_type in SCHEMES:
        for size in image_sizes:
            for frames in num_frames:
                made = model.clone(
                    attention_type=attention_type,
                    num_frames=frames,
                    image_size=size,
                    scan_layers=True,
                    attention_implementation="xla",  # a mapping would name another scheme's steps
                )
                lines.append(Cost(attention_type, frames, size, count_parameters(made), count_multiply_adds(made)))
    return lines
