"""Stacked parameters (`blocks`, for `scan_layers=True`), per-block parameters (`blocks_0`, ...), and the loop over blocks."""

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from timesformer_jax._typing import Array, Float
from timesformer_jax.errors import InputError
from timesformer_jax.modeling.attention import WATCHED
from timesformer_jax.modeling.block import BlockOutput

Params = Mapping[str, Any]

STACKED = ("params", WATCHED)
"""Collections with one entry per block."""


def stack_blocks(params: Params) -> dict[str, Any]:
    """Stack per-block parameters (`blocks_0` ... `blocks_11`) into one tree `blocks` of arrays with a leading `depth` axis.

    Raises `InputError` if there are no per-block parameters.
    """
    names = sorted((name for name in params if re.fullmatch(r"blocks_\d+", name)), key=lambda name: int(name[7:]))
    if not names:
        raise InputError(f"Expected per-block parameters blocks_0, blocks_1, ...; got {', '.join(params)}.")
    rest = {name: value for name, value in params.items() if name not in names}
    return {**rest, "blocks": jax.tree.map(lambda *leaves: _stack(leaves), *(params[name] for name in names))}


def _stack(leaves: Sequence[Any]) -> Any:
    """Stack arrays along a new first axis; NumPy arrays stay on the host."""
    return np.stack(leaves) if all(isinstance(leaf, np.ndarray) for leaf in leaves) else jnp.stack(leaves)


def unstack_blocks(params: Params) -> dict[str, Any]:
    """Invert `stack_blocks`.

    Raises `InputError` if the parameters are not stacked.
    """
    if "blocks" not in params:
        raise InputError(f"Expected stacked parameters under 'blocks'; got {', '.join(params)}.")
    depth = jax.tree.leaves(params["blocks"])[0].shape[0]
    rest = {name: value for name, value in params.items() if name != "blocks"}
    return {**rest, **{f"blocks_{i}": jax.tree.map(lambda leaf, i=i: leaf[i], params["blocks"]) for i in range(depth)}}


def run_blocks(
    run: Callable[[Any, tuple[Array, Array], Array], tuple[BlockOutput, Any]],
    run_last: Callable[[Any, tuple[Array, Array], Array], tuple[BlockOutput, Any]],
    blocks: Any,
    tokens: tuple[Array, Array],
    rates: Float[Array, "depth"],
    *,
    policy: Callable | None,
) -> tuple[BlockOutput, Any]:
    """Call `(output, kept) = run(block, (cls, patches), rate)` for every block but the last, and `run_last` for the last.

    Args:
        run: Applies a block to its tokens, at a given stochastic depth rate.
        run_last: Applies the last block.
        blocks: A list of modules, or one module with stacked parameters.
        tokens: The CLS and patches that enter the first block.
        rates: Stochastic depth rate of each block.
        policy: A policy of `jax.checkpoint_policies` for each block; None to save everything for the backward pass.

    Returns:
        The last block's output, and the values `kept` of all calls, stacked along a new first axis.
    """
    scanned, depth = isinstance(blocks, nn.Module), len(rates)

    def remat(call: Callable, *, prevent_cse: bool = True) -> Callable:
        return call if policy is None else nn.remat(call, policy=policy, prevent_cse=prevent_cse)

    if not scanned:
        every = []
        for i, block in enumerate(blocks):
            output, kept = remat(run if i < depth - 1 else run_last)(block, tokens, rates[i])
            tokens = output.cls, output.patches
            every.append(kept)
        return output, jax.tree.map(lambda *leaves: jnp.stack(leaves), *every)

    def step(block: nn.Module, tokens: Any, rate: Array) -> tuple[Any, Any]:
        output, kept = remat(run, prevent_cse=False)(block, tokens, rate)  # CSE can't merge a loop's two passes anyway
        return (output.cls, output.patches), kept

    def scan(length: int) -> Callable:
        return nn.scan(
            step, variable_axes=dict.fromkeys(STACKED, 0), split_rngs={"params": True, "dropout": True}, length=length
        )

    def with_part(call: Callable, which: int | slice) -> Callable:
        part = functools.partial(jax.tree.map, lambda leaf: leaf[which])
        return nn.map_variables(call, STACKED, trans_in_fn=part)

    if blocks.is_initializing():  # initialize all blocks' parameters in one scan
        scan(depth)(blocks, tokens, rates)
    tokens, others = with_part(scan(depth - 1), slice(-1))(blocks, tokens, rates[:-1])
    output, kept = with_part(remat(run_last), -1)(blocks, tokens, rates[-1])
    return output, jax.tree.map(lambda some, one: jnp.concatenate([some, one[None]]), others, kept)
