"""Named models and their exact sizes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import timesformer_jax as tsf
from timesformer_jax.cost import count_parameters

PARAMETERS = {  # 400 classes, divided attention
    "timesformer-tiny": 181_712,
    "timesformer-nano": 14_720,
    "timesformer-base": 121_566_352,
    "timesformer-hr": 122_024_080,
    "timesformer-large-frames": 121_633_936,
    "timesformer-vit-small": 30_702_352,
    "timesformer-vit-large": 429_720_976,
    "timesformer-base-patch32": 123_222_928,
    "i3d-8x8-r50": 28_043_472,  # 28.0M and 34.6M in the paper's Table 2
    "slowfast-8x8-r50": 34_566_488,
}


def test_every_variant_has_a_row():
    assert PARAMETERS.keys() == tsf.VARIANTS.keys()


def by_hand(model: tsf.TimeSformer) -> int:
    """Number of parameters of a divided model, from its fields."""
    width, patches = model.embed_dim, model.grid[0] * model.grid[1]
    attention = 2 * width + 3 * width * width + 3 * width + width * width + width  # norm, qkv, proj
    mlp = 2 * width + 2 * 4 * width * width + 5 * width
    block = 2 * attention + width * width + width + mlp  # ... and temporal_fc
    embeddings = width * (3 * model.patch_size**2 + 1) + width + width * (patches + 1) + width * model.num_frames
    return model.depth * block + embeddings + 2 * width + (width + 1) * model.num_classes


@pytest.mark.parametrize("name", [name for name in PARAMETERS if tsf.VARIANTS[name].model is tsf.TimeSformer])
def test_parameter_count(name: str):
    model = tsf.create(name, num_classes=400, scan_layers=True)
    height, width = (side * model.patch_size for side in model.grid)
    video = jax.ShapeDtypeStruct((1, model.num_frames, height, width, 3), jnp.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), video)
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == PARAMETERS[name] == by_hand(model)


@pytest.mark.parametrize(("name", "kind"), [("i3d-8x8-r50", tsf.I3D), ("slowfast-8x8-r50", tsf.SlowFast)])
def test_parameter_count_of_convnets(name: str, kind: type):
    model = tsf.create(name, num_classes=400)
    assert type(model) is tsf.VARIANTS[name].model is kind
    assert count_parameters(model) == PARAMETERS[name]


def test_create_overrides_fields():
    model = tsf.create("timesformer-tiny", num_classes=3, attention_type="joint_space_time", num_frames=2)
    assert (model.num_classes, model.attention_type, model.num_frames, model.embed_dim) == (3, "joint_space_time", 2, 64)
    video = jnp.asarray(np.random.default_rng(0).normal(size=(1, 2, 32, 32, 3)), jnp.float32)
    variables = jax.jit(model.init)(jax.random.key(0), video)
    assert jax.jit(model.apply)(variables, video).shape == (1, 3)


@pytest.mark.parametrize(
    ("name", "fields", "words"),
    [
        ("timesformer-huge", {"num_classes": 3}, r"no variant 'timesformer-huge'. Known ones: timesformer-tiny, "),
        ("timesformer-bas", {"num_classes": 3}, r"no variant 'timesformer-bas'. .* Did you mean 'timesformer-base'\?"),
        ("timesformer-base", {}, r"num_classes=\.\.\."),
        ("timesformer-base", {"droppath": 0.1}, r"no field 'droppath'. Did you mean 'drop_path_rate'\?"),
        ("slowfast-8x8-r50", {"num_classes": 3, "embed_dim": 8}, "SlowFast has no field 'embed_dim'"),
    ],
)
def test_create_rejects_unknown_names_and_fields(name: str, fields: dict, words: str):
    with pytest.raises(tsf.InputError, match=words):
        tsf.create(name, **fields)
