"""Sizes, initialization, stochastic depth, precision and errors of the model."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import timesformer_jax as tsf
from tests.support import random_variables
from timesformer_jax.modeling.block import Block
from timesformer_jax.modeling.implementations import attention_weights

TINY = {"num_classes": 3, "image_size": 16, "patch_size": 8, "num_frames": 4, "embed_dim": 24, "depth": 2, "num_heads": 2}

PARAMETERS = {  # per attention type: (174 classes, 400 classes), base size, 8 frames of 224 px
    "divided_space_time": (121_392_558, 121_566_352),
    "joint_space_time": (85_938_606, 86_112_400),
    "space_only": (85_932_462, 86_106_256),
    "local_global": (121_392_558, 121_566_352),
    "axial": (156_846_510, 157_020_304),
}


def apply(model: tsf.TimeSformer, params: Any, video: jax.Array, dropout_seed: int | None = None) -> jax.Array:
    """Compute logits, with stochastic depth if a seed is given."""
    if dropout_seed is None:
        return jax.jit(model.apply)({"params": params}, video)
    rngs = {"dropout": jax.random.key(dropout_seed)}
    return jax.jit(functools.partial(model.apply, train=True))({"params": params}, video, rngs=rngs)


def random_video(*shape: int, seed: int = 0) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), shape)


def test_every_attention_type_has_an_expected_parameter_count():
    assert PARAMETERS.keys() == tsf.SCHEMES.keys()


@pytest.mark.parametrize("attention_type", PARAMETERS)
@pytest.mark.parametrize("scan_layers", [False, True])
def test_parameter_counts_match(attention_type: str, scan_layers: bool):
    for num_classes, expected in zip((174, 400), PARAMETERS[attention_type], strict=True):
        model = tsf.TimeSformer(num_classes=num_classes, attention_type=attention_type, scan_layers=scan_layers)
        shapes = jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 8, 224, 224, 3), jnp.float32))
        assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == expected


@pytest.mark.slow_cases("(local_global|axial)")
@pytest.mark.parametrize("attention_type", tsf.SCHEMES)
def test_scanned_and_unrolled_blocks_agree(attention_type: str):
    model = tsf.TimeSformer(**TINY, attention_type=attention_type, initialization="from_scratch", scan_layers=True)
    video = random_video(2, 4, 16, 16, 3)
    stacked = jax.jit(model.init)(jax.random.key(1), video)["params"]
    unrolled = tsf.unstack_blocks(stacked)
    logits = apply(model, stacked, video)
    np.testing.assert_allclose(logits, apply(model.clone(scan_layers=False), unrolled, video), atol=1e-5)
    again = tsf.stack_blocks(unrolled)
    assert jax.tree.structure(again) == jax.tree.structure(stacked)
    jax.tree.map(np.testing.assert_array_equal, again, stacked)


@pytest.mark.parametrize("initialization", ["official", "from_images"])
def test_official_initialization_equals_the_image_model_per_frame(initialization: str):
    """With zero time embeddings and zero temporal_fc in every block, temporal attention contributes nothing."""
    model = tsf.TimeSformer(**TINY, initialization=initialization)
    video = random_video(2, 4, 16, 16, 3)
    params = jax.jit(model.init)(jax.random.key(0), video)["params"]
    assert not params["time_embed"].any()
    for block in ("blocks_0", "blocks_1"):
        assert not params[block]["temporal_fc"]["kernel"].any()
        assert not params[block]["temporal_fc"]["bias"].any()
        assert params[block]["temporal_attn"]["qkv"]["kernel"].any()
    shuffled = video[:, jnp.array([2, 0, 3, 1])]
    np.testing.assert_allclose(apply(model, params, video), apply(model, params, shuffled), atol=1e-5)


def test_initialization_from_scratch_depends_on_frame_order():
    model = tsf.TimeSformer(**TINY, initialization="from_scratch")
    video = random_video(2, 4, 16, 16, 3)
    params = jax.jit(model.init)(jax.random.key(0), video)["params"]
    difference = apply(model, params, video) - apply(model, params, video[:, ::-1])
    assert float(jnp.abs(difference).min()) > 1e-3


def test_official_initialization_has_the_official_spread():
    model = tsf.TimeSformer(**{**TINY, "embed_dim": 192})
    params = jax.jit(model.init)(jax.random.key(0), random_video(1, 4, 16, 16, 3))["params"]
    for path, spread in {
        ("cls_token",): 0.02,
        ("pos_embed",): 0.02,
        ("blocks_1", "attn", "qkv", "kernel"): 0.02,
        ("blocks_1", "mlp", "fc2", "kernel"): 0.02,
        ("head", "kernel"): 0.02,
        ("patch_embed", "proj", "kernel"): (8 * 8 * 3) ** -0.5 / 3**0.5,
        ("patch_embed", "proj", "bias"): (8 * 8 * 3) ** -0.5 / 3**0.5,
    }.items():
        leaf = params
        for key in path:
            leaf = leaf[key]
        assert float(leaf.std()) == pytest.approx(spread, rel=0.15), path
    assert not params["blocks_0"]["attn"]["qkv"]["bias"].any()


def small_block(attention_type: str, initialization: str) -> Block:
    fields = {"embed_dim": 8, "num_heads": 2, "mlp_ratio": 2.0}
    return Block(**tsf.TimeSformer(1, attention_type=attention_type, initialization=initialization, **fields).block_fields)


def plain_and_dropped(block: Block, params: Any, tokens: tuple[jax.Array, jax.Array]):
    """The block's output without stochastic depth, and with a rate of 1/2."""
    rngs = {"dropout": jax.random.key(7)}
    apply = functools.partial(block.apply, grid=(5, 1))
    plain = jax.jit(apply)({"params": params}, *tokens)[:2]
    return plain, jax.jit(lambda p: apply({"params": p}, *tokens, None, 0.5, train=True, rngs=rngs))(params)[:2]


