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


def count_multiply_adds(model: TimeSformer, num_frames: int | None = None, image_size: int | None = None) -> int:
    """Multiply-adds of one forward pass of one clip with all features; the model's own size where none is given.

    For logits alone the last block leaves out some of it, and `fold_for_inference` more: 10 % together at 8 x 224.

    Counted as in the paper: patch embedding, every linear layer, queries by keys, weights by values, the head. Its "TFLOPs"
    (Tables 2 and 5) are these for three views, divided by 10^12: 0.59, 5.11 and 7.14 for base, hr and large-frames. Twice
    the number are the floating-point operations.

    Raises `InputError` for a size that isn't a whole number of patches.
    """
    frames = model.num_frames if num_frames is None else num_frames
    rows, columns = model.grid
    if image_size is not None:
        if image_size < 1 or image_size % model.patch_size:
            raise InputError(f"image_size must be a multiple of patch_size={model.patch_size}, got {image_size}.")
        rows = columns = image_size // model.patch_size
    sizes, width = (frames, rows, columns), model.embed_dim
    scheme = SCHEMES[model.attention_type]

    def attention(grouping: Grouping, query_layers: int, more_queries: int, more_keys: int) -> int:
        """So many linear layers per query (query, projection, ...), two per key (key and value), and the two products."""
        groups = math.prod(rule.count(size) for rule, size in zip(grouping, sizes, strict=True))
        patches = math.prod(rule.length(size) for rule, size in zip(grouping, sizes, strict=True))
        queries, keys = patches + more_queries, patches + more_keys
        return groups * ((query_layers * queries + 2 * keys) * width**2 + 2 * queries * keys * width)

    # An extra step has one more layer, the image model's own attention one more token.
    block = attention(scheme.groups, 2, 1, 1) + sum(
        attention(grouping, 3, 0, int(model.temporal_cls_key and name == "temporal")) for name, grouping in scheme.extra_steps
    )
    tokens = math.prod(sizes) + (frames if scheme.cls_per_frame else 1)
    block += tokens * 2 * width * mlp_width(width, model.mlp_ratio)
    patch_embedding = math.prod(sizes) * model.num_channels * model.patch_size**2 * width
    return patch_embedding + model.depth * block + width * model.num_classes


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
