"""The two attention steps of a divided block alone: every implementation, and candidates for more.

A contender maps packed, token-major q, k, v `[B, T, N, 3, h, d]`, as one product makes them, to the mixture `[B, T, N, h, d]`;
whatever it transposes is part of its time. "time" attends over T at each of N places, "space" over the N of each frame.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.accelerator.sizes import Size
from benchmarks.accelerator.timing import Measurement, compile_timed, time_calls
from timesformer_jax.modeling.attention import IMPLEMENTATIONS

TILE = 128
"""Tokens that "packed" puts side by side."""
CHECKED = 2
"""Clips that the numbers are checked on."""


def measurements(size: Size) -> list[Measurement]:
    """Each contender for each step, forward and with its gradient."""
    return [
        Measurement(f"{step}, {name}", partial(measure, size, step, name), limit=40)
        for step in ("time", "space")
        for name, (_, steps) in CONTENDERS.items()
        if step in steps
    ]


def measure(size: Size, step: str, name: str, results: dict[str, Any]) -> dict[str, Any]:
    """Time of one contender, and its error relative to float32."""
    attend = CONTENDERS[name][0]
    fields = size.model
    heads, head_dim = fields["num_heads"], fields["embed_dim"] // fields["num_heads"]
    tokens = (fields["image_size"] // 16) ** 2 + (step == "space")  # the CLS attends in space only
    shape = (size.batch_size, fields["num_frames"], tokens, 3, heads, head_dim)
    qkv = jax.random.normal(jax.random.key(0), shape).astype(jnp.bfloat16)
    cotangent = jax.random.normal(jax.random.key(1), (*shape[:3], heads, head_dim)).astype(jnp.bfloat16)

    def forward(qkv: jax.Array) -> jax.Array:
        return attend(qkv, step)

    def both(qkv: jax.Array, cotangent: jax.Array) -> tuple[jax.Array, jax.Array]:
        mixture, backward = jax.vjp(forward, qkv)
        return mixture, backward(cotangent)[0]

    small = qkv[:CHECKED], cotangent[:CHECKED]
    got = jax.jit(both)(*small)
    wanted = reference(small[0].astype(jnp.float32), small[1].astype(jnp.float32), step)
    errors = [
        float(jnp.linalg.norm((a.astype(jnp.float32) - b).ravel()) / jnp.linalg.norm(b.ravel()))
        for a, b in zip(got, wanted, strict=True)
    ]
    compiled, figures = compile_timed(jax.jit(both), qkv, cotangent)
    alone, _ = compile_timed(jax.jit(forward), qkv)
    one_way = time_calls(lambda: alone(qkv), size.timing_seconds / 2)
    both_ways = time_calls(lambda: compiled(qkv, cotangent), size.timing_seconds / 2)
    return {
        "forward_ms": 1e3 * one_way["seconds"],
        "forward_and_backward_ms": 1e3 * both_ways["seconds"],
        "temp_gib": figures.get("temp_gib"),
        "relative_error": errors[0],
        "relative_error_of_gradient": errors[1],
        "agrees": all(error < 2e-2 for error in errors),  # False for NaN as well
    }


def reference(qkv: jax.Array, cotangent: jax.Array, step: str) -> tuple[jax.Array, jax.Array]:
    """Output and gradient in float32, every product at full precision."""
    with jax.default_matmul_precision("highest"):
        mixture, backward = jax.vjp(lambda x: library("xla")(x, step), qkv)
        return mixture, backward(cotangent)[0]


def _grouped(qkv: jax.Array, step: str) -> tuple[jax.Array, jax.Array, jax.Array]:
    """`[B, T, N, 3, h, d]` -> q (scaled), k, v `[B, G, h, L, d]`: groups of tokens that attend to each other."""
    q, k, v = (qkv[:, :, :, i] for i in range(3))
    q = q * q.shape[-1] ** -0.5
    order = (0, 2, 3, 1, 4) if step == "time" else (0, 1, 3, 2, 4)
    return q.transpose(order), k.transpose(order), v.transpose(order)


def _ungrouped(mixture: jax.Array, step: str) -> jax.Array:
    """The inverse, for one of the three."""
    return mixture.transpose((0, 3, 1, 2, 4) if step == "time" else (0, 1, 3, 2, 4))


def library(name: str) -> Callable[[jax.Array, str], jax.Array]:
    """One of the model's own implementations."""

    def attend(qkv: jax.Array, step: str) -> jax.Array:
        return _ungrouped(IMPLEMENTATIONS[name](*_grouped(qkv, step), None), step)

    return attend


def token_major(implementation: Any) -> Callable[[jax.Array, str], jax.Array]:
    """JAX's own attention on `[B G, L, h, d]`: heads stay behind the tokens, so that space needs no transposition."""

    def attend(qkv: jax.Array, step: str) -> jax.Array:
        moved = qkv.swapaxes(1, 2) if step == "time" else qkv  # -> [B, N, T, 3, h, d]
        rows = moved.reshape(-1, *moved.shape[2:])  # -> [B G, L, 3, h, d]
        mixture = jax.nn.dot_product_attention(rows[:, :, 0], rows[:, :, 1], rows[:, :, 2], implementation=implementation)
        mixture = mixture.reshape(*moved.shape[:3], *moved.shape[4:])
        return mixture.swapaxes(1, 2) if step == "time" else mixture

    return attend


def packed(implementation: Any) -> Callable[[jax.Array, str], jax.Array]:
    """Time only: `TILE` // T places side by side in one sequence, which a block-diagonal mask keeps apart."""

    def attend(qkv: jax.Array, step: str) -> jax.Array:
        batch, frames, places, _, heads, dim = qkv.shape
        together = max(TILE // frames, 1)
        padded = jnp.pad(qkv, ((0, 0), (0, 0), (0, -places % together), (0, 0), (0, 0), (0, 0)))
        tiles = padded.swapaxes(1, 2).reshape(-1, together * frames, 3, heads, dim)  # [B tiles, places x T, 3, h, d]
        place = jnp.arange(together * frames) // frames
        mask = (place[:, None] == place[None, :])[None, None]
        mixture = jax.nn.dot_product_attention(
            tiles[:, :, 0], tiles[:, :, 1], tiles[:, :, 2], mask=mask, implementation=implementation
        )
        return mixture.reshape(batch, -1, frames, heads, dim)[:, :places].swapaxes(1, 2)

    return attend


def elementwise(qkv: jax.Array, step: str) -> jax.Array:
    """Time only: products and sums in float32 instead of matrix products of 8 x 8."""
    q, k, v = (qkv[:, :, :, i].astype(jnp.float32) for i in range(3))  # [B, T, N, h, d]
    scores = (q[:, :, None] * k[:, None]).sum(-1) * q.shape[-1] ** -0.5  # [B, T, T, N, h]
    weights = jax.nn.softmax(scores, axis=2)
    return (weights[..., None] * v[:, None]).sum(2).astype(qkv.dtype)


BOTH = ("time", "space")

CONTENDERS: dict[str, tuple[Callable[[jax.Array, str], jax.Array], tuple[str, ...]]] = {
    **{f"library {name}": (library(name), BOTH) for name in IMPLEMENTATIONS},
    "token-major, cudnn": (token_major("cudnn"), BOTH),
    "token-major, xla": (token_major("xla"), BOTH),
    "packed, xla": (packed("xla"), ("time",)),
    "packed, cudnn": (packed("cudnn"), ("time",)),
    "elementwise": (elementwise, ("time",)),
}
"""Name -> (contender, the steps it is for). "library" is every row of the model's own table."""
