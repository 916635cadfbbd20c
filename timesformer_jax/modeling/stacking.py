"""Parameters of `scan_layers=True` (stacked under `blocks`) and of `scan_layers=False` (`blocks_0`, ...), both ways."""

import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from timesformer_jax.errors import InputError

Params = Mapping[str, Any]


def stack_blocks(params: Params) -> dict[str, Any]:
    """Per-block parameters (`blocks_0` ... `blocks_11`) as one tree `blocks` whose arrays have a leading `depth` axis."""
    names = sorted((name for name in params if re.fullmatch(r"blocks_\d+", name)), key=lambda name: int(name[7:]))
    if not names:
        raise InputError(f"Expected per-block parameters blocks_0, blocks_1, ...; got {', '.join(params)}.")
    rest = {name: value for name, value in params.items() if name not in names}
    return {**rest, "blocks": jax.tree.map(lambda *leaves: jnp.stack(leaves), *(params[name] for name in names))}


def unstack_blocks(params: Params) -> dict[str, Any]:
    """The inverse of `stack_blocks`."""
    if "blocks" not in params:
        raise InputError(f"Expected stacked parameters under 'blocks'; got {', '.join(params)}.")
    depth = jax.tree.leaves(params["blocks"])[0].shape[0]
    rest = {name: value for name, value in params.items() if name != "blocks"}
    return {**rest, **{f"blocks_{i}": jax.tree.map(lambda leaf, i=i: leaf[i], params["blocks"]) for i in range(depth)}}
