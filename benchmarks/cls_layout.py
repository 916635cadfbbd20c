"""Speed of two layouts of the CLS token: in a separate array, or in front of every frame's patches.

    python benchmarks/cls_layout.py [--blocks 4] [--rounds 7]

Runs blocks of divided attention of base width on 8 frames of 14 x 14 patches, forward and backward, alternating between the
layouts. `own` is the library's block: patches `[B, T, N, D]` and a CLS `[B, 1, D]`, which is concatenated to each frame for
spatial attention. `riding` carries `[B, T, 1 + h w, D]` through every block. It needs no concatenation, but temporal attention
must skip the CLS, its copies must be averaged after each block, and the MLP processes every copy. The outputs of both are
checked to be equal.
"""

import argparse
import functools
import statistics
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import jax
import jax.numpy as jnp
from flax import linen as nn

import timesformer_jax as tsf
from timesformer_jax.modeling.attention import Attention
from timesformer_jax.modeling.block import Block
from timesformer_jax.modeling.layers import LayerNorm, Mlp

WIDTH, HEADS, FRAMES, SIDE = 768, 12, 8, 14
INIT = nn.initializers.xavier_uniform()


class RidingBlock(nn.Module):
    """Block with the library's parameters and the CLS in every frame, `[B, T, 1 + N, D] -> [B, T, 1 + N, D]`.

    The CLS tokens of all frames are equal.
    """

    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        def attend(name: str, x: jax.Array) -> jax.Array:
            return Attention(x.shape[-1], HEADS, kernel_init=INIT, dtype=self.dtype, name=name)(x)[0]

        places = x[:, :, 1:].swapaxes(1, 2)  # [B, T, N, D] -> [B, N, T, D]
        residual = attend("temporal_attn", LayerNorm(name="temporal_norm1")(places))
        residual = nn.Dense(WIDTH, kernel_init=INIT, dtype=self.dtype, name="temporal_fc")(residual).swapaxes(1, 2)
        x = x + jnp.pad(residual, ((0, 0), (0, 0), (1, 0), (0, 0)))
        residual = attend("attn", LayerNorm(name="norm1")(x))
        cls = jnp.broadcast_to(residual[:, :, :1].mean(axis=1, keepdims=True), residual[:, :, :1].shape)
        x = x + jnp.concatenate([cls, residual[:, :, 1:]], axis=2)
        return x + Mlp(4 * WIDTH, kernel_init=INIT, dtype=self.dtype, name="mlp")(LayerNorm(name="norm2")(x))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batch-size", type=int, default=2)
    arguments = parser.parse_args()
    dtype = jnp.bfloat16 if jax.default_backend() == "gpu" else jnp.float32
    base = tsf.create("timesformer-base", num_classes=1, initialization="from_scratch", dtype=dtype)
    own = Block(**base.block_fields)
    riding = RidingBlock(dtype)
    keys = jax.random.split(jax.random.key(0), arguments.blocks + 2)
    cls = jax.random.normal(keys[0], (arguments.batch_size, 1, WIDTH), dtype)
    patches = jax.random.normal(keys[1], (arguments.batch_size, FRAMES, SIDE * SIDE, WIDTH), dtype)
    grid = SIDE, SIDE
    params = [jax.jit(functools.partial(own.init, grid=grid))(key, cls, patches) for key in keys[2:]]

    def run_own(params: Any, cls: jax.Array, patches: jax.Array) -> jax.Array:
        for block in params:
            cls, patches, *_ = own.apply(block, cls, patches, grid=grid)
        return jnp.concatenate([cls, patches.reshape(*cls.shape[:1], -1, WIDTH)], axis=1)

    def run_riding(params: Any, cls: jax.Array, patches: jax.Array) -> jax.Array:
        copies = jnp.broadcast_to(cls[:, None], (cls.shape[0], FRAMES, 1, WIDTH))
        x = jnp.concatenate([copies, patches.reshape(*patches.shape[:2], -1, WIDTH)], axis=2)
        for block in params:
            x = riding.apply(block, x)
        return jnp.concatenate([x[:, 0, :1], x[:, :, 1:].reshape(cls.shape[0], -1, WIDTH)], axis=1)

    def gradient(run: Any) -> Any:
        return jax.grad(lambda *given: (run(*given).astype(jnp.float32) ** 2).mean())

    contenders = {
        (what, layout): jax.jit(run if what == "forward" else gradient(run))
        for what in ("forward", "gradient")
        for layout, run in (("own", run_own), ("riding", run_riding))
    }
    outputs = [jax.block_until_ready(contenders["forward", layout](params, cls, patches)) for layout in ("own", "riding")]
    difference = float(jnp.abs(outputs[0] - outputs[1]).max() / jnp.abs(outputs[0]).max())
    assert difference < (1e-4 if dtype == jnp.float32 else 0.1), f"The two layouts differ by {difference}."
    seconds: dict[tuple[str, str], list[float]] = {name: [] for name in contenders}
    for _ in range(arguments.rounds):
        for name, run in contenders.items():
            jax.block_until_ready(run(params, cls, patches))  # compiles, and reclaims memory that the others used
            begin = time.perf_counter()
            jax.block_until_ready(run(params, cls, patches))
            seconds[name].append(time.perf_counter() - begin)
    print(f"{arguments.blocks} blocks of divided attention, base, {FRAMES} x {SIDE} x {SIDE}, batch {arguments.batch_size},")
    print(
        f"{dtype.__name__}, {arguments.rounds} rounds, median seconds; outputs differ by {difference:.0e} of the largest value"
    )
    print(f"{'':<10}{'own':>9}{'riding':>9}{'own/riding':>12}")
    for what in ("forward", "gradient"):
        a, b = (statistics.median(seconds[what, layout]) for layout in ("own", "riding"))
        print(f"{what:<10}{a:>9.3f}{b:>9.3f}{a / b:>12.2f}")


if __name__ == "__main__":
    main()