@pytest.mark.parametrize(
    ("attention_type", "patch_rows", "cls_rows"),
    # Unit that the block's spatial (or joint) attention drops: a frame of a clip, or the clip.
    [("divided_space_time", "frame", "clip"), ("joint_space_time", "clip", "clip"), ("space_only", "frame", "frame")],
)
def test_stochastic_depth_drops_the_official_rows(attention_type: str, patch_rows: str, cls_rows: str):
    """Without the MLP, the block's update of a patch is its attention: per row, either zero or twice the undropped update."""
    batch, frames, patches, dim = 8, 6, 5, 8
    block = small_block(attention_type, "official")
    num_cls = frames if cls_rows == "frame" else 1
    tokens = random_video(batch, num_cls, dim), random_video(batch, frames, patches, dim, seed=1)
    params = jax.jit(functools.partial(block.init, grid=(5, 1)))(jax.random.key(0), *tokens)["params"]
    params["mlp"]["fc2"] = jax.tree.map(jnp.zeros_like, params["mlp"]["fc2"])
    (cls, x), (dropped_cls, dropped) = plain_and_dropped(block, params, tokens)
    factor = np.rint((dropped - tokens[1]) / (x - tokens[1]))  # [B, T, N, D]: 0 or 2
    rows = factor[:, :, 0, 0]
    np.testing.assert_array_equal(factor, np.broadcast_to(rows[:, :, None, None], factor.shape))
    assert set(rows.flat) == {0, 2}
    assert (rows == rows[:, :1]).all() == (patch_rows == "clip")
    # If frames share a CLS, its update is the mean over the frames' copies.
    cls_factor = np.asarray((dropped_cls - tokens[0]) / (cls - tokens[0]))
    if attention_type == "divided_space_time":
        assert len({*np.rint(cls_factor.reshape(-1) * 10)}) > 2  # mixtures of kept and dropped frames
    else:
        np.testing.assert_array_equal(np.rint(cls_factor), np.broadcast_to(rows[:, :num_cls, None], cls_factor.shape))


def test_stochastic_depth_drops_time_per_place_before_temporal_fc():
    """A dropped temporal path still adds the bias of temporal_fc, and its rows are the places of a clip."""
    block = small_block("divided_space_time", "from_scratch")
    tokens = random_video(4, 1, 8), random_video(4, 6, 5, 8, seed=1)
    params = jax.jit(functools.partial(block.init, grid=(5, 1)))(jax.random.key(0), *tokens)["params"]
    for layer in (params["mlp"]["fc2"], params["attn"]["proj"]):
        layer.update(jax.tree.map(jnp.zeros_like, layer))
    params["temporal_fc"]["bias"] = jnp.full(8, 3.0)
    (_, x), (_, dropped) = plain_and_dropped(block, params, tokens)
    factor = np.rint((dropped - tokens[1] - 3.0) / (x - tokens[1] - 3.0))  # [B, T, N, D]: 0 or 2
    rows = factor[:, 0, :, 0]  # [B, N]
    np.testing.assert_array_equal(factor, np.broadcast_to(rows[:, None, :, None], factor.shape))
    assert set(rows.flat) == {0, 2}


