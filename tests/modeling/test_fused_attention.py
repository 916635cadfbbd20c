"""The fused kernel, in interpreter mode, equals attention as defined in the paper."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from timesformer_jax.modeling.kernels import tiles
from timesformer_jax.modeling.kernels.fused_attention import fused_attention

HEADS, HEAD_DIM = 2, 16

fused = functools.partial(fused_attention, interpret=True)


def plain(qkv: jax.Array, bias: jax.Array, cls: jax.Array | None = None) -> tuple[jax.Array, jax.Array | None]:
    """Equations 5 to 7, one operation after the other."""
    groups = qkv.swapaxes(2, 3)  # [B, X, Y, L, 3, h, d]
    if cls is not None:  # [B, F, 3, h, d] -> [B, X, Y, 1, 3, h, d]
        copies = jnp.broadcast_to(cls[:, :, None, None], (*groups.shape[:3], 1, *groups.shape[4:]))
        groups = jnp.concatenate([groups, copies], axis=3)
    query, key, value = jnp.moveaxis(groups + bias[None, None, None, None], 4, 0)  # [B, X, Y, L, h, d] each
    scores = jnp.einsum("BXYQhd,BXYLhd->BXYhQL", query, key) * HEAD_DIM**-0.5
    mixed = jnp.einsum("BXYhQL,BXYLhd->BXYQhd", jax.nn.softmax(scores, axis=-1), value)
    length = qkv.shape[2]
    return mixed[:, :, :, :length].swapaxes(2, 3), None if cls is None else mixed[:, :, :, length]


def arrays(sizes: tuple[int, int, int], cls: str = "none", clips: int = 2) -> tuple[Any, Any]:
    """Return the packed product, its bias and that of the CLS, and gradients of the outputs."""
    x, length, y = sizes
    keys = jax.random.split(jax.random.key(length), 5)
    heads = (HEADS, HEAD_DIM)

    def normal(i: int, *shape: int) -> jax.Array:
        return jax.random.normal(keys[i], shape)

    has_cls = cls != "none"
    given = normal(0, clips, x, length, y, 3, *heads), normal(1, 3, *heads)
    extra = normal(2, clips, {"clip": 1, "frame": x}[cls], 3, *heads) if has_cls else None
    gradients = normal(3, clips, x, length, y, *heads), normal(4, clips, x, y, *heads) if has_cls else None
    return (*given, extra), gradients


@pytest.mark.parametrize(
    ("sizes", "cls"),
    [
        pytest.param((1, 8, 11), "none", id="time: tiles of four locations, the last one not full"),
        pytest.param((1, 6, 5), "clip", id="with the CLS as one more token"),
        pytest.param((1, 12, 3), "none", id="one location per tile"),
        pytest.param((1, 70, 2), "none", id="many frames"),
        pytest.param((3, 4, 5), "clip", id="columns of an axial scheme"),
        pytest.param((2, 1, 1), "frame", id="one patch"),
        pytest.param((2, 40, 1), "clip", id="one tile of 64"),
        pytest.param((2, 196, 1), "clip", id="a frame and its CLS"),
        pytest.param((2, 130, 1), "frame", id="a CLS for each frame"),
        pytest.param((1, 256, 1), "none", id="the longest"),
    ],
)
def test_fused_attention_outputs_and_gradients(sizes: tuple[int, int, int], cls: str):
    given, gradients = arrays(sizes, cls)
    outcomes = []
    for attend in (fused, plain):
        outputs, backward = jax.vjp(attend, *given)
        outcomes.append((outputs, backward(gradients)))
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-3, rtol=1e-4), *outcomes)


@pytest.mark.parametrize("own_bias", [False, True])
def test_fused_attention_under_vmap(own_bias: bool):
    (qkv, bias, cls), _ = arrays((1, 8, 2), "clip", clips=3)
    qkv, cls, axes = qkv[:, None], cls[:, None], (0, 0 if own_bias else None, 0)
    biases = jnp.stack([bias, 2 * bias, -bias]) if own_bias else bias

    def gradients(attend: Any) -> Any:
        def loss(*given: jax.Array) -> jax.Array:
            return functools.reduce(jnp.add, ((output**2).sum() for output in attend(*given)))

        return jax.vmap(jax.grad(loss, argnums=(0, 1, 2)), axes)(qkv, biases, cls)

    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-3, rtol=1e-4), gradients(fused), gradients(plain))


@pytest.mark.parametrize(
    ("sizes", "spec"),
    [
        ((4, 3, 1), ("data", "context", None, None, None, "tensor")),
        ((1, 3, 10), ("data", None, None, "context", None, "tensor")),
    ],
    ids=["space", "time"],
)
def test_fused_attention_keeps_sharded_axes(sizes: tuple[int, int, int], spec: tuple[str | None, ...]):
    """Nothing is gathered, and sums of gradients are the only communication between devices."""
    mesh = jax.make_mesh((2, 2, 2), ("data", "context", "tensor"), axis_types=(AxisType.Auto,) * 3)
    cls = "clip" if sizes[2] == 1 else "none"
    given, _ = arrays(sizes, cls)
    specs = spec, (None, "tensor"), ("data", None, None, "tensor")
    placed = tuple(
        None if x is None else jax.device_put(x, NamedSharding(mesh, PartitionSpec(*axes)))
        for x, axes in zip(given, specs, strict=True)
    )

    def loss(attend: Any, *given: Any) -> jax.Array:
        return functools.reduce(jnp.add, ((output**2).sum() for output in attend(*given) if output is not None))

    argnums = (0, 1, 2) if cls == "clip" else (0, 1)
    compiled = jax.jit(jax.value_and_grad(functools.partial(loss, fused), argnums=argnums)).lower(*placed).compile()
    program = compiled.as_text() or ""
    assert not [name for name in ("all-gather", "all-to-all", "collective-permute") if f"{name}(" in program]
    wanted = jax.value_and_grad(functools.partial(loss, plain), argnums=argnums)(*given)
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-3, rtol=1e-4), compiled(*placed), wanted)


def test_tiles_have_sizes_that_triton_supports():
    for tile in tiles.TILES:
        numbers = tuple(tile)
        assert all(number & (number - 1) == 0 for number in numbers)
    assert [tile.rows for tile in tiles.TILES] == sorted(tile.rows for tile in tiles.TILES)


def test_pieces_cover_every_position_once():
    for number in range(1, tiles.LONGEST + 1):
        pieces = tiles.pieces_of(number, 128)
        assert [first for first, _ in pieces] == [sum(size for _, size in pieces[:i]) for i in range(len(pieces))]
        assert 0 <= sum(size for _, size in pieces) - number < tiles.SMALLEST
        assert all(size in (16, 32, 64, 128) for _, size in pieces)


@pytest.mark.parametrize(
    ("num_tokens", "head_dim", "dtype", "supported"),
    [
        (256, 64, jnp.bfloat16, True),
        (257, 64, jnp.bfloat16, False),
        (32, 128, jnp.float16, True),
        (33, 128, jnp.float16, False),
        (8, 80, jnp.bfloat16, False),
        (8, 64, jnp.float32, False),
    ],
)
def test_fits_limits_tokens_heads_and_dtype(num_tokens: int, head_dim: int, dtype: Any, supported: bool):
    assert tiles.fits(num_tokens, head_dim, dtype) == supported
