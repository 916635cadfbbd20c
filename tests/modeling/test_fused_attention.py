"""The fused kernel, in interpreter mode, equals attention as defined in the paper."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from timesformer_jax.modeling.kernels import fused_attention as module
from timesformer_jax.modeling.kernels.fused_attention import fused_attention

HEADS, HEAD_DIM = 2, 16

fused = functools.partial(fused_attention, interpret=True)


def plain(qkv: jax.Array, bias: jax.Array) -> jax.Array:
    """Equations 5 to 7, one operation after the other."""
    query, key, value = jnp.moveaxis(qkv + bias[None, None, None], 3, 0)  # [B, G, L, h, d] each
    scores = jnp.einsum("BGQhd,BGLhd->BGhQL", query, key) * HEAD_DIM**-0.5
    return jnp.einsum("BGhQL,BGLhd->BGQhd", jax.nn.softmax(scores, axis=-1), value)


def arrays(groups: int, length: int, clips: int = 2) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The packed product, its bias, and a gradient of the output."""
    keys = jax.random.split(jax.random.key(length), 3)
    shapes = (clips, groups, length, 3, HEADS, HEAD_DIM), (3, HEADS, HEAD_DIM), (clips, groups, length, HEADS, HEAD_DIM)
    qkv, bias, gradient = (jax.random.normal(key, shape) for key, shape in zip(keys, shapes, strict=True))
    return qkv, bias, gradient


@pytest.mark.parametrize(
    ("groups", "length"),
    [
        pytest.param(11, 8, id="full tiles of many groups, the last not full"),
        pytest.param(3, 12, id="groups that no tile is a multiple of"),
        pytest.param(1, 1, id="one token"),
        pytest.param(2, 40, id="short forward, long backward"),
        pytest.param(2, 197, id="a frame and its CLS"),
        pytest.param(1, 256, id="the longest"),
    ],
)
def test_fused_attention_outputs_and_gradients(groups: int, length: int):
    qkv, bias, gradient = arrays(groups, length)
    outcomes = []
    for attend in (fused, plain):
        mixture, backward = jax.vjp(attend, qkv, bias)
        outcomes.append((mixture, *backward(gradient)))
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=2e-4, rtol=1e-4), *outcomes)


@pytest.mark.parametrize("own_bias", [False, True])
def test_fused_attention_under_vmap(own_bias: bool):
    qkv, bias, _ = arrays(2, 8, clips=3)
    qkv, axes = qkv[:, None], (0, 0 if own_bias else None)
    biases = jnp.stack([bias, 2 * bias, -bias]) if own_bias else bias
    got = jax.vmap(jax.grad(lambda qkv, bias: (fused(qkv, bias) ** 2).sum()), axes)(qkv, biases)
    wanted = jax.vmap(jax.grad(lambda qkv, bias: (plain(qkv, bias) ** 2).sum()), axes)(qkv, biases)
    np.testing.assert_allclose(got, wanted, atol=1e-4, rtol=1e-4)


def test_fused_attention_keeps_sharded_axes():
    """Nothing is gathered, and the sums of the bias's gradient are the only communication between devices."""
    mesh = jax.make_mesh((2, 2, 2), ("data", "context", "tensor"), axis_types=(AxisType.Auto,) * 3)
    qkv, bias, _ = arrays(4, 8)
    qkv = jax.device_put(qkv, NamedSharding(mesh, PartitionSpec("data", "context", None, None, "tensor")))
    bias = jax.device_put(bias, NamedSharding(mesh, PartitionSpec(None, "tensor")))

    def loss(attend, qkv: jax.Array, bias: jax.Array) -> jax.Array:
        return (attend(qkv, bias) ** 2).sum()

    compiled = jax.jit(jax.value_and_grad(functools.partial(loss, fused), argnums=(0, 1))).lower(qkv, bias).compile()
    program = compiled.as_text() or ""
    assert not [name for name in ("all-gather", "all-to-all", "collective-permute") if f"{name}(" in program]
    wanted = jax.value_and_grad(functools.partial(loss, plain), argnums=(0, 1))(qkv, bias)
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-4, rtol=1e-4), compiled(qkv, bias), wanted)


def test_tiles_have_sizes_that_triton_supports():
    assert set(module.TILES) == {(direction, length) for direction in module.RULES for length in ("short", "long")}
    for tile in module.TILES.values():
        assert all(number & (number - 1) == 0 for number in tile)
        assert tile.rows % tile.queries == 0
