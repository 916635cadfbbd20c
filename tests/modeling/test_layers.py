"""Layers with hand-written derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from timesformer_jax.modeling.layers import gelu, layer_norm


def test_layer_norm_and_its_derivatives():
    keys = jax.random.split(jax.random.key(0), 3)
    x = 3 * jax.random.normal(keys[0], (2, 5, 16)) + 1
    scale, bias = (jax.random.normal(key, (16,)) for key in keys[1:])
    centred = x - x.mean(axis=-1, keepdims=True)
    wanted = centred / jnp.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-6) * scale[None, None] + bias[None, None]
    np.testing.assert_allclose(layer_norm(1e-6, x, scale, bias), wanted, atol=1e-5)
    check_grads(
        lambda *given: layer_norm(1e-6, *map(jnp.asarray, given)),
        (x, scale, bias),
        order=2,
        modes=("fwd", "rev"),
        atol=2e-2,
        rtol=2e-2,
    )


def test_gelu_and_its_derivatives():
    x = jnp.linspace(-6, 6, 241)
    np.testing.assert_allclose(gelu(x), jax.nn.gelu(x, approximate=False), atol=1e-6)
    check_grads(lambda x: gelu(jnp.asarray(x)), (x,), order=2, modes=("fwd", "rev"), atol=1e-2, rtol=1e-2)


@pytest.mark.parametrize("layer", [gelu, lambda x: layer_norm(1e-6, x, jnp.ones(64), jnp.zeros(64))])
def test_layers_save_little_for_the_backward_pass(layer):
    """The input in its own dtype and a few numbers per token, without a float32 copy (which would take 2048 bytes)."""
    x = jax.ShapeDtypeStruct((8, 64), jnp.bfloat16)
    kept = jax.tree.leaves(jax.eval_shape(lambda x: jax.vjp(layer, x)[1], x))
    assert sum(leaf.size * leaf.dtype.itemsize for leaf in kept) <= 8 * 64 * 2 + 2 * 8 * 4 + 4 * 64 * 4


@pytest.mark.parametrize(
    ("layer", "mean"),
    [(gelu, 0.0), *((lambda x: layer_norm(1e-6, x, jnp.ones(64), jnp.zeros(64)), mean) for mean in (0.0, 30.0))],
)
def test_half_precision_is_computed_in_float32(layer, mean: float):
    """For a LayerNorm, also if the mean is large: the variance of half precision takes one pass over the tokens."""
    x = (jax.random.normal(jax.random.key(0), (8, 64)) + mean).astype(jnp.bfloat16)
    assert layer(x).dtype == jnp.bfloat16
    np.testing.assert_allclose(layer(x).astype(jnp.float32), layer(x.astype(jnp.float32)), rtol=2**-8, atol=1e-3)
