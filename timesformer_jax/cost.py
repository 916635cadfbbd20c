"""What a model costs, by arithmetic: parameters and multiply-adds, nothing is computed or allocated."""

import math
from typing import NamedTuple

import jax

from timesformer_jax.errors import InputError
from timesformer_jax.modeling import SCHEMES, TimeSformer, parameter_shapes
from timesformer_jax.modeling.layers import mlp_width
from timesformer_jax.modeling.schemes import Grouping


def count_parameters(model: TimeSformer) -> int:
    """How many numbers the model's parameters are."""
    return sum(leaf.size for leaf in jax.tree.leaves(parameter_shapes(model)))


def count_multiply_adds(
    model: TimeSformer, num_frames: int | None = None, image_size: int | None = None, *, for_logits: bool = False
) -> int:
    """Multiply-adds of one forward pass of one clip.

    By default counted as in the paper: patch embedding, every linear layer, queries by keys, weights by values, the head, for
    all tokens of all blocks. Its "TFLOPs" (Tables 2 and 5) are these for three views, divided by 10^12: 0.59, 5.11 and 7.14
    for base, hr and large-frames. Twice the number are the floating-point operations.

    Args:
        model: Any scheme; `scan_layers`, `remat` and folded parameters make no difference to the count.
        num_frames: Frames of the clip; the model's own by default.
        image_size: Height and width in pixels; the model's own by default.
        for_logits: Count what logits need, and no more: in the last block only what the CLS depends on, 95.0 % of the whole
            for base at 8 x 224. The FLOPs of training (6 per multiply-add) and the MFU in the log are based on this count.

    Raises:
        InputError: If `image_size` isn't a whole number of patches.
    """
    frames = model.num_frames if num_frames is None else num_frames
    rows, columns = model.grid
    if image_size is not None:
        if image_size < 1 or image_size % model.patch_size:
            raise InputError(f"image_size must be a multiple of patch_size={model.patch_size}, got {image_size}.")
        rows = columns = image_size // model.patch_size
    sizes, width = (frames, rows, columns), model.embed_dim
    scheme = SCHEMES[model.attention_type]

    def attention(grouping: Grouping, query_layers: int, more_keys: int, queries: int) -> int:
        """`query_layers` linear layers per query (query, projection, ...), two per key (key and value), and two products."""
        groups = math.prod(rule.count(size) for rule, size in zip(grouping, sizes, strict=True))
        keys = places(grouping) + more_keys
        return groups * ((query_layers * queries + 2 * keys) * width**2 + 2 * queries * keys * width)

    def places(grouping: Grouping) -> int:
        return math.prod(rule.length(size) for rule, size in zip(grouping, sizes, strict=True))

    def mlp(tokens: int) -> int:
        return tokens * 2 * width * mlp_width(width, model.mlp_ratio)

    num_cls = frames if scheme.cls_per_frame else 1
    # An extra step has one more linear layer than the image model's own attention, which has the CLS as one more token.
    extra_steps = sum(
        attention(grouping, 3, int(model.temporal_cls_key and name == "temporal"), places(grouping))
        for name, grouping in scheme.extra_steps
    )
    block = extra_steps + attention(scheme.groups, 2, 1, places(scheme.groups) + 1) + mlp(math.prod(sizes) + num_cls)
    last_block = block
    if for_logits:
        # Only the CLS queries and goes through the MLP. It sees the extra steps' output only if they come before.
        before = extra_steps if model.attention_order == "time_then_space" else 0
        last_block = before + attention(scheme.groups, 2, 1, 1) + mlp(num_cls)
    patch_embedding = math.prod(sizes) * model.num_channels * model.patch_size**2 * width
    return patch_embedding + (model.depth - 1) * block + last_block + width * model.num_classes


class Cost(NamedTuple):
    """One line of `cost_table`."""

    attention_type: str
    num_frames: int
    image_size: int
    parameters: int
    multiply_adds: int


def cost_table(model: TimeSformer, num_frames: list[int], image_sizes: list[int]) -> list[Cost]:
    """Every scheme at every number of frames and every size: the paper's Figure 3, for all five."""
    lines = []
    for attention_type in SCHEMES:
        for size in image_sizes:
            for frames in num_frames:
                made = model.clone(
                    attention_type=attention_type,
                    num_frames=frames,
                    image_size=size,
                    scan_layers=True,
                    attention_implementation="xla",  # one for each step would name another scheme's steps
                )
                lines.append(Cost(attention_type, frames, size, count_parameters(made), count_multiply_adds(made)))
    return lines
