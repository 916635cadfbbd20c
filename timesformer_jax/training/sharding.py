"""Sharding of parameters and optimizer state, by a table of path patterns applied from outside the modules."""

import logging
import math
import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from timesformer_jax.errors import InputError
from timesformer_jax.modeling import TimeSformer, variables_of
from timesformer_jax.modeling.layers import mlp_width

log = logging.getLogger("timesformer_jax")

Axes = tuple[str | tuple[str, ...] | None, ...]

SHARDING_RULES: tuple[tuple[str, Axes], ...] = (
    # Attention: heads over `tensor`.                          kernel [D, 3, heads, head_dim]
    (r".*attn/qkv/kernel", ("fsdp", None, "tensor", None)),
    (r".*attn/qkv/bias", (None, "tensor", None)),
    (r".*attn/proj/kernel", ("tensor", "fsdp", None)),  # [heads, head_dim, D]
    # The last layer of the additional attention steps; folded ones have [heads, head_dim, D].
    (r".*_fc/kernel", ("fsdp", None)),
    # The MLP: hidden units over `tensor`.
    (r".*mlp/fc1/kernel", ("fsdp", "tensor")),
    (r".*mlp/fc1/bias", ("tensor",)),
    (r".*mlp/fc2/kernel", (("tensor", "fsdp"), None)),
    # Once per model.
    (r"patch_embed/proj/kernel", ("fsdp", None, None, None)),  # [P, P, C, D]
    (r"head/kernel", ("fsdp", None)),
    # Convolutions over time, height and width.
    (r"(pathway\d|fuse_).*/conv/kernel", (None, None, None, "fsdp", None)),  # [t, h, w, C, D]
    # Small arrays: replicated.
    (r".*/(bias|scale)", ()),
    (r"cls_token|pos_embed|time_embed", ()),
)
"""(pattern of a parameter's path, mesh axis or axes of each of its last axes); the first pattern that matches the whole path
applies.

`fsdp` never shards the last axis: TPUs scatter gradients along it only if every shard is a multiple of 128 long, and 768 / 4
isn't.

An optimizer array that belongs to a parameter has the same shape and a path that ends in the parameter's, so it is sharded
alike.
"""


def path_of(keys: Any) -> str:
    """Join the keys of a leaf into a path such as `blocks/attn/qkv/kernel`, for any type of container."""
    return jax.tree_util.keystr(keys, simple=True, separator="/")


def sharding_of(tree: Any, params: Any, mesh: Mesh) -> Any:
    """Sharding of each array of `tree` on the mesh.

    Array axes that aren't divisible by their mesh axis are not sharded.

    Args:
        tree: Parameters, or a state that contains them, as arrays or shapes.
        params: Parameters that provide the paths.
        mesh: Mesh of the devices.

    Raises:
        InputError: If no pattern matches a parameter.
    """
    specs: dict[str, Axes] = {}
    for keys, _ in jax.tree_util.tree_flatten_with_path(params)[0]:
        path = path_of(keys)
        specs[path] = _axes_of(path)

    def sharding(keys: Any, leaf: Any) -> NamedSharding:
        parts = path_of(keys).split("/")
        paths = ("/".join(parts[start:]) for start in range(len(parts)))
        path = next((path for path in paths if path in specs), None)
        if path is None or not leaf.shape:  # counters
            return NamedSharding(mesh, PartitionSpec())
        return NamedSharding(mesh, _fitting(specs[path], leaf.shape, mesh))

    return jax.tree_util.tree_map_with_path(sharding, tree)


def weight_sharding(weights: Any, mesh: Mesh) -> Any:
    """Sharding of each array of a model's weights, or of their shapes: running statistics are replicated."""
    return sharding_of(weights, variables_of(weights)["params"], mesh)


