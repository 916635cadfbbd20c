"""Launch of the kernels in `tpu_kernels`: blocks of the arrays of one device, and what each pass reads and writes."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from timesformer_jax._typing import Array
from timesformer_jax.modeling.kernels.tpu_kernels import backward_kernel, forward_kernel
from timesformer_jax.modeling.kernels.tpu_tiles import LANES, MOST_STRIDED, SUBLANES, Groups


def call(direction: str, interpret: bool, *arrays: Array) -> list[Array]:
    """Call the kernel of one pass on the arrays of one device.

    Args:
        direction: "forward" or "backward".
        interpret: Run as ordinary JAX operations on any device, which is slow and meant for tests.
        *arrays: The packed product `[B, X, L, Y, 3, h, d]` and the bias `[3, h, d]`; with a CLS, its packed product
            `[B, 1 or X, 3, h, d]`; in the backward pass, the gradients of the results of the forward pass.

    Returns:
        In the forward pass, the mixed values `[B, X, L, Y, h, d]` and those of the CLS `[B, X, Y, h, d]`. In the backward pass,
        the gradients of the packed product, of the bias `[B, 1, 1, 3, h, d]` and of the CLS `[B, X, 1, 3, h, d]`, in float32.
    """
    qkv, bias, *rest = arrays
    batch, x, length, y, _, heads, head_dim = qkv.shape
    has_cls = len(rest) == (1 if direction == "forward" else 3)
    tiling = {"has_cls": has_cls, "heads": LANES // head_dim, "dim": heads * head_dim}
    if y > 1 and length > MOST_STRIDED:  # bring the tokens of a group together
        cls, gradients = rest[:has_cls], rest[has_cls:]
        together = [z.swapaxes(2, 3).reshape(batch, x * y, length, 1, *z.shape[4:]) for z in (qkv, *gradients[:1])]
        of_cls = [z.reshape(batch, x * y, 1, *z.shape[3:]) for z in gradients[1:]]
        results = call(direction, interpret, together[0], bias, *cls, *together[1:], *of_cls)
        results[0] = results[0].reshape(batch, x, y, length, *results[0].shape[4:]).swapaxes(2, 3)
        if has_cls:
            apart = results[-1].reshape(batch, x, y, *results[-1].shape[3:])
            results[-1] = apart if direction == "forward" else apart.sum(2, keepdims=True)
        return results
    if y > 1:
        places = max(LANES // length // SUBLANES, 1) * SUBLANES
        groups = Groups(batch * x, length, places, y, **tiling)
    else:
        fitting = [n for n in range(1, max(LANES // length, 1) + 1) if x % n == 0]
        places = 1 if has_cls else max(fitting)
        groups = Groups(batch * x // places, length, places, 1, **tiling)
    return PASSES[direction](interpret, groups, *arrays)


class _Blocks(NamedTuple):
    """Blocks of the kernels' arrays.

    Index maps take the four indices of the grid: tile, tile along the stride, row of lanes, write.
    """

    groups: Groups

    def tokens(self, width: int, lanes: Any) -> Any:
        """Block of an array of the patches, `[groups, L, (Y,) channels]`."""
        from jax.experimental import pallas as pl

        groups = self.groups
        if groups.stride > 1:
            return pl.BlockSpec((None, groups.length, groups.places, width), lambda i, j, p, t: (i, 0, j, lanes(p, t)))
        return pl.BlockSpec((None, groups.patches, width), lambda i, j, p, t: (i, 0, lanes(p, t)))

    def of_cls(self, width: int, lanes: Any) -> Any:
        """Block of an array with a row for each group's CLS."""
        from jax.experimental import pallas as pl

        rows = self.groups.places if self.groups.stride > 1 else 1
        return pl.BlockSpec((None, rows, width), lambda i, j, p, t: (i, j, lanes(p, t)))

    def sums(self, width: int, lanes: Any) -> Any:
        """Block of an array with a row for each tile."""
        from jax.experimental import pallas as pl

        return pl.BlockSpec((None, 1, width), lambda i, j, p, t: (i * self.groups.tiles + j, 0, lanes(p, t)))

    def vector(self, row_of_tile: Any, lanes: Any) -> Any:
        """Block of an array of vectors that tiles share."""
        from jax.experimental import pallas as pl

        return pl.BlockSpec((None, 1, self.groups.width), lambda i, j, p, t: (row_of_tile(i), 0, lanes(p, t)))

    def third(self, which: int) -> Any:
        """Lanes of the queries, keys or values in a packed array."""
        return lambda p, t: which * (self.groups.dim // self.groups.width) + p

    def flat(self, z: Array) -> Array:
        """Bring an array of the patches, `[B, X, L, Y, ...]`, to the shape whose blocks are `tokens`."""
        groups = self.groups
        strided = (groups.stride,) if groups.stride > 1 else ()
        return z.reshape(groups.count, -1, *strided, math.prod(z.shape[4:]))


Blocked = list[tuple[Any, Any]]
"""Arrays, or shapes of results, each with its block."""


def _packed(blocks: _Blocks, qkv: Array, bias: Array, cls: Sequence[Array]) -> Blocked:
    """Return what both passes read: queries, keys and values of the patches, then their bias, then those of the CLS."""
    dim, thirds = blocks.groups.dim, [blocks.third(which) for which in range(3)]
    flat = blocks.flat(qkv)
    given = [(flat, blocks.tokens(blocks.groups.width, third)) for third in thirds]
    # Blocks of a single row can be read in float32 only.
    given += [(bias.reshape(1, 1, 3 * dim).astype(jnp.float32), blocks.vector(lambda i: 0, third)) for third in thirds]
    for z in cls:
        row_of_tile = functools.partial(lambda tiles, i: jax.lax.div(i, tiles), qkv.shape[1] // z.shape[1])
        given += [(z.reshape(-1, 1, 3 * dim).astype(jnp.float32), blocks.vector(row_of_tile, third)) for third in thirds]
    return given


def _forward(interpret: bool, groups: Groups, qkv: Array, bias: Array, *cls: Array) -> list[Array]:
    """Launch the forward pass; arrays and results are those of `call`."""
    blocks, (batch, x, _, y, _, heads, head_dim) = _Blocks(groups), qkv.shape
    given, lanes = _packed(blocks, qkv, bias, cls), blocks.third(0)
    shape = (*given[0][0].shape[:-1], groups.dim)
    results: Blocked = [(jax.ShapeDtypeStruct(shape, qkv.dtype), blocks.tokens(groups.width, lanes))]
    if cls:
        shape = (groups.count, groups.stride, groups.dim)
        results.append((jax.ShapeDtypeStruct(shape, jnp.float32), blocks.of_cls(groups.width, lanes)))
    mixed, *of_cls = _run(forward_kernel, "forward", interpret, groups, given, results)
    mixed = mixed.reshape(*qkv.shape[:4], heads, head_dim)
    return [mixed, *(z.reshape(batch, x, y, heads, head_dim).astype(qkv.dtype) for z in of_cls)]


def _backward(interpret: bool, groups: Groups, qkv: Array, bias: Array, *rest: Array) -> list[Array]:
    """Launch the backward pass; arrays and results are those of `call`."""
    blocks, (batch, x), parts, dim = _Blocks(groups), qkv.shape[:2], qkv.shape[4:], groups.dim
    cls, (gradient, *of_cls) = rest[: groups.has_cls], rest[groups.has_cls :]
    given, lanes = _packed(blocks, qkv, bias, cls), blocks.third(0)
    given.append((blocks.flat(gradient), blocks.tokens(groups.width, lanes)))
    for z in of_cls:
        given.append((z.reshape(groups.count, -1, dim).astype(jnp.float32), blocks.of_cls(groups.width, lanes)))
    # A program of a long group computes the gradients of q, k and v at once, but writes them one after the other.
    width = groups.width if groups.is_long else 3 * dim
    written = (lambda p, t: t * (dim // width) + p) if groups.is_long else (lambda p, t: 0)
    sums = jax.ShapeDtypeStruct((groups.count * groups.tiles, 1, 3 * dim), jnp.float32)
    results: Blocked = [(jax.ShapeDtypeStruct(given[0][0].shape, qkv.dtype), blocks.tokens(width, written))]
    results += [(sums, blocks.sums(width, written))] * (1 + groups.has_cls)
    writes = 3 if groups.is_long else 1
    packed, of_bias, *of_cls = _run(backward_kernel, "backward", interpret, groups, given, results, writes=writes)
    of_cls = [z.reshape(batch, x, groups.tiles, 3 * dim).sum(2).reshape(batch, x, 1, *parts) for z in of_cls]
    return [packed.reshape(qkv.shape), of_bias.reshape(batch, -1, 3 * dim).sum(1).reshape(batch, 1, 1, *parts), *of_cls]


PASSES: dict[str, Callable[..., list[Array]]] = {"forward": _forward, "backward": _backward}
"""Maps each direction to its launch."""


def _run(
    kernel: Callable[..., None],
    direction: str,
    interpret: bool,
    groups: Groups,
    given: Blocked,
    results: Blocked,
    *,
    writes: int = 1,
) -> list[Array]:
    """Run a kernel over all tiles and rows of lanes, `writes` times each."""
    from jax.experimental import pallas as pl
    from jax.experimental.pallas import tpu as pltpu

    forward = direction == "forward"
    moved = [given[0][0], *(array for array, _ in given[3 * (2 + groups.has_cls) :]), *(shape for shape, _ in results)]
    launch = pl.pallas_call(
        functools.partial(kernel, groups),
        grid=(groups.count, groups.tiles, groups.dim // groups.width, writes),
        in_specs=[block for _, block in given],
        out_specs=[block for _, block in results],
        out_shape=[shape for shape, _ in results],
        scratch_shapes=_scratch(forward, groups, given[0][0].dtype),
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "parallel", "parallel", "arbitrary")),
        cost_estimate=_cost(forward, groups, moved),
        interpret=interpret,
        name=f"attention_{direction}",
    )
    return list(launch(*(array for array, _ in given)))


def _scratch(forward: bool, groups: Groups, dtype: Any) -> list[Any]:
    """Return the fast memory of a long group: the queries, and mixed values or gradients as in `backward_kernel`."""
    from jax.experimental.pallas import tpu as pltpu

    if not groups.is_long:
        return []
    rows = groups.queries, LANES
    sums = [pltpu.VMEM(rows if forward else (3, *rows), jnp.float32)]
    return [pltpu.VMEM(rows, dtype) for _ in range(1 if forward else 2)] + sums


def _cost(forward: bool, groups: Groups, arrays: Any) -> Any:
    """Count what the kernel computes, including the lanes and groups that masks set to zero."""
    from jax.experimental import pallas as pl

    rows = groups.patches + groups.copies
    weights = groups.count * groups.tiles * rows * rows * groups.heads * (groups.dim // LANES)
    return pl.CostEstimate(
        flops=2 * (2 if forward else 5) * weights * LANES,
        transcendentals=weights,
        bytes_accessed=sum(math.prod(x.shape) * x.dtype.itemsize for x in arrays),
    )