@pytest.mark.parametrize(("attention_type", "rows"), [("divided_space_time", 1), ("joint_space_time", 1), ("space_only", 6)])
def test_stochastic_depth_drops_the_mlp_of_cls_and_patches_together(attention_type: str, rows: int):
    """Rows are clips, or frames if each frame has its own CLS; attention is zeroed so that only the MLP remains."""
    block = small_block(attention_type, "official")
    tokens = random_video(8, rows, 8), random_video(8, 6, 5, 8, seed=1)
    params = jax.jit(functools.partial(block.init, grid=(5, 1)))(jax.random.key(0), *tokens)["params"]
    params["attn"]["proj"] = jax.tree.map(jnp.zeros_like, params["attn"]["proj"])
    (cls, x), (dropped_cls, dropped) = plain_and_dropped(block, params, tokens)
    cls_factor = np.rint((dropped_cls - tokens[0]) / (cls - tokens[0]))  # [B, F, D]: 0 or 2
    factor = np.rint((dropped - tokens[1]) / (x - tokens[1]))  # [B, T, N, D]: 0 or 2
    assert set(cls_factor.flat) == {0, 2}
    np.testing.assert_array_equal(cls_factor, np.broadcast_to(cls_factor[..., :1], cls_factor.shape))
    np.testing.assert_array_equal(factor, np.broadcast_to(cls_factor[:, :, None, :1], factor.shape))
    if rows > 1:
        assert (cls_factor != cls_factor[:, :1]).any()


def test_drop_path_rate_increases_from_zero():
    """The first block never drops, the last does."""
    model = tsf.TimeSformer(**{**TINY, "depth": 1}, drop_path_rate=0.9)
    video = random_video(2, 4, 16, 16, 3)
    params = jax.jit(model.init)(jax.random.key(0), video)["params"]
    np.testing.assert_allclose(apply(model, params, video, dropout_seed=1), apply(model, params, video), atol=1e-6)
    deeper = model.clone(depth=2)
    params = jax.jit(deeper.init)(jax.random.key(0), video)["params"]
    dropped = apply(deeper, params, video, dropout_seed=1)
    assert float(jnp.abs(dropped - apply(deeper, params, video)).max()) > 1e-3


@pytest.mark.slow_cases("True")
@pytest.mark.parametrize("scan_layers", [False, True])
def test_scanned_blocks_drop_independently(scan_layers: bool):
    model = tsf.TimeSformer(**{**TINY, "depth": 3}, drop_path_rate=0.5, scan_layers=scan_layers)
    video = random_video(2, 4, 16, 16, 3)
    params = jax.jit(model.init)(jax.random.key(0), video)["params"]
    first, second, again = (apply(model, params, video, dropout_seed=seed) for seed in (1, 2, 1))
    np.testing.assert_array_equal(first, again)
    assert float(jnp.abs(first - second).max()) > 1e-3


@pytest.mark.parametrize("scan_layers", [pytest.param(False, marks=pytest.mark.slow), True])
def test_blocks_of_equal_rate_drop_independently(scan_layers: bool):
    """With two equal blocks in the middle, of equal rates: what they add to a clip's tokens is dropped in one and kept in the
    other, sooner or later."""
    model = tsf.TimeSformer(**{**TINY, "depth": 4}, drop_path_rate=0.6, scan_layers=scan_layers)
    video = random_video(8, 4, 16, 16, 3)
    params = tsf.stack_blocks(random_variables(model.clone(scan_layers=False))["params"])
    silent = {"temporal_fc": {"kernel", "bias"}, "attn": {"proj"}}
    blocks = dict(params["blocks"])
    for name, parts in silent.items():  # only the MLP remains, whose rows are the clips
        blocks[name] = {k: jax.tree.map(jnp.zeros_like, v) if k in parts else v for k, v in blocks[name].items()}
    params = {**params, "blocks": blocks}
    variables = {"params": params if scan_layers else tsf.unstack_blocks(params)}
    features = jax.jit(
        lambda seed: model.apply(
            variables, video, train=True, rngs={"dropout": jax.random.key(seed)}, method="features", blocks=True
        )
    )
    steps = jnp.diff(features(0).blocks.patches, axis=0)  # updates of blocks 1, 2 and 3
    dropped = np.asarray(jnp.all(steps == 0, axis=(2, 3, 4, 5)))  # [3, B]
    assert len({tuple(row) for row in dropped}) == 3
    assert dropped.any()


