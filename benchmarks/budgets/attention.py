"""Cycles of every scheme's attention steps, with XLA's attention and with our kernels, compiled for a TPU v5e.

Runs in its own process, which prints one line of JSON per step. Imports JAX.
"""

import functools
import json
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.experimental import topologies
from jax.sharding import SingleDeviceSharding

from benchmarks.budgets import programs
from benchmarks.budgets.programs import CLIPS, TOPOLOGY
from timesformer_jax.modeling.attention import Attention
from timesformer_jax.modeling.schemes import SCHEMES, Scheme
from timesformer_jax.planning.hlo import parse_program

FRAMES, GRID, DIM, HEADS = 8, (14, 14), 768, 12
SIZES = FRAMES, *GRID
IMPLEMENTATIONS = "xla", "fused_tpu"


def cycles(scheme: Scheme, step: str, implementation: str) -> int:
    """Compile projections, attention and output projection of one step, forward and backward, and return the cycles."""
    device = topologies.get_topology_desc(platform="tpu", topology_name=TOPOLOGY).devices[0]
    shape = functools.partial(jax.ShapeDtypeStruct, sharding=SingleDeviceSharding(device))
    init = nn.initializers.zeros
    attention = Attention(DIM, HEADS, kernel_init=init, dtype=jnp.bfloat16, implementation=implementation)
    patches = shape((CLIPS, FRAMES, GRID[0] * GRID[1], DIM), jnp.bfloat16)
    cls = shape((CLIPS, FRAMES if scheme.cls_per_frame else 1, DIM), jnp.bfloat16) if step == scheme.name else None

    def attend(attention: Attention, patches: Any, cls: Any) -> Any:
        mixed, _ = attention.mix(patches, cls=cls, grouping=scheme.steps[step], sizes=SIZES)
        return [attention.project(each) for each in mixed if each is not None]

    apply: Any = nn.apply(attend, attention)
    variables = jax.eval_shape(nn.init(attend, attention), jax.random.key(0), patches, cls)
    variables = jax.tree.map(lambda x: shape(x.shape, x.dtype), variables)

    def both_passes(variables: Any, patches: Any, cls: Any, gradients: Any) -> Any:
        results, backward = jax.vjp(apply, variables, patches, cls)
        return results, backward(gradients)

    gradients = jax.tree.map(lambda x: shape(x.shape, x.dtype), jax.eval_shape(apply, variables, patches, cls))
    compiled: Any = jax.jit(both_passes).lower(variables, patches, cls, gradients).compile()
    return round(programs.cycles(parse_program(compiled.as_text())))


def main() -> None:
    """Print the cycles of each step."""
    for name, scheme in SCHEMES.items():
        for step, grouping in scheme.steps.items():
            count, length = grouping.shape(SIZES)
            found = {each: cycles(scheme, step, each) for each in IMPLEMENTATIONS}
            print(json.dumps({"scheme": name, "step": step, "groups": count, "tokens": length, **found}), flush=True)


if __name__ == "__main__":
    main()
