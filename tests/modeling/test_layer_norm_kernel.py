"""The kernels of LayerNorm, in interpreter mode, equal its definition and automatic differentiation."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from timesformer_jax.modeling import layers
from timesformer_jax.modeling.kernels import layer_norm as module
from timesformer_jax.modeling.kernels.layer_norm import normalize, residual_gradients

EPSILON = 1e-6


def arrays(*shape: int) -> list[jax.Array]:
    """Return tokens, scale, and gradients of the normalised tokens and of the residual connection."""
    keys = jax.random.split(jax.random.key(len(shape)), 4)
    shapes = shape, shape[-1:], shape, shape
    return [jax.random.normal(key, each) for key, each in zip(keys, shapes, strict=True)]


def wanted(x: jax.Array, scale: jax.Array, gradient: jax.Array, residual: jax.Array) -> tuple[jax.Array, ...]:
    def fork(x: jax.Array, scale: jax.Array, bias: jax.Array) -> tuple[jax.Array, jax.Array]:
        mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
        wide = scale[None, None, None], bias[None, None, None]
        return x, (x - mean) / jnp.sqrt(variance + EPSILON) * wide[0] + wide[1]

    _, backward = jax.vjp(fork, x, scale, jnp.zeros_like(scale))
    return backward((residual, gradient))


close = functools.partial(jax.tree.map, functools.partial(np.testing.assert_allclose, atol=2e-4, rtol=1e-4))


@pytest.mark.parametrize("shape", [(2, 3, 5, 24), (1, 1, 7, 32), (2, 1, 1, 8)], ids=str)
@pytest.mark.parametrize("programs", [1, 12, 1000])
def test_residual_gradients_are_those_of_automatic_differentiation(
    shape: tuple[int, ...], programs: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(module, "BACKWARD_PROGRAMS", programs)
    given = arrays(*shape)
    close(module._call_backward(EPSILON, True, *given)[0], wanted(*given)[0])
    _, dscale, dbias = (part.sum((0, 1)) for part in module._call_backward(EPSILON, True, *given))
    close((dscale, dbias), wanted(*given)[1:])


def test_residual_gradients_of_sharded_tokens_need_no_gathering():
    mesh = jax.make_mesh((2, 2, 2), ("data", "time", "space"), axis_types=(AxisType.Auto,) * 3)
    given = arrays(4, 2, 6, 24)
    sharding = NamedSharding(mesh, PartitionSpec("data", "time", "space"))
    placed = [x if x.ndim == 1 else jax.device_put(x, sharding) for x in given]
    call = jax.jit(functools.partial(residual_gradients, epsilon=EPSILON, interpret=True))
    compiled = call.lower(*placed).compile()
    assert not [name for name in ("all-gather", "all-to-all") if f"{name}(" in (compiled.as_text() or "")]
    close(compiled(*placed), wanted(*given))


@pytest.mark.parametrize(("shape", "programs"), [((2, 3, 5, 24), 1), ((2, 3, 5, 24), 12), ((1, 1, 7, 32), 1000)], ids=str)
def test_tokens_are_normalized(shape: tuple[int, ...], programs: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "FORWARD_PROGRAMS", programs)
    x, scale, *_ = arrays(*shape)
    x, bias = 3 * x + 100, scale[::-1]  # far from zero, so that a variance computed as E[x^2] - mean^2 would fail
    (y,) = module._call_forward(EPSILON, True, x, scale, bias)
    wide = np.asarray(x, np.float64)
    expected = (wide - wide.mean(-1, keepdims=True)) / np.sqrt(wide.var(-1, keepdims=True) + EPSILON)
    np.testing.assert_allclose(y, expected * np.asarray(scale) + np.asarray(bias), atol=2e-4)


def test_normalized_tokens_need_no_gathering():
    mesh = jax.make_mesh((2, 2, 2), ("data", "time", "space"), axis_types=(AxisType.Auto,) * 3)
    x, scale, *_ = arrays(4, 2, 6, 24)
    placed = jax.device_put(x, NamedSharding(mesh, PartitionSpec("data", "time", "space")))
    call = jax.jit(functools.partial(normalize, epsilon=EPSILON, interpret=True))
    compiled = call.lower(placed, scale, scale).compile()
    assert not [name for name in ("all-gather", "all-to-all") if f"{name}(" in (compiled.as_text() or "")]
    np.testing.assert_allclose(compiled(placed, scale, scale), layers.layer_norm(EPSILON, x, scale, scale), atol=1e-5)


def test_fork_is_computed_and_differentiated_by_the_kernels(monkeypatch: pytest.MonkeyPatch):
    """The rule that GPUs use, in bfloat16, agrees with the one that other platforms use."""
    for kernel in (normalize, residual_gradients):
        monkeypatch.setattr(layers, kernel.__name__, functools.partial(kernel, interpret=True))
    x, scale, gradient, residual = (part.astype(jnp.bfloat16) for part in arrays(2, 3, 5, 32))
    scale = scale.astype(jnp.float32)
    gradients = layers.Fork(residual, gradient)

    def outcome(fork: Any) -> Any:
        outputs, backward = jax.vjp(functools.partial(fork, EPSILON), x, scale, jnp.zeros_like(scale))
        return outputs, backward(gradients)

    got, expected = outcome(layers._fork), outcome(layers.normalize_and_keep)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(*(np.float32(v) for v in (a, b)), atol=0.1, rtol=0.02), got, expected)
