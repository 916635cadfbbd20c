"""I3D and SlowFast, narrow: shapes, the fully convolutional head, BatchNorm's statistics and errors."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import timesformer_jax as tsf
from timesformer_jax.cnn3d import ConvNet
from timesformer_jax.cnn3d.models import slow_frames
from timesformer_jax.modeling import weight_shapes

NARROW: dict[str, Any] = {"num_classes": 5, "width": 8, "depths": (1, 2, 1, 1), "num_frames": 8, "image_size": 32}


def clips(*shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(0).normal(size=(*shape, 3)), jnp.float32)


def random_variables(model: ConvNet) -> dict[str, Any]:
    """Variables with random values everywhere, also in what an initialization leaves constant."""
    random = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: jnp.asarray(random.uniform(0.1, 0.6, leaf.shape), jnp.float32), weight_shapes(model))


@pytest.mark.parametrize(("objective", "score"), [("softmax", jax.nn.softmax), ("sigmoid", jax.nn.sigmoid)])
def test_evaluation_averages_the_probabilities_of_all_windows(objective: str, score: Any):
    model: Any = tsf.SlowFast(**{**NARROW, "image_size": 64}, objective=objective)  # windows of 2 x 2 places
    random = np.random.default_rng(0)
    slow, fast = (jnp.asarray(random.normal(size=(2, frames, 3, 2, 4)), jnp.float32) for frames in (2, 8))
    params = {"kernel": jnp.asarray(random.normal(size=(8, 5)), jnp.float32), "bias": jnp.arange(5.0)}

    def classify(*maps: jax.Array, train: bool = False) -> jax.Array:
        rngs = {"dropout": jax.random.key(0)}
        model_ = model.clone(dropout_rate=0.0)
        return model_.apply({"params": {"head": params}}, maps, train=train, method="classify", rngs=rngs)

    def logits(rows: slice) -> jax.Array:
        means = jnp.concatenate([x[:, :, rows].mean(axis=(1, 2, 3)) for x in (slow, fast)], axis=-1)
        return means @ params["kernel"] + params["bias"][None]

    upper, lower = (logits(slice(start, start + 2)) for start in (0, 1))
    np.testing.assert_allclose(score(classify(slow, fast)), (score(upper) + score(lower)) / 2, rtol=1e-5)
    np.testing.assert_allclose(classify(slow[:, :, :2], fast[:, :, :2]), upper, rtol=1e-5)  # the logits themselves
    np.testing.assert_allclose(classify(slow, fast, train=True), logits(slice(0, 3)), rtol=1e-5)


def test_training_updates_the_statistics_and_evaluation_uses_them():
    model = tsf.SlowFast(**NARROW, dropout_rate=0.0)
    video, variables = clips(4, 8, 32, 32), random_variables(tsf.SlowFast(**NARROW))

    @jax.jit
    def train(variables: Any, video: jax.Array) -> Any:
        return model.apply(variables, video, train=True, mutable=["batch_stats"])

    _, updated = train(variables, video)
    before, after = (tree["batch_stats"]["pathway1"]["stem"]["bn"] for tree in (variables, updated))
    kernel = variables["params"]["pathway1"]["stem"]["conv"]["kernel"]
    outputs = jax.lax.conv_general_dilated(
        video, kernel, (1, 2, 2), [(2, 2), (3, 3), (3, 3)], dimension_numbers=("NTHWC", "THWIO", "NTHWC")
    )
    np.testing.assert_allclose(after["mean"], 0.9 * before["mean"] + 0.1 * outputs.mean(axis=(0, 1, 2, 3)), rtol=1e-4)
    np.testing.assert_allclose(after["var"], 0.9 * before["var"] + 0.1 * outputs.var(axis=(0, 1, 2, 3)), rtol=1e-4)
    assert jax.tree.structure(updated["batch_stats"]) == jax.tree.structure(variables["batch_stats"])


def test_new_blocks_compute_their_shortcut():
    model = tsf.I3D(**NARROW)
    block = jax.eval_shape(model.init, jax.random.key(0), clips(1, 2, 32, 32))["params"]["pathway0"]["res3_1"]
    assert set(block) == {"a", "b", "c"}  # no projected shortcut
    from timesformer_jax.cnn3d.layers import Bottleneck

    x = jax.nn.relu(clips(1, 2, 4, 4))
    x = jnp.concatenate([x, x[..., :1]], axis=-1)
    made = Bottleneck(1, 3)
    output, _ = jax.jit(lambda x: made.init_with_output(jax.random.key(0), x, train=False))(x)
    np.testing.assert_array_equal(output, x)


def test_bfloat16_keeps_parameters_statistics_and_logits_in_float32():
    model = tsf.SlowFast(**NARROW, dtype=jnp.bfloat16)
    shapes = weight_shapes(model)
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype(jnp.float32)}
    video = jax.ShapeDtypeStruct((1, 8, 64, 64, 3), jnp.float32)
    logits, updated = jax.eval_shape(
        lambda variables, video: model.apply(
            variables, video, train=True, mutable=["batch_stats"], rngs={"dropout": jax.random.key(0)}
        ),
        shapes,
        video,
    )
    assert (logits.shape, logits.dtype) == ((1, 5), jnp.float32)
    assert {leaf.dtype for leaf in jax.tree.leaves(updated)} == {jnp.dtype(jnp.float32)}
    maps = jax.eval_shape(lambda variables, video: model.apply(variables, video, method="features"), shapes, video).maps
    assert {x.dtype for x in maps} == {jnp.dtype(jnp.bfloat16)}


def test_slow_frames_are_spread_from_first_to_last():
    assert slow_frames(32, 4).tolist() == [0, 4, 8, 13, 17, 22, 26, 31]
    assert slow_frames(4, 4).tolist() == [0]


def test_models_are_hashable():
    assert hash(tsf.I3D(**{**NARROW, "depths": [1, 2, 1, 1], "image_size": [32, 32]}))


@pytest.mark.parametrize(
    ("kind", "fields", "words"),
    [
        (tsf.I3D, {"num_classes": 0}, "num_classes must be a whole number of at least 1, got 0"),
        (tsf.I3D, {"depths": (1, 2)}, r"depths must be 4 whole numbers of at least 1, got \(1, 2\)"),
        (tsf.I3D, {"image_size": 0}, "image_size must be an int or"),
        (tsf.I3D, {"num_frames": 1}, "num_frames must be at least 2"),
        (tsf.I3D, {"dropout_rate": 1.0}, "dropout_rate must be"),
        (tsf.I3D, {"objective": "relu"}, "objective must be one of softmax, sigmoid"),
        (tsf.SlowFast, {"num_frames": 30}, "num_frames must be a multiple of alpha=4 for SlowFast, got 30: use 28 or 32"),
        (tsf.SlowFast, {"width": 12}, "width must be a multiple of beta_inv=8, got 12: use 8 or 16"),
    ],
)
def test_models_reject_bad_fields(kind: type[ConvNet], fields: dict[str, Any], words: str):
    with pytest.raises(tsf.InputError, match=words):
        kind(**{**NARROW, **fields})


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((1, 8, 32, 32, 4), r"must be \[batch, frames, height, width, 3\]"),
        ((1, 6, 32, 32, 3), "multiple of alpha=4 for SlowFast, got 6: use 4 or 8"),
    ],
)
def test_models_reject_bad_videos(shape: tuple[int, ...], words: str):
    model = tsf.SlowFast(**NARROW)
    with pytest.raises(tsf.InputError, match=words):
        jax.eval_shape(model.apply, weight_shapes(model), jax.ShapeDtypeStruct(shape, jnp.float32))
