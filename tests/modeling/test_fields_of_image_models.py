"""Properties that image transformers bring with their weights: the GELU variant, epsilon, a LayerNorm before the blocks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import erf, expit

import timesformer_jax as tsf
from tests.support import random_variables
from timesformer_jax.modeling.layers import ACTIVATIONS, Mlp, mlp_width

SMALL = {"num_classes": 3, "image_size": 16, "patch_size": 8, "num_frames": 2, "embed_dim": 16, "depth": 1, "num_heads": 2}


@pytest.mark.parametrize(
    ("name", "formula"),
    [
        ("gelu", lambda x: x * 0.5 * (1 + erf(x / 2**0.5))),
        ("gelu_tanh", lambda x: 0.5 * x * (1 + np.tanh((2 / np.pi) ** 0.5 * (x + 0.044715 * x**3)))),
        ("quick_gelu", lambda x: x * expit(1.702 * x)),
    ],
)
def test_activations_match_their_formulas(name: str, formula):
    x = np.linspace(-4, 4, 41, dtype=np.float32)
    np.testing.assert_allclose(ACTIVATIONS[name](jnp.asarray(x)), formula(x.astype(np.float64)), atol=2e-6)


def test_activations_are_complete_and_reach_the_mlp():
    x = jax.random.normal(jax.random.key(0), (2, 4))
    outputs = []
    for name in ACTIVATIONS:
        mlp = Mlp(8, kernel_init=jax.nn.initializers.normal(1.0), dtype=jnp.float32, activation=name)
        outputs.append(mlp.init_with_output(jax.random.key(1), x)[0])
    assert sorted(ACTIVATIONS) == ["gelu", "gelu_tanh", "quick_gelu"]
    assert all((outputs[i] != outputs[i - 1]).any() for i in range(3))


@pytest.mark.slow_cases("fields[12]")
@pytest.mark.parametrize("fields", [{"layer_norm_epsilon": 0.5}, {"activation": "quick_gelu"}])
def test_fields_change_the_logits(fields):
    model = tsf.TimeSformer(**SMALL)
    variables = random_variables(model)
    video = jax.random.normal(jax.random.key(0), (1, 2, 16, 16, 3))
    assert np.abs(model.apply(variables, video) - model.clone(**fields).apply(variables, video)).max() > 1e-3


def test_pre_norm_normalises_every_embedded_token():
    """Scaling and shifting tokens before the norm doesn't change them after it."""
    model = tsf.TimeSformer(**SMALL, pre_norm=True, layer_norm_epsilon=1e-12)
    params = random_variables(model)["params"]
    video = jax.random.normal(jax.random.key(0), (1, 2, 16, 16, 3))
    larger = {
        name: jax.tree.map(lambda x: 3 * x, params[name]) for name in ("cls_token", "pos_embed", "time_embed", "patch_embed")
    }
    expected = model.apply({"params": params}, video)
    np.testing.assert_allclose(model.apply({"params": {**params, **larger}}, video), expected, atol=1e-5)
    assert params["norm_pre"]["scale"].shape == (16,)
    assert "norm_pre" not in random_variables(model.clone(pre_norm=False))["params"]


@pytest.mark.parametrize(("dim", "hidden"), [(1152, 4304), (768, 3072), (24, 95)])
def test_mlp_ratio_from_shapes_restores_the_width(dim: int, hidden: int):
    assert mlp_width(dim, hidden / dim) == hidden


@pytest.mark.parametrize(
    ("fields", "named"), [({"activation": "relu"}, "gelu_tanh"), ({"layer_norm_epsilon": 0.0}, "positive")]
)
def test_impossible_fields_are_rejected(fields, named: str):
    with pytest.raises(tsf.InputError, match=named):
        tsf.TimeSformer(**SMALL, **fields)
