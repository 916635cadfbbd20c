"""Sharding of activations on the mesh, applied from outside the modules.

Divided attention needs little communication between devices that hold different frames of the same clips: spatial attention
and the MLPs stay within a frame, temporal attention stays within a patch position. Tokens are therefore sharded by frame
everywhere except in temporal attention, where they are sharded by position; each change of sharding is one all-to-all. In both
cases the sharded axis is axis 1 of the tokens, which is the frame axis in the block and the group axis in `Attention`.
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
"""Sharding of tokens `[B, T or G, ...]` by frame or group."""
FRAMES: Axes = (BATCH_AXES, None, "context")
"""Sharding of temporal attention's tokens `[B, positions, T, D]` by frame."""

ACTIVATIONS: tuple[tuple[str, tuple[Axes, ...], tuple[Axes, ...]], ...] = (
    (r"patch_embed", (TOKENS,), (TOKENS,)),
    (r"blocks(_\d+)?", (TOKENS,), (TOKENS,)),
    # Both changes of sharding are constrained before and after. Otherwise the compiler shards rows and columns if only their
    # product is divisible by the number of devices (14 x 14 on 4 devices), and then gathers everything.
    (r"blocks(_\d+)?/temporal_norm1", (FRAMES,), (FRAMES, TOKENS)),
    (r"blocks(_\d+)?/temporal_fc", (TOKENS,), (TOKENS, FRAMES)),
    (r"blocks(_\d+)?/(.*_)?norm1", (TOKENS,), (TOKENS,)),
    (r"blocks(_\d+)?/.*_fc", (TOKENS,), (TOKENS,)),
    (r"blocks(_\d+)?/(.*_)?attn", (TOKENS,), (TOKENS,)),
)
"""(pattern of a module's path, shardings of its inputs, shardings of its outputs); constraints are applied in order.

The first match applies. An axis of size 1 (the frames of the CLS token) isn't sharded.
"""


def split_clips(x: jax.Array, mesh: Mesh, axes: Axes = TOKENS) -> jax.Array:
    """Constrain an array's leading axes to be sharded over `axes` of the mesh; axes of size 1 are not sharded."""
    named = tuple(None if size == 1 else axis for axis, size in zip(axes, x.shape, strict=False))
    return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, PartitionSpec(*named)))


@contextlib.contextmanager
def split_activations(mesh: Mesh) -> Iterator[None]:
    """Shard the activations of models traced within the context as in `ACTIVATIONS`."""

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
