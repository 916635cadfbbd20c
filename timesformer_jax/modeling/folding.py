"""Two linear layers in a row are one: an extra attention step's projection and the layer that ends it (`temporal_fc`)."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from timesformer_jax._typing import Array
from timesformer_jax.errors import InputError

Params = Mapping[str, Any]


def fold_for_inference(params: Params) -> dict[str, Any]:
    """The same function with fewer multiply-adds: the parameters of a `TimeSformer`, for the same `model.apply`.

    Each `<name>_attn/proj` is multiplied into `<name>_fc`, whose kernel becomes `[heads, head_dim, D]`. Between the two stands
    nothing but, in training, stochastic depth and dropout: folded parameters are refused there. Stacked and per-block
    parameters will do; a scheme without extra steps has nothing to fold and comes back as it is.

    Raises `InputError` for a tree without blocks.
    """
    if not any(name.startswith("blocks") for name in params):
        raise InputError(f'Expected a model\'s parameters, variables["params"], with its blocks; got {", ".join(params)}.')
    return {name: _fold_block(value) if name.startswith("blocks") else value for name, value in params.items()}


def _fold_block(block: Params) -> dict[str, Any]:
    folded = dict(block)
    for name in [name.removesuffix("_fc") for name in block if name.endswith("_fc")]:
        attention = dict(block[f"{name}_attn"])
        if "proj" not in attention:  # folded already
            continue
        folded[f"{name}_attn"] = attention
        folded[f"{name}_fc"] = _compose(attention.pop("proj"), block[f"{name}_fc"])
    return folded


def _compose(first: Params, second: Params) -> dict[str, Array]:
    """y = (x A + a) B + b = x (A B) + (a B + b); in full precision, since it is done once."""
    kernel = jnp.einsum("...hdk,...kD->...hdD", first["kernel"], second["kernel"], precision="highest")
    bias = jnp.einsum("...k,...kD->...D", first["bias"], second["kernel"], precision="highest") + second["bias"]
    return {"kernel": kernel, "bias": bias}
