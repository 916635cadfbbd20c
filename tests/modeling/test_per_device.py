"""The function for a platform, chosen while a sharded model is traced."""

import math
from collections import Counter
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, Mesh

import timesformer_jax as tsf
from tests.modeling.test_computation import TINY, equations
from timesformer_jax.modeling import per_device
from timesformer_jax.modeling.block import Block
from timesformer_jax.modeling.per_device import current_placement, placed_on, platform_dependent
from timesformer_jax.training.activations import split_activations
from timesformer_jax.training.mesh import make_mesh


def chosen(x: jax.Array) -> jax.Array:
    return platform_dependent(x, default=lambda x: x, cuda=lambda x: 10 * x, tpu=lambda x: 100 * x)


@pytest.fixture(params=[1, 2])
def mesh(request: pytest.FixtureRequest) -> Mesh:
    return jax.make_mesh((request.param,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[: request.param])


@pytest.mark.parametrize(("platform", "expected"), [("cpu", 1), ("cuda", 10), ("tpu", 100), ("rocm", 1)])
def test_the_mesh_decides(platform: str, expected: int, mesh: Mesh, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(per_device, "_platform_of", lambda _: platform)
    with placed_on(mesh, {}):
        assert chosen(jnp.ones(())) == expected
    assert chosen(jnp.ones(())) == 1  # these devices are CPUs


def test_functions_for_a_platform_choose_for_it():
    """Both traces of the choice within have one function for a platform, and all of them in what others share."""

    def nested(x: jax.Array) -> jax.Array:
        return platform_dependent(x, cuda=chosen, default=chosen)

    def branches(jaxpr: Any) -> list[Any]:
        return next(each.params["branches"] for each in jaxpr.eqns if each.primitive.name == "cond")

    for_cuda, for_others = branches(jax.make_jaxpr(nested)(1.0).jaxpr)
    assert [each.primitive.name for each in for_cuda.eqns] == ["mul"]
    assert len(branches(for_others)) == 3


def test_platform_of_a_mesh(mesh: Mesh):
    assert per_device._platform_of(mesh) == "cpu"


def test_one_device_shards_nothing():
    with placed_on(make_mesh(jax.devices()[:1]), {"clips": "data"}):
        assert current_placement() is None


@pytest.mark.parametrize(
    ("attention_type", "mesh"),
    [("divided_space_time", {"fsdp": 8}), ("joint_space_time", {"fsdp": 8}), ("divided_space_time", {"data": 1})],
)
def test_programs_for_a_mesh_have_no_conditionals(attention_type: str, mesh: dict[str, int]):
    """A conditional behind a checkpoint stays in the compiled program, and what is in it isn't optimized."""
    model = tsf.TimeSformer(**TINY, attention_type=attention_type, dtype=jnp.bfloat16)
    video = jnp.ones((8, 4, 16, 16, 3))
    variables = jax.eval_shape(model.init, jax.random.key(0), video)

    def conditionals() -> int:
        def loss(variables: Any) -> jax.Array:
            return model.apply(variables, video).astype(jnp.float32).sum()

        return equations(jax.make_jaxpr(jax.grad(loss))(variables).jaxpr, "cond")

    assert conditionals() > 0
    with split_activations(make_mesh(jax.devices()[: math.prod(mesh.values())], **mesh)):
        assert conditionals() == 0


def test_choice_among_equals_is_no_conditional():
    """In float32, all platforms have the same implementation."""
    model = tsf.TimeSformer(**TINY)
    video = jnp.ones((1, 4, 16, 16, 3))
    variables = jax.eval_shape(model.init, jax.random.key(0), video)
    assert equations(jax.make_jaxpr(lambda v: model.apply(v, video))(variables).jaxpr, "cond") == 0


@pytest.mark.parametrize(("clips", "composed"), [(8, False), (16, True)])
def test_layers_are_composed_if_a_device_has_enough_patches(clips: int, composed: bool, monkeypatch: pytest.MonkeyPatch):
    """A clip has 16 patches, each of 8 devices a share of the clips, and the composition costs as much as 24 patches."""
    model = tsf.TimeSformer(**TINY)
    video = jnp.ones((clips, 4, 16, 16, 3))
    variables = jax.eval_shape(model.init, jax.random.key(0), video)

    def products() -> int:
        with split_activations(make_mesh(jax.devices())):
            return equations(jax.make_jaxpr(lambda v: model.apply(v, video))(variables).jaxpr, "dot_general")

    chosen = products()
    monkeypatch.setattr(Block, "_composes", lambda *_: False)
    assert (chosen != products()) == composed


def test_blocks_share_the_traces_of_kernels(monkeypatch: pytest.MonkeyPatch):
    """Tracing a kernel takes longer than tracing the rest of a block."""
    from jax.experimental import pallas as pl

    traced: Counter[tuple[str, str]] = Counter()
    call = pl.pallas_call

    def counting(kernel: Any, *, name: str, out_shape: Any, **how: Any) -> Any:
        traced[name, str(out_shape)] += 1
        return call(kernel, name=name, out_shape=out_shape, **how)

    monkeypatch.setattr(pl, "pallas_call", counting)
    model = tsf.TimeSformer(**{**TINY, "depth": 4, "embed_dim": 80, "num_heads": 5}, dtype=jnp.bfloat16)  # not seen before
    video = jnp.ones((2, 4, 16, 16, 3))
    variables = jax.eval_shape(model.init, jax.random.key(0), video)
    traced.clear()
    jax.make_jaxpr(jax.grad(lambda v: model.apply(v, video).astype(jnp.float32).sum()))(variables)
    assert {name for name, _ in traced} >= {"attention_backward", "layer_norm_backward"}
    assert max(traced.values()) <= 2  # once more for derivatives
