"""Figures read from a program that was compiled for a TPU: cycles, and the collectives with their sizes in memory."""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

COLLECTIVES = ("all-gather", "all-reduce", "all-to-all", "collective-permute")
SIZES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "f32": 4, "s32": 4, "u32": 4}
"""Bytes of an element."""
KERNEL_SLOWDOWN = 2.75
"""That of `timesformer_jax.planning.step_time`, which needs more packages than the environment of the budgets has."""
KERNEL_FLOPS = 131_072 / KERNEL_SLOWDOWN
"""FLOPs per cycle of our own kernels on a v5e, for which the compiler gives no estimate."""
SCATTER = "all-reduce-scatter"
"""Prefix of the fused computations in which a TPU sums an array and keeps a shard."""


class Collective(NamedTuple):
    """One operation that moves data between chips."""

    kind: str
    """One of `COLLECTIVES`, or "reduce-scatter"."""
    dtypes: tuple[str, ...]
    """Dtypes of the arrays that it returns."""
    size: int
    """Bytes of the arrays that it returns, including padding."""


def computations(text: str) -> dict[str, list[str]]:
    """Map each computation of a compiled module to its instructions; the entry is called "ENTRY"."""
    found: dict[str, list[str]] = {}
    body: list[str] = []
    for line in text.splitlines():
        if line.endswith("{") and (head := re.match(r"(ENTRY )?%?([\w.\-]+) ", line)):
            body = found.setdefault("ENTRY" if head[1] else head[2], [])
        elif line.startswith(" "):
            body.append(line)
    return found


def cycles(text: str) -> int:
    """Sum the compiler's estimated cycles; the body of a loop counts once per iteration."""
    bodies = computations(text)

    def total(name: str) -> int:
        return sum(cycles_of(line) for line in bodies[name])

    def cycles_of(line: str) -> int:
        if loop := re.search(r" while\(.*condition=%?([\w.\-]+), body=%?([\w.\-]+)", line):
            bounds = [int(number) for each in bodies[loop[1]] for number in re.findall(r" constant\((\d+)\)", each)]
            return total(loop[2]) * max(bounds, default=1)  # a scan counts from 0 to the only constant
        if '"tpu_custom_call"' in line:
            return int(sum(map(int, re.findall(r'"flops":"(\d+)"', line))) / KERNEL_FLOPS)
        return sum(map(int, re.findall(r'"estimated_cycles":"(\d+)"', line)))

    return total("ENTRY")


def collectives(text: str) -> list[Collective]:
    """List the collectives. Parts of one asynchronous operation count once."""
    seen: dict[tuple[str, str], Collective] = {}
    for name, body in computations(text).items():
        for number, line in enumerate(body):
            pattern = rf"\s*(?:ROOT )?%?[\w.\-]+ = (.*?) ({'|'.join(COLLECTIVES)}|reduce-scatter)(-start)?\("
            if not (found := re.match(pattern, line)):
                continue
            kind = "reduce-scatter" if name.startswith(SCATTER) else found[2]
            arrays = list(_arrays(found[1]))
            if found[3]:  # returns its operands as well
                arrays = arrays[-1:] if kind == "all-gather" else arrays[:1]
            channel = re.findall(r"channel_id=(\d+)", line)
            key = (kind, channel[0] if channel and kind != "reduce-scatter" else f"{name} {number}")
            seen[key] = Collective(kind, tuple(dtype for dtype, _ in arrays), sum(size for _, size in arrays))
    return list(seen.values())


def _arrays(shapes: str) -> Iterator[tuple[str, int]]:
    """Yield dtype and padded bytes of each array in a shape such as `(bf16[8,196]{1,0:T(8,128)(2,1)}, f32[8]{0:T(128)})`."""
    for dtype, dims, order, tile in re.findall(r"(\w+)\[([\d,]*)\](?:\{([\d,]*)(?::T\(([\d,]+)\))?[^}]*\})?", shapes):
        if dtype not in SIZES:
            continue
        lengths = [int(n) for n in dims.split(",") if n]
        minor = [int(n) for n in order.split(",") if n]
        for axis, step in zip(minor, reversed([int(n) for n in tile.split(",") if n]), strict=False):
            lengths[axis] = -(-lengths[axis] // step) * step
        yield dtype, math.prod(lengths) * SIZES[dtype]
