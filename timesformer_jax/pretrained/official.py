"""The official release's tensor names and layouts, and this model's parameters made from them."""

import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from timesformer_jax.errors import InputError
from timesformer_jax.modeling import TimeSformer, parameter_shapes, stack_blocks


def _same(tensor: np.ndarray, num_heads: int) -> np.ndarray:
    return tensor


def _linear(tensor: np.ndarray, num_heads: int) -> np.ndarray:
    return tensor.T  # [out, in] -> [in, out]


def _convolution(tensor: np.ndarray, num_heads: int) -> np.ndarray:
    return tensor.transpose(2, 3, 1, 0)  # [D, C, P, P] -> [P, P, C, D]


def _qkv_kernel(tensor: np.ndarray, num_heads: int) -> np.ndarray:
    return tensor.T.reshape(tensor.shape[1], 3, num_heads, -1)  # [3 h d, D] -> [D, 3, h, d]


def _qkv_bias(tensor: np.ndarray, num_heads: int) -> np.ndarray:
    return tensor.reshape(3, num_heads, -1)  # [3 h d] -> [3, h, d]


def _proj_kernel(tensor: np.ndarray, num_heads: int) -> np.ndarray:
    return tensor.T.reshape(num_heads, -1, tensor.shape[0])  # [D, h d] -> [h, d, D]


Layout = Callable[[np.ndarray, int], np.ndarray]

OFFICIAL_NAMES: tuple[tuple[str, str, Layout], ...] = (
    (r"(cls_token|pos_embed|time_embed)", r"\1", _same),
    (r"patch_embed\.proj\.weight", r"patch_embed/proj/kernel", _convolution),
    (r"patch_embed\.proj\.bias", r"patch_embed/proj/bias", _same),
    (r"blocks\.(\d+)\.((?:temporal_)?attn)\.qkv\.weight", r"blocks_\1/\2/qkv/kernel", _qkv_kernel),
    (r"blocks\.(\d+)\.((?:temporal_)?attn)\.qkv\.bias", r"blocks_\1/\2/qkv/bias", _qkv_bias),
    (r"blocks\.(\d+)\.((?:temporal_)?attn)\.proj\.weight", r"blocks_\1/\2/proj/kernel", _proj_kernel),
    (r"blocks\.(\d+)\.((?:temporal_)?attn)\.proj\.bias", r"blocks_\1/\2/proj/bias", _same),
    (r"blocks\.(\d+)\.(norm1|norm2|temporal_norm1)\.weight", r"blocks_\1/\2/scale", _same),
    (r"blocks\.(\d+)\.(norm1|norm2|temporal_norm1|temporal_fc)\.bias", r"blocks_\1/\2/bias", _same),
    (r"blocks\.(\d+)\.temporal_fc\.weight", r"blocks_\1/temporal_fc/kernel", _linear),
    (r"blocks\.(\d+)\.mlp\.(fc1|fc2)\.weight", r"blocks_\1/mlp/\2/kernel", _linear),
    (r"blocks\.(\d+)\.mlp\.(fc1|fc2)\.bias", r"blocks_\1/mlp/\2/bias", _same),
    (r"norm\.weight", r"norm/scale", _same),
    (r"norm\.bias", r"norm/bias", _same),
    (r"head\.weight", r"head/kernel", _linear),
    (r"head\.bias", r"head/bias", _same),
)
"""Official name (a prefix `model.` is taken off before), path of ours, layout: exactly one row for every tensor.

Source: state dict of the official `models/vit.py`.
"""


def params_from_official(tensors: Mapping[str, np.ndarray], model: TimeSformer) -> dict[str, Any]:
    """`model`'s parameters from the official state dict `tensors` (name -> array, PyTorch layouts).

    Raises `InputError` that lists at once every tensor with no place in the model, every parameter left unfilled and
    every shape that differs.
    """
    given: dict[str, np.ndarray] = {}
    problems: list[str] = []
    for full_name, tensor in tensors.items():
        name = full_name.removeprefix("model.")
        rows = [(match, path, layout) for pattern, path, layout in OFFICIAL_NAMES if (match := re.fullmatch(pattern, name))]
        if len(rows) != 1:
            problems.append(f"{name} {tensor.shape}: no place in the model")
            continue
        match, path, layout = rows[0]
        try:
            given[match.expand(path)] = layout(np.asarray(tensor), model.num_heads)
        except ValueError:
            problems.append(f"{name} {tensor.shape}: can't be split over {model.num_heads} heads")

    expected = parameter_shapes(model.clone(scan_layers=False))
    paths, treedef = jax.tree_util.tree_flatten_with_path(expected)
    params = []
    for keys, leaf in paths:
        path = "/".join(key.key for key in keys)
        array = given.pop(path, None)
        if array is None:
            problems.append(f"{path} {leaf.shape}: not in the file")
        elif array.shape != leaf.shape:
            problems.append(f"{path}: expected {leaf.shape}, got {array.shape}")
        else:
            params.append(jnp.asarray(array, jnp.float32))
    problems += [f"{path} {array.shape}: no place in the model" for path, array in given.items()]
    if problems:
        raise InputError("These weights don't fit the model: " + "; ".join(problems) + ".")
    params = jax.tree.unflatten(treedef, params)
    return stack_blocks(params) if model.scan_layers else params
