"""Attention implementations agree, and dropout drops the right things."""

import contextlib
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

import timesformer_jax as tsf
from tests.support import random_variables
from timesformer_jax.modeling import implementations
from timesformer_jax.modeling.attention import Attention
from timesformer_jax.modeling.layers import Mlp
from timesformer_jax.modeling.projections import Mixed, Projections

TINY = {"num_classes": 3, "image_size": 16, "patch_size": 8, "num_frames": 4, "embed_dim": 24, "depth": 2, "num_heads": 2}
LINEAR = jax.nn.initializers.xavier_uniform()


def layer(embed_dim: int = 8, **fields: Any) -> Attention:
    return Attention(embed_dim, num_heads=2, kernel_init=LINEAR, dtype=jnp.float32, **fields)


@pytest.mark.parametrize("queries", [slice(None), slice(1, None), slice(1)], ids=str)
@pytest.mark.parametrize("masked", [False, True])
def test_chunked_attention_matches_xla(monkeypatch: pytest.MonkeyPatch, masked: bool, queries: slice):
    """Compares outputs and gradients, with chunks that don't divide the number of queries."""
    monkeypatch.setattr(implementations, "_CHUNK", 3 * 2 * 10)  # 3 queries at a time, of 10
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], (2, 2, 10, 8))
    mask = jax.random.bernoulli(keys[1], 0.6, (2, 2, 10)) if masked else None
    params = layer().init(keys[2], x)

    def outcome(implementation: str):
        def total(params: Any, x: jax.Array):
            output, _ = layer(implementation=implementation).apply(params, x, mask, queries=queries)
            return (output**2).sum(), output

        return jax.jit(jax.value_and_grad(total, argnums=(0, 1), has_aux=True))(params, x)

    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), outcome("chunked"), outcome("xla"))


def largest_array(jaxpr: Any) -> int:
    """Size of the largest array in a traced program, inner programs included."""
    sizes = [math.prod(variable.aval.shape) for equation in jaxpr.eqns for variable in equation.outvars]
    inner = [largest_array(sub) for equation in jaxpr.eqns for sub in jaxprs_in_params(equation.params)]
    return max([*sizes, *inner])


def test_chunked_attention_never_materializes_the_matrix():
    """Joint attention on 96 frames of 224 px has 18,817 tokens, whose scores would take 17 GB for 12 heads."""
    model = tsf.create(
        "timesformer-large-frames",
        num_classes=400,
        attention_type="joint_space_time",
        attention_implementation="chunked",
        scan_layers=True,
    )
    video = jax.ShapeDtypeStruct((1, 96, 224, 224, 3), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), video)
    assert largest_array(jax.make_jaxpr(model.apply)(variables, video).jaxpr) < 1e8
    gradient = jax.make_jaxpr(jax.grad(lambda v, video: model.apply(v, video).sum()))(variables, video)
    assert largest_array(gradient.jaxpr) < 7e8  # the hidden layer of 11 MLPs; all scores of one block would be 4.2e9
    whole = jax.make_jaxpr(model.clone(attention_implementation="xla").apply)(variables, video)
    assert largest_array(whole.jaxpr) > 12 * 18_817**2 - 1


class given(Projections):  # noqa: N801 (reads as what it is)
    """Queries, keys and values as precomputed inputs."""

    def heads_first(self, queries: slice = slice(None)) -> tuple[jax.Array, jax.Array, jax.Array]:
        return self.x, self.kernel, self.bias


@pytest.mark.parametrize("num_queries", [10, 3000])
def test_chunked_attention_saves_no_weights_for_the_backward_pass(num_queries: int):
    """With one chunk or many, no residual is larger than queries, keys and values."""
    shapes = [jax.ShapeDtypeStruct((1, 1, 2, length, 4), jnp.float32) for length in (num_queries, 3000, 3000)]
    kept = {
        name: max(math.prod(leaf.shape) for leaf in jax.tree.leaves(jax.eval_shape(functools.partial(jax.vjp, f), *shapes)[1]))
        for name in ("xla", "chunked")
        for f in [lambda q, k, v, name=name: implementations.IMPLEMENTATIONS[name](given(q, k, v), None, slice(None))]
    }
    assert kept["xla"] >= 2 * num_queries * 3000
    assert kept["chunked"] <= 2 * 3001 * 4


