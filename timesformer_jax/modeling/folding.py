"""Folding of an extra attention step's projection into the linear layer that follows it (`temporal_fc`)."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from timesformer_jax._typing import Array, Float
from timesformer_jax.errors import InputError

Params = Mapping[str, Any]


def fold_for_inference(params: Params) -> dict[str, Any]:
    """Fold a `TimeSformer`'s parameters, so that the same `model.apply` gives the same outputs with fewer multiply-adds.

    Each `<name>_attn/proj` is multiplied into `<name>_fc`, whose kernel becomes `[heads, head_dim, D]`. In training,
    stochastic depth and dropout act between the two layers, so a model refuses to train with folded parameters. Stacked and
    per-block parameters are both accepted. Parameters of a scheme without extra steps are returned unchanged.

    Raises `InputError` if the tree has no blocks.
    """
    if not any(name.startswith("blocks") for name in params):
        raise InputError(f'Expected a model\'s parameters, variables["params"], with its blocks; got {", ".join(params)}.')
    return {name: _fold_block(value) if name.startswith("blocks") else value for name, value in params.items()}


def _fold_block(block: Params) -> dict[str, Any]:
    folded = dict(block)
    for name in [name.removesuffix("_fc") for name in block if name.endswith("_fc")]:
        attention = dict(block[f"{name}_attn"])
        if "proj" not in attention:  # already folded
            continue
        folded[f"{name}_attn"] = attention
        folded[f"{name}_fc"] = _compose(attention.pop("proj"), block[f"{name}_fc"])
    return folded


def _compose(first: Params, second: Params) -> dict[str, Array]:
    """Compose two linear layers: (x A + a) B + b = x (A B) + (a B + b)."""
    kernel, bias = compose(first["kernel"], first["bias"], second["kernel"])
    return {"kernel": kernel.reshape(*first["kernel"].shape[:-1], -1), "bias": bias + second["bias"]}


def compose(
    kernel: Float[Any, "*blocks h d k"], bias: Float[Any, "*blocks k"], second: Float[Any, "*blocks k D"]
) -> tuple[Float[Array, "*blocks hd D"], Float[Array, "*blocks D"]]:
    """Return A B and a B for a projection of heads (A, a) and the kernel B of the layer that follows it, in full precision."""
    matrix = kernel.reshape(*kernel.shape[:-3], -1, kernel.shape[-1])
    return (
        jnp.matmul(matrix, second, precision="highest"),
        jnp.einsum("...k,...kD->...D", bias, second, precision="highest"),
    )
