"""The TPU kernels, interpreted, equal attention as defined in the paper."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

import timesformer_jax as tsf
from tests.support import random_variables
from timesformer_jax import training
from timesformer_jax.modeling.kernels.tpu_attention import tpu_attention
from timesformer_jax.modeling.kernels.tpu_tiles import fits
from timesformer_jax.training.activations import split_activations

close = functools.partial(np.testing.assert_allclose, atol=1e-4, rtol=1e-4)


def plain(qkv: jax.Array, bias: jax.Array, cls: jax.Array | None = None) -> tuple[jax.Array, jax.Array | None]:
    """Equations 5 to 7, one operation after the other."""
    batch, x, length, y, *parts = qkv.shape
    tokens = qkv.swapaxes(2, 3)  # [B, X, Y, L, 3, h, d]
    if cls is not None:
        copies = jnp.broadcast_to(cls[:, :, None, None], (batch, x, y, 1, *parts))
        tokens = jnp.concatenate([tokens, copies], axis=3)
    query, key, value = jnp.moveaxis(tokens + bias[None, None, None, None], 4, 0)
    scores = jnp.einsum("bxyqhd,bxykhd->bxyhqk", query, key, precision="highest") * parts[-1] ** -0.5
    mixed = jnp.einsum("bxyhqk,bxykhd->bxyqhd", jax.nn.softmax(scores, axis=-1), value, precision="highest")
    return mixed[:, :, :, :length].swapaxes(2, 3), None if cls is None else mixed[:, :, :, length]


@pytest.mark.parametrize(
    ("strides", "heads", "head_dim", "num_cls"),
    [
        pytest.param((1, 8, 20), 4, 64, 0, id="over time, the last tile not full"),
        pytest.param((1, 20, 9), 4, 32, 0, id="over many frames, four heads in a row of lanes"),
        pytest.param((3, 20, 1), 2, 64, 1, id="a frame and the clip's CLS"),
        pytest.param((3, 20, 1), 2, 64, 3, id="a frame and its CLS"),
        pytest.param((6, 14, 1), 1, 128, 0, id="several rows of patches in a tile"),
        pytest.param((2, 3, 14), 2, 64, 1, id="columns of patches and the clip's CLS"),
        pytest.param((2, 3, 14), 2, 64, 2, id="columns of patches and their frame's CLS"),
        pytest.param((1, 18, 8), 2, 64, 1, id="over many frames, with the CLS"),
        pytest.param((1, 280, 1), 4, 64, 1, id="a long group and the CLS"),
        pytest.param((2, 260, 1), 1, 128, 0, id="a long group"),
    ],
)
def test_outputs_and_gradients(strides: tuple[int, int, int], heads: int, head_dim: int, num_cls: int):
    keys = jax.random.split(jax.random.key(0), 4)
    qkv = jax.random.normal(keys[0], (2, *strides, 3, heads, head_dim))
    bias = jax.random.normal(keys[1], (3, heads, head_dim))
    cls = jax.random.normal(keys[2], (2, num_cls, 3, heads, head_dim)) if num_cls else None
    assert fits(strides, heads, head_dim, num_cls > 0)

    def outcome(attend: Any) -> Any:
        outputs, backward = jax.vjp(attend, qkv, bias, cls)
        return outputs, backward(jax.tree.map(lambda x: jax.random.normal(keys[3], x.shape), outputs))

    jax.tree.map(close, *(jax.jit(functools.partial(outcome, attend))() for attend in (tpu_attention, plain)))


MODEL = tsf.TimeSformer(
    num_classes=3, image_size=32, patch_size=8, num_frames=4, embed_dim=128, depth=2, num_heads=2, scan_layers=True
)


def loss_and_gradients(model: tsf.TimeSformer, mesh: Any = None) -> Any:
    video = jax.random.normal(jax.random.key(0), (4, 4, 32, 32, 3))

    def loss(variables: Any, video: jax.Array) -> Any:
        logits: Any = model.apply(variables, video, train=True)
        return (logits**2).sum(), logits

    compute = jax.value_and_grad(loss, has_aux=True)
    if mesh is None:
        return jax.jit(compute)(random_variables(model), video)
    with split_activations(mesh):
        return jax.jit(compute)(random_variables(model), jax.device_put(video, training.batch_sharding(mesh)))


@functools.cache
def expected() -> Any:
    return loss_and_gradients(MODEL.clone(attention_implementation="xla"))


@pytest.mark.parametrize(
    "sizes",
    [None, {"data": 1, "fsdp": 2, "context": 4}, pytest.param({"data": 4, "tensor": 2}, marks=pytest.mark.slow)],
    ids=str,
)
def test_a_model_computes_the_same_on_one_device_and_on_eight(sizes: dict[str, Any] | None):
    """With `tensor`, a device has one head of 64, half a row of lanes, and the kernels are replaced by ordinary operations."""
    mesh = training.make_mesh(**sizes) if sizes else None
    got = loss_and_gradients(MODEL.clone(attention_implementation="fused_tpu"), mesh)
    jax.tree.map(lambda a, b: close(a, b, atol=1e-5 * float(np.abs(b).max()) + 1e-7), got, expected())


@pytest.mark.parametrize("attention_type", ["joint_space_time", "local_global", "axial"])
def test_a_model_of_any_scheme_computes_the_same(attention_type: str):
    """Local, global and vertical groups have no strides that the kernels could follow, or a CLS between them."""
    model = MODEL.clone(attention_type=attention_type, patch_size=4, depth=1, scan_layers=False)
    video, variables = jax.random.normal(jax.random.key(0), (1, 4, 32, 32, 3)), random_variables(model)
    got, want = (jax.jit(model.clone(attention_implementation=name).apply)(variables, video) for name in ("fused_tpu", "xla"))
    close(got, want, atol=1e-5, rtol=1e-5)


def attention_shardings(jaxpr: Any) -> list[tuple[str, Any]]:
    """Return the pass and the sharding of the packed product of every kernel in a traced program."""
    found = [
        (equation.params["direction"], equation.params["inputs"][0])
        for equation in jaxpr.eqns
        if equation.primitive.name == "tpu_attention"
    ]
    inner = (attention_shardings(sub) for equation in jaxpr.eqns for sub in jaxprs_in_params(equation.params))
    return sum(inner, found)


@pytest.mark.parametrize("remat", ["none", "full"])
def test_tpu_attention_shards_both_passes(remat: str):
    """Derivatives are traced after the context that places the model has ended."""
    mesh = training.make_mesh(data=8)
    model = MODEL.clone(attention_implementation="fused_tpu", remat=remat)

    def loss(variables: Any, video: jax.Array) -> jax.Array:
        with split_activations(mesh):
            logits: Any = model.apply(variables, video, train=True)
        return (logits**2).sum()

    video = jax.ShapeDtypeStruct((8, 4, 32, 32, 3), jnp.float32)
    found = attention_shardings(jax.make_jaxpr(jax.grad(loss))(random_variables(model), video).jaxpr)
    assert {direction for direction, _ in found} == {"forward", "backward"}
    assert all(sharding is not None and sharding.spec[0] for _, sharding in found)


def test_tpu_attention_is_sharded_by_frame_unless_groups_span_frames():
    """With `mesh.context`, no step gathers what another axis of its groups already splits."""
    mesh = training.make_mesh(data=2, context=4)
    model = MODEL.clone(attention_implementation="fused_tpu", attention_type="axial", patch_size=4, scan_layers=False)

    def apply(variables: Any, video: jax.Array) -> Any:
        with split_activations(mesh):
            return model.apply(variables, video)

    video = jax.ShapeDtypeStruct((2, 4, 32, 32, 3), jnp.float32)
    found = attention_shardings(jax.make_jaxpr(apply)(random_variables(model), video).jaxpr)
    split = [[axis for axis, names in enumerate(sharding.spec) if names and "context" in names] for _, sharding in found]
    time, width, height = [3], [1], [1]
    assert split[:3] == [time, width, height]


def test_heads_enter_and_leave_each_device_as_one_axis():
    """TPUs pad the last two axes, so XLA copied products that were divided into heads at the boundary."""
    mesh = training.make_mesh(data=8)
    model = MODEL.clone(attention_implementation="fused_tpu")

    @jax.jit
    def gradients(variables: Any, video: jax.Array) -> Any:
        def loss(variables: Any) -> jax.Array:
            logits: Any = model.apply(variables, video)
            return (logits**2).sum()

        with split_activations(mesh):
            return jax.grad(loss)(variables)

    video = jax.ShapeDtypeStruct((8, 4, 32, 32, 3), jnp.float32, sharding=training.batch_sharding(mesh))
    lines = gradients.lower(random_variables(model), video).as_text().splitlines()
    opened = [line for line in lines if "sdy.manual_computation" in line]
    assert len(opened) > 4
    assert not [line for line in opened if "x3x2x64x" in line or "x2x64x" in line]