def test_chunks_have_equal_sizes(monkeypatch: pytest.MonkeyPatch):
    """At most one query per chunk is wasted: 2,157 tokens would otherwise be two chunks of 1,944."""
    query = jax.ShapeDtypeStruct((1, 1, 1, 2157, 8), jnp.float32)
    jaxpr = jax.make_jaxpr(lambda q: implementations.IMPLEMENTATIONS["chunked"](given(q, q, q), None, slice(None)))(query).jaxpr
    (scan,) = (equation for equation in jaxpr.eqns if equation.primitive.name == "scan")
    chunks = scan.invars[-1].aval.shape
    assert chunks[0] * chunks[4] in (2157, 2158)


def test_implementation_can_be_set_per_step(monkeypatch: pytest.MonkeyPatch):
    used = []
    for name in ("xla", "chunked"):
        compute = implementations.IMPLEMENTATIONS[name]
        monkeypatch.setitem(
            implementations.IMPLEMENTATIONS,
            name,
            lambda qkv, *rest, name=name, compute=compute: used.append((name, qkv.length)) or compute(qkv, *rest),
        )
    model = tsf.TimeSformer(**TINY, attention_implementation={"spatial": "chunked", "temporal": "xla"})
    video = jnp.zeros((1, 3, 16, 16, 3))
    jax.eval_shape(model.apply, jax.eval_shape(model.init, jax.random.key(0), video), video)
    used = used[len(used) // 2 :]  # after those of init, which is always "xla"
    # Three frames in time; CLS and four patches in space. The last block has a single query.
    assert [entry for entry in used if entry[0] == "chunked"] == [("chunked", 5)]
    assert used[:2] == [("xla", 3), ("chunked", 5)]


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_cudnn_reports_its_requirements(dtype: Any):
    model = tsf.TimeSformer(**TINY, attention_implementation="cudnn", dtype=dtype)
    variables = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 3, 16, 16, 3)))  # works anywhere
    with pytest.raises(tsf.InputError, match=r"'cudnn' needs an NVIDIA GPU.*Use 'auto', 'xla' or 'chunked'\."):
        jax.eval_shape(model.apply, variables, jnp.zeros((1, 3, 16, 16, 3)))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"dtype": jnp.float32}, "got float32, 16, 4, no mask. Use 'auto' or 'xla'."),
        ({"dtype": jnp.bfloat16, "num_heads": 4}, "got bfloat16, 8, 4, no mask"),
        ({"dtype": jnp.bfloat16, "attention_type": "joint_space_time", "image_size": 72}, "got bfloat16, 16, 325, no mask"),
    ],
)
def test_fused_reports_its_requirements(fields: dict[str, Any], message: str):
    model = tsf.TimeSformer(**{**TINY, "embed_dim": 32, **fields}, attention_implementation="fused")
    video = jnp.zeros((1, 4, fields.get("image_size", 16), fields.get("image_size", 16), 3))
    variables = jax.eval_shape(model.init, jax.random.key(0), video)
    with pytest.raises(tsf.InputError, match=f"'fused' needs .*{message}"):
        jax.eval_shape(model.apply, variables, video)


@pytest.mark.skipif(jax.default_backend() != "gpu", reason="cuDNN's attention runs on an NVIDIA GPU alone")
@pytest.mark.parametrize("name", ["cudnn", "fused", "auto"])
def test_gpu_implementations_match_xla(name: str):
    """Five tokens in space are an odd number, which cuDNN needs padded."""
    model = tsf.TimeSformer(**{**TINY, "embed_dim": 32}, dtype=jnp.bfloat16)
    video = jax.random.normal(jax.random.key(0), (2, 4, 16, 16, 3))
    variables = random_variables(model)

    def outcome(name: str) -> Any:
        other = model.clone(attention_implementation=name)
        return jax.jit(jax.value_and_grad(lambda v: other.apply(v, video).sum()))(variables)

    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=0.05, rtol=0.05), outcome("xla"), outcome(name))


