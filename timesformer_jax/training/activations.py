"""Where a model's arrays live while it computes, told from outside: the modules hold no word of it.

Divided attention needs little talk between devices that hold different frames of the same clips: attention in space and
the MLPs stay within a frame, attention in time stays within a place. So tokens are split by frame everywhere but in temporal
attention, where they are split by place, and each change is one all-to-all. In both, what is split is axis 1 of the tokens,
which counts frames in the block and groups in `Attention`.
"""

import contextlib
import functools
import re
from collections.abc import Callable, Iterator
from typing import Any

import jax
from flax import linen as nn
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from timesformer_jax.training.mesh import BATCH_AXES

Axes = tuple[Any, ...]

TOKENS: Axes = (BATCH_AXES, "context")
"""`[B, T or G, ...]`"""
FRAMES: Axes = (BATCH_AXES, None, "context")
"""`[B, places, T, D]`: as temporal attention has its tokens, still split by frame."""

ACTIVATIONS: tuple[tuple[str, tuple[Axes, ...], tuple[Axes, ...]], ...] = (
    (r"patch_embed", (TOKENS,), (TOKENS,)),
    (r"blocks(_\d+)?", (TOKENS,), (TOKENS,)),
    # The two changes of place are said on both sides: left to itself, the compiler splits rows and columns where the number
    # of places divides and theirs don't (14 x 14 on 4 devices), and then gathers everything.
    (r"blocks(_\d+)?/temporal_norm1", (FRAMES,), (FRAMES, TOKENS)),
    (r"blocks(_\d+)?/temporal_fc", (TOKENS,), (TOKENS, FRAMES)),
    (r"blocks(_\d+)?/(.*_)?norm1", (TOKENS,), (TOKENS,)),
    (r"blocks(_\d+)?/.*_fc", (TOKENS,), (TOKENS,)),
    (r"blocks(_\d+)?/(.*_)?attn", (TOKENS,), (TOKENS,)),
)
"""Pattern of a module's path -> how the arrays that it takes are split, and those that it gives, one way after the other.

The first match counts. An axis with one entry (the CLS's frames) isn't split.
"""


def split_clips(x: jax.Array, mesh: Mesh, axes: Axes = TOKENS) -> jax.Array:
    """The same array, its first axes split over these axes of the mesh; those of size 1 stay whole."""
    named = tuple(None if size == 1 else axis for axis, size in zip(axes, x.shape, strict=False))
    return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, PartitionSpec(*named)))


@contextlib.contextmanager
def split_activations(mesh: Mesh) -> Iterator[None]:
    """Within, a model that is traced has its arrays split as `ACTIVATIONS` says."""

    def split(values: Any, ways: tuple[Axes, ...]) -> Any:
        def one(x: Any) -> Any:
            if getattr(x, "ndim", 0) < 3:  # no tokens
                return x
            return functools.reduce(lambda x, axes: split_clips(x, mesh, axes), ways, x)

        return jax.tree.map(one, values)

    def intercept(call: Callable[..., Any], args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        path = "/".join(context.module.path)
        if context.method_name == "__call__":
            for pattern, taken, given in ACTIVATIONS:
                if re.fullmatch(pattern, path):
                    return split(call(*split(args, taken), **kwargs), given)
        return call(*args, **kwargs)

    if mesh.size == 1:
        yield
        return
    with nn.intercept_methods(intercept):
        yield