def spec_of(path: str, shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
    """Sharding of a parameter of this path and shape, without the mesh axes that don't divide it."""
    return _fitting(_axes_of(path), shape, mesh)


def _axes_of(path: str) -> Axes:
    for pattern, axes in SHARDING_RULES:
        if re.fullmatch(pattern, path):
            return axes
    raise InputError(f"No pattern of timesformer_jax.training.sharding.SHARDING_RULES matches the parameter {path}: add one.")


def _fitting(axes: Axes, shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
    """Assign mesh axes to the last axes of a shape, except those that don't divide it."""
    whole = (None,) * (len(shape) - len(axes)) + axes[max(len(axes) - len(shape), 0) :]

    def fitting(names: str | tuple[str, ...] | None, size: int) -> Any:
        kept: tuple[str, ...] = ()
        for name in (names,) if isinstance(names, str) else names or ():
            if size % math.prod(mesh.shape[axis] for axis in (*kept, name)) == 0:
                kept += (name,)
        return kept if len(kept) > 1 else kept[0] if kept else None

    return PartitionSpec(*(fitting(names, size) for names, size in zip(whole, shape, strict=True)))


def check_mesh(model: nn.Module, mesh: Mesh) -> None:
    """Raise `InputError` if the mesh can't shard the model's heads, hidden units, frames or patches."""
    tensor, context = mesh.shape["tensor"], mesh.shape["context"]
    if not isinstance(model, TimeSformer):
        for axis, reason in NOT_FOR_CONVOLUTIONS.items():
            if (size := mesh.shape[axis]) > 1:
                kind = type(model).__name__
                raise InputError(f"mesh.{axis}={size} can't split a {kind}, {reason}: use mesh.data or mesh.fsdp.")
        return
    hidden = mlp_width(model.embed_dim, model.mlp_ratio)
    if model.num_heads % tensor or hidden % tensor:
        raise InputError(
            f"mesh.tensor={tensor} must divide the model's {model.num_heads} heads and the MLP's {hidden} hidden units."
        )
    if context == 1:
        return
    if model.attention_type not in CONTEXT_SCHEMES:
        raise InputError(
            f"mesh.context={context} splits a clip's frames, which only {', '.join(CONTEXT_SCHEMES)} support: in "
            f"{model.attention_type} every patch attends to other positions in other frames. Use mesh.context=1."
        )
    rows, columns = model.grid
    if model.num_frames % context or (rows * columns) % context:
        raise InputError(
            f"mesh.context={context} must divide the {model.num_frames} frames and the {rows} x {columns} = {rows * columns} "
            "patches of a frame."
        )


NOT_FOR_CONVOLUTIONS = {
    "tensor": "which has no attention heads",
    "context": "whose convolutions over time read neighbouring frames",
}
"""Maps mesh axes that only a TimeSformer has a use for to the reason."""

CONTEXT_SCHEMES = ("divided_space_time", "space_only", "axial")
"""Values of `attention_type` whose attention steps stay within a frame or within a patch position."""


def sharding_table(params: Any, optimizer_state: Any, mesh: Mesh) -> str:
    """Table of the shardings in use, a line per pattern: mesh axes, number of arrays, MiB in total and per device."""
    lines: dict[str, list[float]] = {}
    leaves = jax.tree_util.tree_flatten_with_path(params)[0]
    shardings = jax.tree.leaves(sharding_of(params, params, mesh))
    for (keys, leaf), sharding in zip(leaves, shardings, strict=True):
        path = path_of(keys)
        pattern = next(pattern for pattern, _ in SHARDING_RULES if re.fullmatch(pattern, path))
        split = [axis for axis in jax.tree.leaves(tuple(sharding.spec)) if mesh.shape[axis] > 1]
        line = lines.setdefault(f"{pattern:32} {' x '.join(split) or 'every device':15}", [0, 0, 0])
        _add(line, leaf, sharding)
    total, rest = [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]
    for line in lines.values():
        total = [a + b for a, b in zip(total, line, strict=True)]
    for leaf, sharding in zip(
        jax.tree.leaves(optimizer_state), jax.tree.leaves(sharding_of(optimizer_state, params, mesh)), strict=True
    ):
        _add(rest, leaf, sharding)
    rows = [(f"{'parameters':32} {'split over':15}", "arrays", "MiB", "per device")]
    rows += [(name, *_figures(line)) for name, line in lines.items()]
    rows += [(f"{'all parameters':48}", *_figures(total)), (f"{'optimizer state':48}", *_figures(rest))]
    return "\n".join(f"{name} {arrays:>7} {whole:>10} {part:>11}" for name, arrays, whole, part in rows)


def _add(line: list[float], leaf: Any, sharding: NamedSharding) -> None:
    size = np.dtype(leaf.dtype).itemsize / 2**20
    for i, value in enumerate((1, np.prod(leaf.shape) * size, np.prod(sharding.shard_shape(leaf.shape)) * size)):
        line[i] += float(value)


def _figures(line: list[float]) -> tuple[str, str, str]:
    return f"{line[0]:.0f}", f"{line[1]:.2f}", f"{line[2]:.2f}"


def describe_mesh(mesh: Mesh) -> str:
    """Describe a mesh for the log, such as `data 4 x context 2`."""
    sizes: Mapping[str, int] = dict(mesh.shape)
    return " x ".join(f"{axis} {size}" for axis, size in sizes.items() if size > 1) or "one device"