@pytest.mark.parametrize(
    ("dtype", "num_tokens", "masked", "cuda", "tpu"),
    [
        (jnp.bfloat16, 8, False, "fused", "fused_tpu"),
        (jnp.float16, 256, False, "fused", "xla"),
        (jnp.bfloat16, 257, False, "xla", "fused_tpu"),  # cudnn, if this process has a GPU
        (jnp.bfloat16, 2049, False, "chunked", "chunked"),
        (jnp.bfloat16, 8, True, "xla", "xla"),
        (jnp.float32, 8, False, "xla", "xla"),
        (jnp.float32, 2049, False, "chunked", "chunked"),
    ],
)
def test_auto_selects_by_device(
    monkeypatch: pytest.MonkeyPatch, dtype: Any, num_tokens: int, masked: bool, cuda: str, tpu: str
):
    """All branches are traced on any machine; the compiler keeps the one for its target device."""
    traced = []

    def attend(qkv: Projections, *_: Any, name: str) -> Mixed:
        traced.append(name)
        return Mixed(qkv.x, None)

    for name in ("xla", "chunked", "cudnn", "fused", "fused_tpu"):
        monkeypatch.setitem(implementations.IMPLEMENTATIONS, name, functools.partial(attend, name=name))
    monkeypatch.setattr(implementations, "has_cudnn", lambda: False)
    shapes = (1, 1, num_tokens, 128), (128, 3, 4, 32), (3, 4, 32)
    qkv = Projections(*(jax.ShapeDtypeStruct(shape, dtype) for shape in shapes))
    mask = jax.ShapeDtypeStruct((1, 1, num_tokens), jnp.bool_) if masked else None
    jax.eval_shape(lambda qkv, mask: implementations.IMPLEMENTATIONS["auto"](qkv, mask, slice(None)), qkv, mask)
    assert sorted(traced) == sorted({cuda, tpu, "chunked" if num_tokens > 2048 else "xla"})  # each once
    traced.clear()
    monkeypatch.setattr(implementations, "has_cudnn", lambda: True)
    jax.eval_shape(lambda qkv, mask: implementations.IMPLEMENTATIONS["auto"](qkv, mask, slice(None)), qkv, mask)
    assert ("cudnn" in traced) == (dtype == jnp.bfloat16 and num_tokens > 256)


@pytest.mark.filterwarnings("ignore:The Pallas Triton backend is deprecated:DeprecationWarning")  # docs/decisions.md
def test_kernel_is_compiled_only_for_gpus():
    """Compiles for a machine other than this one."""
    model = tsf.TimeSformer(**{**TINY, "embed_dim": 32}, dtype=jnp.bfloat16)
    video = jax.ShapeDtypeStruct((1, 4, 16, 16, 3), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), video)
    traced = jax.jit(model.apply).trace(variables, video)
    assert "triton" not in traced.lower(lowering_platforms=("tpu",)).as_text()
    with abstract_gpu():
        assert "triton" in jax.jit(model.apply).trace(variables, video).lower(lowering_platforms=("cuda",)).as_text()


def abstract_gpu() -> contextlib.AbstractContextManager[Any]:
    """Abstract GPU that newer versions of JAX need to compile for a GPU without having one."""
    from jax._src import mesh

    if not hasattr(mesh, "AbstractDevice"):
        return contextlib.nullcontext()
    try:
        device = mesh.AbstractDevice(device_kind="NVIDIA H100 80GB HBM3", num_cores=132, platform="gpu")
    except TypeError:  # an older version
        return contextlib.nullcontext()
    return jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((), (), abstract_device=device))


def many(apply: Any, *arguments: Any, draws: int = 4000) -> jax.Array:
    """Outputs of `draws` random draws."""
    keys = jax.random.split(jax.random.key(5), draws)
    return jax.jit(jax.vmap(lambda key: apply(*arguments, train=True, rngs={"dropout": key})))(keys)


def test_attention_dropout_drops_weights_and_keeps_the_mean():
    attend = layer(attention_dropout_rate=0.5)
    x = jax.random.normal(jax.random.key(0), (1, 1, 4, 8))
    params = attend.init(jax.random.key(1), x)
    plain, _ = attend.apply(params, x)
    drawn = many(lambda *args, **kwargs: attend.apply(*args, **kwargs)[0], params, x)
    assert float(drawn.std(axis=0).min()) > 1e-3
    np.testing.assert_allclose(drawn.mean(axis=0), plain, atol=0.1)
    # One of 256 draws drops all four weights of both heads, which leaves only the projection's zero bias.
    assert float((drawn == 0).all(axis=-1).mean()) == pytest.approx(1 / 256, abs=0.002)