def test_bfloat16_softmax_is_float32():
    """bfloat16 has 8 bits and would round scores of 100.3 and 100.0 to the same value."""
    keys = jax.random.split(jax.random.key(0), 2)
    query, key = (100 * jax.random.normal(k, (1, 1, 1, 64, 4), jnp.bfloat16) for k in keys)
    weights = attention_weights(query / 100, key, None)
    exact = attention_weights(query.astype(jnp.float32) / 100, key.astype(jnp.float32), None)
    assert weights.dtype == jnp.float32
    np.testing.assert_allclose(weights, exact, atol=0.05)
    rounded = jax.nn.softmax(jnp.matmul(query / 100, key.swapaxes(-1, -2)), axis=-1)
    assert float(jnp.abs(rounded.astype(jnp.float32) - exact).max()) > 0.05  # the error of a bfloat16 softmax


@pytest.mark.slow_cases("(local_global|axial)")
@pytest.mark.parametrize("attention_type", tsf.SCHEMES)
def test_bfloat16_keeps_float32_parameters_and_logits(attention_type: str):
    model = tsf.TimeSformer(**TINY, attention_type=attention_type, initialization="from_scratch", dtype=jnp.bfloat16)
    video = random_video(2, 4, 16, 16, 3)
    variables = jax.jit(model.init)(jax.random.key(0), video)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    logits = apply(model, variables["params"], video)
    assert logits.dtype == jnp.float32
    exact = apply(model.clone(dtype=jnp.float32), variables["params"], video)
    np.testing.assert_allclose(logits, exact, atol=0.1)
    assert float(jnp.abs(logits - exact).max()) > 0


@pytest.mark.parametrize(
    ("position_embedding", "attention_type", "names"),
    [
        ("none", "divided_space_time", set()),
        ("space", "divided_space_time", {"pos_embed"}),
        ("space_time", "divided_space_time", {"pos_embed", "time_embed"}),
        ("space_time", "space_only", {"pos_embed"}),
    ],
)
def test_embeddings_encode_order_in_space_and_time(position_embedding: str, attention_type: str, names: set[str]):
    """Without spatial embeddings, patches can be shuffled alike in all frames; without temporal ones, frames can."""
    model = tsf.TimeSformer(
        **TINY, attention_type=attention_type, position_embedding=position_embedding, initialization="from_scratch"
    )
    video = random_video(1, 4, 16, 16, 3)
    params = jax.jit(model.init)(jax.random.key(0), video)["params"]
    assert {name for name in params if name.endswith("_embed")} == {"patch_embed", *names}
    logits = apply(model, params, video)
    moved = apply(model, params, jnp.roll(video, 8, axis=2))  # by one patch
    later = apply(model, params, jnp.roll(video, 1, axis=1))  # by one frame
    assert np.allclose(logits, moved, atol=1e-5) == ("pos_embed" not in names)
    assert np.allclose(logits, later, atol=1e-5) == ("time_embed" not in names)


