"""Named outputs: their names, their layout, and their consistency."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import timesformer_jax as tsf
from tests.support import random_variables

SIZE = (5, 2, 3)  # frames, rows and columns of patches: all different
AXES = {  # maps attention type and step to (axes of the groups, their lengths, tokens, CLS among queries and keys, queries)
    "divided_space_time": {
        "temporal": (("height", "width"), (2, 3), ("time",), (0, 0), 5),
        "spatial": (("time",), (5,), ("height", "width"), (1, 1), 6),
    },
    "joint_space_time": {"joint": ((), (), ("time", "height", "width"), (1, 1), 30)},
    "space_only": {"spatial": (("time",), (5,), ("height", "width"), (1, 1), 6)},
    "local_global": {
        "local": (("height_half", "width_half"), (2, 2), ("time", "height", "width"), (0, 0), 5 * 1 * 2),
        "global": (
            ("time_parity", "height_parity", "width_parity"),
            (2, 2, 2),
            ("time", "height", "width"),
            (1, 1),
            3 * 1 * 2,
        ),
    },
    "axial": {
        "temporal": (("height", "width"), (2, 3), ("time",), (0, 0), 5),
        "width": (("time", "height"), (5, 2), ("width",), (0, 0), 3),
        "height": (("time", "width"), (5, 3), ("height",), (1, 1), 2),
    },
}


def test_every_step_of_every_scheme_is_listed():
    assert {name: list(steps) for name, steps in AXES.items()} == {
        name: list(scheme.steps) for name, scheme in tsf.SCHEMES.items()
    }


@pytest.mark.slow_cases("(local_global|axial)")
@pytest.mark.parametrize(
    ("attention_type", "scan_layers"), [("divided_space_time", True), *((attention_type, False) for attention_type in AXES)]
)
def test_features_returns_every_output(attention_type: str, scan_layers: bool):
    model = tsf.TimeSformer(
        num_classes=3,
        image_size=(16, 24),
        patch_size=8,
        num_frames=5,
        embed_dim=24,
        depth=3,
        num_heads=2,
        attention_type=attention_type,
        scan_layers=scan_layers,
    )
    video = jax.random.normal(jax.random.key(0), (2, 5, 16, 24, 3))
    variables = random_variables(model)
    plain = jax.jit(lambda *a: model.apply(*a, method="features"))(variables, video)
    features = jax.jit(lambda *a: model.apply(*a, method="features", blocks=True, attention=True))(variables, video)
    assert features.cls.shape == (2, 24)
    assert features.patches.shape == (2, *SIZE, 24)
    for name in ("cls", "frame_cls", "patches"):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), getattr(plain, name), getattr(features, name))

    per_frame = attention_type in ("divided_space_time", "space_only", "axial")
    num_cls = 5 if attention_type == "space_only" else 1
    assert (None if features.frame_cls is None else features.frame_cls.shape) == ((2, 5, 24) if per_frame else None)
    assert features.blocks.cls.shape == (3, 2, num_cls, 24)
    assert features.blocks.patches.shape == (3, 2, *SIZE, 24)
    # The last LayerNorm turns the last block's output into the features, and blocks are in order.
    norm = variables["params"]["norm"]

    def normed(x: jax.Array) -> jax.Array:
        x = x - x.mean(axis=-1, keepdims=True)
        x = x / jnp.sqrt((x**2).mean(axis=-1, keepdims=True) + 1e-6)
        scale, bias = (norm[name].reshape((1,) * (x.ndim - 1) + (-1,)) for name in ("scale", "bias"))
        return x * scale + bias

    np.testing.assert_allclose(normed(features.blocks.patches[-1]), features.patches, atol=1e-5)
    np.testing.assert_allclose(normed(features.blocks.cls[-1].mean(axis=1)), features.cls, atol=1e-5)
    params = {name: value for name, value in variables["params"].items() if name != "blocks_2"}
    if scan_layers:
        params["blocks"] = jax.tree.map(lambda x: x[:2], params["blocks"])
    two = model.clone(depth=2)
    short = jax.jit(lambda *a: two.apply(*a, method="features"))({"params": params}, video)
    np.testing.assert_allclose(normed(features.blocks.patches[1]), short.patches, atol=1e-5)

    assert features.attention.keys() == AXES[attention_type].keys()
    for step, (groups, lengths, tokens, (cls_queries, cls_keys), queries) in AXES[attention_type].items():
        attention = features.attention[step]
        assert attention.axes == ("block", "batch", *groups, "head", "query", "key")
        assert attention.weights.shape == (3, 2, *lengths, 2, cls_queries + queries, cls_keys + queries)
        assert (attention.tokens, attention.cls_queries, attention.cls_keys) == (tokens, cls_queries, cls_keys)
        assert attention.weights.dtype == jnp.float32
        np.testing.assert_allclose(attention.weights.sum(axis=-1), 1, atol=1e-5)


def test_frame_cls_equals_clip_cls_for_a_single_frame():
    model = tsf.create("timesformer-tiny", num_classes=3, initialization="from_scratch")
    video = jax.random.normal(jax.random.key(0), (2, 1, 32, 32, 3))
    variables = random_variables(model)
    features = jax.jit(lambda *a: model.apply(*a, method="features"))(variables, video)
    np.testing.assert_allclose(features.frame_cls[:, 0], features.cls, atol=1e-6)


def test_attention_map_includes_cls_as_a_temporal_key():
    model = tsf.create("timesformer-tiny", num_classes=3, temporal_cls_key=True)
    video = jax.random.normal(jax.random.key(0), (1, 3, 32, 32, 3))
    variables = random_variables(model)
    features = jax.jit(lambda *a: model.apply(*a, method="features", attention=True))(variables, video)
    temporal = features.attention["temporal"]
    assert temporal.weights.shape == (2, 1, 4, 4, 2, 3, 4)
    assert (temporal.cls_queries, temporal.cls_keys) == (0, 1)


def test_head_on_any_feature_can_be_initialised():
    class Head(nn.Module):
        backbone: tsf.TimeSformer
        wanted: str

        @nn.compact
        def __call__(self, video: jax.Array) -> jax.Array:
            return nn.Dense(2)(getattr(self.backbone.features(video), self.wanted))

    video = jnp.zeros((1, 3, 16, 16, 3))
    for scan_layers in (False, True):
        model = tsf.create("timesformer-nano", num_classes=3, scan_layers=scan_layers)
        for wanted, shape in (("cls", (1, 2)), ("frame_cls", (1, 3, 2)), ("patches", (1, 3, 2, 2, 2))):
            output, _ = jax.eval_shape(Head(model, wanted).init_with_output, jax.random.key(0), video)
            assert output.shape == shape