def test_dropout_drops_the_outputs_of_projection_and_mlp():
    x = jax.random.normal(jax.random.key(0), (1, 1, 4, 8))
    attend = layer(dropout_rate=0.25)
    params = attend.init(jax.random.key(1), x)
    drawn = many(lambda *args, **kwargs: attend.apply(*args, **kwargs)[0], params, x)
    assert float((drawn == 0).mean()) == pytest.approx(0.25, abs=0.01)
    np.testing.assert_allclose(drawn.mean(axis=0), attend.apply(params, x)[0], atol=0.1)
    mlp = Mlp(16, kernel_init=LINEAR, dtype=jnp.float32, dropout_rate=0.25)
    params = mlp.init(jax.random.key(1), x)
    drawn = many(mlp.apply, params, x)
    assert float((drawn == 0).mean()) == pytest.approx(0.25, abs=0.01)
    np.testing.assert_allclose(drawn.mean(axis=0), mlp.apply(params, x), atol=0.1)
    kept = [np.unique(np.asarray(drawn[:, 0, 0, 0, 0]).round(5))]
    assert len(kept[0]) > 2  # more than two values, so the hidden layer is dropped too


def test_dropout_drops_tokens():
    """If the blocks add nothing, the residual stream is the embedding."""
    model = tsf.TimeSformer(**{**TINY, "depth": 1}, dropout_rate=0.25)
    video = jax.random.normal(jax.random.key(0), (4, 4, 16, 16, 3))
    params = jax.jit(model.init)(jax.random.key(1), video)["params"]
    for name in (("attn", "proj"), ("mlp", "fc2")):
        last = params["blocks_0"][name[0]]
        last[name[1]] = jax.tree.map(jnp.zeros_like, last[name[1]])
    features = functools.partial(model.apply, {"params": params}, video, method="features", blocks=True)
    plain = jax.jit(features)().blocks
    dropped = jax.jit(lambda key: features(train=True, rngs={"dropout": key}))(jax.random.key(2)).blocks
    for a, b in zip(plain, dropped, strict=True):
        assert float((b == 0).mean()) == pytest.approx(0.25, abs=0.07)
        np.testing.assert_allclose(jnp.where(b == 0, 0, b), jnp.where(b == 0, 0, a / 0.75), rtol=1e-5)


@pytest.mark.slow_cases("True")
@pytest.mark.parametrize("rates", [{"dropout_rate": 0.3}, {"attention_dropout_rate": 0.3}, {"drop_path_rate": 0.3}], ids=str)
@pytest.mark.parametrize("scan_layers", [pytest.param(False, marks=pytest.mark.slow), True])
def test_dropout_applies_only_in_training(rates: dict[str, float], scan_layers: bool):
    model = tsf.TimeSformer(**TINY, **rates, scan_layers=scan_layers)
    video = jax.random.normal(jax.random.key(0), (2, 4, 16, 16, 3))
    params = random_variables(model)
    plain = jax.jit(model.clone(**dict.fromkeys(rates, 0.0)).apply)(params, video)
    np.testing.assert_array_equal(jax.jit(model.apply)(params, video), plain)
    train = jax.jit(lambda seed: model.apply(params, video, train=True, rngs={"dropout": jax.random.key(seed)}))
    assert float(jnp.abs(train(0) - plain).max()) > 1e-3
    assert float(jnp.abs(train(0) - train(1)).max()) > 1e-3
    np.testing.assert_array_equal(train(0), train(0))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (
            {"attention_implementation": "flash"},
            "attention_implementation must be one of auto, xla, .*, got 'flash'",
        ),
        ({"attention_implementation": {"time": "xla"}}, "A key of .* one of temporal, spatial, got 'time'"),
        ({"attention_implementation": {"temporal": "flash"}}, "must be one of auto, xla, .*, fused_tpu, got 'flash'"),
        ({"attention_implementation": "chunked", "attention_dropout_rate": 0.1}, "'auto' or 'xla', got 'chunked'"),
        ({"dropout_rate": 1.5}, "dropout_rate .* below 1, got 1.5"),
        ({"attention_dropout_rate": -0.1}, "attention_dropout_rate .* got -0.1"),
        ({"remat": "some"}, "remat must be one of none, dots, full, got 'some'"),
        ({"resize": "lanczos"}, "resize must be one of nearest, linear, bicubic, got 'lanczos'"),
    ],
)
def test_impossible_fields_are_rejected(fields: dict, words: str):
    with pytest.raises(tsf.InputError, match=words):
        tsf.TimeSformer(**TINY, **fields)