@pytest.mark.parametrize("shape", [(1, 1, 8, 8), (2, 9, 24, 40), (1, 3, 8, 32)], ids=str)
def test_model_accepts_any_input_size(shape: tuple[int, ...]):
    model = tsf.TimeSformer(**TINY, initialization="from_scratch")
    variables = jax.jit(model.init)(jax.random.key(0), random_video(1, 4, 16, 16, 3))
    assert apply(model, variables["params"], random_video(*shape, 3)).shape == (shape[0], 3)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"attention_type": "divided"}, "attention_type must be one of divided_space_time, .*'divided'"),
        ({"initialization": "random"}, "initialization must be one of official, from_images, from_scratch"),
        ({"attention_order": "time_first"}, "attention_order must be one of time_then_space, space_then_time, parallel"),
        ({"position_embedding": "rotary"}, "position_embedding must be one of none, space, space_time"),
        ({"image_size": 20}, "image_size 20 x 20 .* 8 x 8 patches.* 16 or 24"),
        ({"image_size": (16, 4)}, "image_size 16 x 4 .* 8 x 8 patches"),
        ({"num_heads": 5}, "embed_dim=24 with num_heads=5"),
        ({"depth": 0}, "depth must be a whole number of at least 1, got 0"),
        ({"mlp_ratio": 0}, "mlp_ratio must be positive, got 0"),
        ({"image_size": (16, 16, 3)}, r"image_size must be an int or \(height, width\), in pixels, got \(16, 16, 3\)"),
        ({"drop_path_rate": 1.0}, "drop_path_rate .* below 1, got 1.0"),
    ],
)
def test_impossible_fields_are_rejected(fields: dict, words: str):
    with pytest.raises(tsf.InputError, match=words):
        tsf.TimeSformer(**{**TINY, **fields})


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((2, 4, 20, 16, 3), r"20 x 16 .* 8 x 8 patches"),
        ((2, 4, 16, 16, 1), r"\[batch, frames, height, width, 3\].*\(2, 4, 16, 16, 1\)"),
        ((2, 0, 16, 16, 3), "no empty axis"),
        ((4, 16, 16, 3), r"\[batch, frames, height, width, 3\].*\(4, 16, 16, 3\)"),
    ],
)
def test_impossible_videos_are_rejected(shape: tuple[int, ...], words: str):
    model = tsf.TimeSformer(**TINY)
    with pytest.raises(tsf.InputError, match=words):
        model._check(shape, jnp.float32, None)
    if len(shape) == 5:  # in tests, jaxtyping raises first for another rank
        variables = jax.eval_shape(model.init, jax.random.key(0), random_video(1, 4, 16, 16, 3))
        with pytest.raises(tsf.InputError, match=words):
            jax.eval_shape(model.apply, variables, jnp.zeros(shape))


def test_unnormalised_pixels_are_rejected():
    model = tsf.TimeSformer(**TINY)
    with pytest.raises(tsf.InputError, match=r"must be normalised floats, got uint8: see timesformer_jax\.video\.normalize"):
        model._check((2, 4, 16, 16, 3), jnp.uint8, None)


@pytest.mark.parametrize(
    ("made", "used", "words"),
    [
        ({"scan_layers": False}, {"scan_layers": True}, r"are per block, but scan_layers=True: use stack_blocks\(params\)"),
        ({"scan_layers": True}, {"scan_layers": False}, r"are stacked, but scan_layers=False: use unstack_blocks\(params\)"),
        ({"scan_layers": True}, {"scan_layers": True, "depth": 3}, r"have 2 block\(s\), but depth=3"),
        ({}, {"depth": 1}, r"have 2 block\(s\), but depth=1"),
    ],
)
def test_parameters_of_another_layout_are_rejected(made: dict, used: dict, words: str):
    video = jnp.zeros((1, 4, 16, 16, 3))
    variables = jax.eval_shape(tsf.TimeSformer(**TINY, **made).init, jax.random.key(0), video)
    with pytest.raises(tsf.InputError, match=words):
        jax.eval_shape(tsf.TimeSformer(**{**TINY, **used}).apply, variables, video)


@pytest.mark.parametrize("scan_layers", [False, True])
def test_model_can_be_tabulated_hashed_and_bound(scan_layers: bool):
    model = tsf.TimeSformer(
        **{**TINY, "image_size": [16, 16]}, attention_implementation={"spatial": "chunked"}, scan_layers=scan_layers
    )
    video = jnp.ones((1, 4, 16, 16, 3))
    variables = random_variables(model)
    total = sum(leaf.size for leaf in jax.tree.leaves(variables))
    assert f"Total Parameters: {total:,}" in model.tabulate(jax.random.key(0), video, depth=1)
    logits = jax.jit(lambda model, v: model.apply(v, video), static_argnums=0)(model, variables)
    np.testing.assert_allclose(model.bind(variables)(video), logits, atol=1e-5)
