"""Sharding of activations on the mesh, applied from outside the modules.

Divided attention needs little communication between devices that hold different frames of the same clips: spatial attention
and the MLPs stay within a frame, temporal attention stays within a patch position. Tokens are therefore sharded by frame
everywhere except in temporal attention, where they are sharded by position; each change of sharding is one all-to-all, of the
step's normalised input and of its output.
"""

import contextlib
import functools
import re
from collections.abc import Callable, Iterator
from typing import Any

import jax
from flax import linen as nn
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from timesformer_jax.modeling.layers import Fork
from timesformer_jax.modeling.per_device import placed_on
from timesformer_jax.training.mesh import BATCH_AXES
from timesformer_jax.training.weights import call_with_whole_weights

Axes = tuple[Any, ...]

TOKENS: Axes = (BATCH_AXES, "context")
"""Sharding of tokens `[B, T, ...]` by frame."""
PLACES: Axes = (BATCH_AXES, None, "context", None)
"""Sharding of temporal attention's tokens `[B, T, N, D]` by position; the CLS `[B, F, D]` has none."""
HEADS: Axes = (BATCH_AXES, "context", None, "tensor", None)
"""Sharding of mixed values `[B, T, N, h, d]` by frame, and of their heads."""
HEADS_AT_PLACES: Axes = (BATCH_AXES, None, "context", "tensor", None)
"""Sharding of temporal attention's mixed values by position, and of their heads."""

ACTIVATIONS: tuple[tuple[str, tuple[Axes, ...], tuple[Axes, ...]], ...] = (
    (r"patch_embed", (TOKENS,), (TOKENS,)),
    (r"blocks(_\d+)?", (TOKENS,), (TOKENS,)),
    # Both changes of sharding are constrained before and after, so that each moves the tokens once and in their own dtype.
    (r"blocks(_\d+)?/temporal_norm1", (TOKENS,), (TOKENS, PLACES)),
    (r"blocks(_\d+)?/temporal_fc", (PLACES, HEADS_AT_PLACES), (PLACES, TOKENS)),
    (r"blocks(_\d+)?/(.*_)?norm1", (TOKENS,), (TOKENS,)),
    (r"blocks(_\d+)?/.*_fc", (TOKENS, HEADS), (TOKENS,)),
    (r"blocks(_\d+)?/(.*_)?attn", (TOKENS,), (TOKENS,)),
)
"""(pattern of a module's path, shardings of its inputs, shardings of its outputs); constraints are applied in order.

The first match applies. An axis of size 1 (the frames of the CLS token) isn't sharded. Arrays of 5 axes take only
a sharding of 5 axes, if there is one.
"""


def split_clips(x: jax.Array, mesh: Mesh, axes: Axes = TOKENS) -> jax.Array:
    """Constrain an array's leading axes to be sharded over `axes` of the mesh; axes of size 1 are not sharded.

    An array with fewer axes than `axes` is returned unconstrained.
    """
    if x.ndim < len(axes):
        return x
    named = tuple(None if size == 1 else axis for axis, size in zip(axes, x.shape, strict=False))
    return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, PartitionSpec(*named)))


AXES = {"clips": BATCH_AXES, "frames": "context", "places": "context", "heads": "tensor"}
"""Mesh axes of the axes that kernels name. Tokens are sharded by frame, or by position where they attend over time."""

GATHERED = r"blocks(_\d+)?|patch_embed|head|(pathway\d|fuse_).*/conv"
"""Pattern of the paths of modules that are called with whole weights, if weights are sharded over `fsdp`."""


@contextlib.contextmanager
def split_activations(mesh: Mesh, *, regather: bool = True) -> Iterator[None]:
    """Shard the activations of models traced within the context as in `ACTIVATIONS`, and gather weights as in `GATHERED`.

    Args:
        mesh: Mesh of the devices.
        regather: Whether the backward pass gathers weights again; unnecessary if the model recomputes its blocks (`remat`).
    """
    calling = set()  # paths of modules that are being called with whole weights

    def split(values: Any, ways: tuple[Axes, ...]) -> Any:
        def one(x: Any) -> Any:
            if getattr(x, "ndim", 0) < 3:  # no tokens
                return x
            by_head = [axes for axes in ways if len(axes) == 5 == x.ndim]
            return functools.reduce(lambda x, axes: split_clips(x, mesh, axes), by_head or ways, x)

        return jax.tree.map(one, values)

    def intercept(call: Callable[..., Any], args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        if context.method_name == "__call__":  # other methods may be called on modules that have no path yet
            path = "/".join(context.module.path)
            sharded = mesh.shape["fsdp"] > 1 and not context.module.is_initializing()
            if sharded and path not in calling and re.fullmatch(GATHERED, path):
                calling.add(path)
                try:
                    return call_with_whole_weights(context.module, mesh, args, kwargs, regather=regather)
                finally:
                    calling.remove(path)
            for pattern, taken, given in ACTIVATIONS:
                if re.fullmatch(pattern, path):
                    outputs = call(*split(args, taken), **kwargs)
                    if isinstance(outputs, Fork):  # the residual stream stays where it is
                        return outputs._replace(branch=split(outputs.branch, given))
                    return split(outputs, given)
        return call(*args, **kwargs)

    with contextlib.nullcontext() if mesh.size == 1 else nn.intercept_methods(intercept), placed_on(mesh, AXES):
        yield
