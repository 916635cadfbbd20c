"""The two attention steps of a divided block in isolation, with every implementation and further candidates.

A contender maps patches `[B, T, N, D]`, given the CLS and the q/k/v parameters, to attention outputs `[B, T, N, h, d]`. Its
time includes the q/k/v projections and any transpositions, since implementations need different layouts; "products alone"
consists of the projections only. "time" attends over the T frames at each of N positions, "space" over the N positions of each
frame and the CLS.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.accelerator.sizes import Size
from benchmarks.accelerator.timing import Measurement, compile_timed, time_calls
from timesformer_jax._typing import Array
from timesformer_jax.modeling.implementations import IMPLEMENTATIONS
from timesformer_jax.modeling.projections import Projections
from timesformer_jax.modeling.schemes import SAME_FRAME, SAME_PLACE

TILE = 128
"""Length of the sequences that "places side by side" packs."""
CHECKED = 2
"""Number of clips on which numerical agreement is checked."""


def measurements(size: Size) -> list[Measurement]:
    """Return the measurements of each contender for each step, forward and with gradients."""
    return [
        Measurement(f"{step}, {name}", partial(measure, size, step, name), limit=40, later=name not in FIRST)
        for step in BOTH
        for name, (_, steps) in CONTENDERS.items()
        if step in steps
    ]


def measure(size: Size, step: str, name: str, results: dict[str, Any]) -> dict[str, Any]:
    """Measure the time of a contender, and its error relative to float32."""
    attend = CONTENDERS[name][0]
    fields = size.model
    heads, dim = fields["num_heads"], fields["embed_dim"]
    shapes = {
        "x": (size.batch_size, fields["num_frames"], (fields["image_size"] // 16) ** 2, dim),
        "cls": (size.batch_size, 1, dim),
        "kernel": (dim, 3, heads, dim // heads),
        "bias": (3, heads, dim // heads),
    }
    scales = {"x": 1.0, "cls": 1.0, "kernel": dim**-0.5, "bias": 0.1}
    keys = iter(jax.random.split(jax.random.key(0), 5))
    given = [scales[name] * jax.random.normal(next(keys), shape).astype(jnp.bfloat16) for name, shape in shapes.items()]
    cotangent = jax.random.normal(next(keys), (*shapes["x"][:3], heads, dim // heads)).astype(jnp.bfloat16)

    def forward(*given: Array) -> Array:
        return attend(*given, step)

    def both(*given: Array) -> tuple[Array, tuple[Array, ...]]:
        *arguments, cotangent = given
        mixture, backward = jax.vjp(forward, *arguments)
        return mixture, backward(cotangent)

    x, cls, *parameters = given
    few = x[:CHECKED], cls[:CHECKED], *parameters, cotangent[:CHECKED]
    agreement = {} if name == ALONE else agree(both, *few, step=step)
    compiled, figures = compile_timed(jax.jit(both), *given, cotangent)
    alone, _ = compile_timed(jax.jit(forward), *given)
    one_way = time_calls(lambda: alone(*given), size.timing_seconds / 2)
    both_ways = time_calls(lambda: compiled(*given, cotangent), size.timing_seconds / 2)
    return {
        "forward_ms": 1e3 * one_way["seconds"],
        "forward_and_backward_ms": 1e3 * both_ways["seconds"],
        "temp_gib": figures.get("temp_gib"),
        **agreement,
    }


def agree(both: Callable[..., Any], *given: Array, step: str) -> dict[str, Any]:
    """Return the errors of the output and of the tokens' gradient relative to float32 at the highest matmul precision."""
    got, (got_gradient, *_) = jax.jit(both)(*given)
    *wide, cotangent = (x.astype(jnp.float32) for x in given)
    with jax.default_matmul_precision("highest"):
        wanted, backward = jax.vjp(lambda *wide: library("xla")(*wide, step), *wide)
        wanted_gradient, *_ = backward(cotangent)
    errors = [
        float(jnp.linalg.norm((a.astype(jnp.float32) - b).ravel()) / jnp.linalg.norm(b.ravel()))
        for a, b in ((got, wanted), (got_gradient, wanted_gradient))
    ]
    return {
        "relative_error": errors[0],
        "relative_error_of_gradient": errors[1],
        "agrees": all(error < 2e-2 for error in errors),  # False for NaN as well
    }


Contender = Callable[..., Array]
GROUPINGS = {"time": SAME_PLACE, "space": SAME_FRAME}


def library(name: str) -> Contender:
    """Wrap one of the model's implementations as a contender."""

    def attend(x: Array, cls: Array, kernel: Array, bias: Array, step: str) -> Array:
        side = math.isqrt(x.shape[2])
        given = {"cls": cls if step == "space" else None, "grouping": GROUPINGS[step], "sizes": (x.shape[1], side, side)}
        return IMPLEMENTATIONS[name](Projections(x, kernel, bias, **given), None, slice(None)).patches

    return attend


def _packed_product(x: Array, kernel: Array, bias: Array) -> Array:
    packed, _ = Projections(x, kernel, bias).packed()
    return packed.reshape(*packed.shape[:-1], *bias.shape) + bias[None, None, None]  # [B, T, N, 3, h, d]


def products_alone(x: Array, cls: Array, kernel: Array, bias: Array, step: str) -> Array:
    """Compute the packed q/k/v projection and use all of it."""
    return _packed_product(x, kernel, bias).sum(axis=3)


def side_by_side(implementation: Any) -> Contender:
    """Attend over time with `TILE` // T positions in one sequence, separated by a block-diagonal mask."""

    def attend(x: Array, cls: Array, kernel: Array, bias: Array, step: str) -> Array:
        qkv = _packed_product(x, kernel, bias)
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


def elementwise(x: Array, cls: Array, kernel: Array, bias: Array, step: str) -> Array:
    """Attend over time with elementwise products and sums in float32 instead of 8 x 8 matrix products."""
    qkv = _packed_product(x, kernel, bias)
    q, k, v = (qkv[:, :, :, i].astype(jnp.float32) for i in range(3))  # [B, T, N, h, d]
    scores = (q[:, :, None] * k[:, None]).sum(-1) * q.shape[-1] ** -0.5  # [B, T, T, N, h]
    weights = jax.nn.softmax(scores, axis=2)
    return (weights[..., None] * v[:, None]).sum(2).astype(x.dtype)


BOTH = ("time", "space")

ALONE = "products alone"
FIRST = (ALONE, "library xla", "library cudnn", "library fused")
"""Contenders of the first round."""

CONTENDERS: dict[str, tuple[Contender, tuple[str, ...]]] = {
    ALONE: (products_alone, BOTH),
    **{f"library {name}": (library(name), BOTH) for name in IMPLEMENTATIONS},
    "places side by side, cudnn": (side_by_side("cudnn"), ("time",)),
    "elementwise": (elementwise, ("time",)),
}
"""Maps each name to a contender and its steps; "library" covers every implementation in the model's table."""
