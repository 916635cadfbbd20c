"""The function for a platform, chosen while a sharded model is traced."""

from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, Mesh

import timesformer_jax as tsf
from tests.modeling.test_computation import TINY, equations
from timesformer_jax.modeling import per_device
from timesformer_jax.modeling.block import Block
from timesformer_jax.modeling.per_device import placed_on, platform_dependent
from timesformer_jax.training.activations import split_activations
from timesformer_jax.training.mesh import make_mesh


def chosen(x: jax.Array) -> jax.Array:
    return platform_dependent(x, default=lambda x: x, cuda=lambda x: 10 * x, tpu=lambda x: 100 * x)


@pytest.fixture
def mesh() -> Mesh:
    return jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:2])


@pytest.mark.parametrize(("platform", "expected"), [("cpu", 1), ("cuda", 10), ("tpu", 100), ("rocm", 1)])
def test_the_mesh_decides(platform: str, expected: int, mesh: Mesh, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(per_device, "_platform_of", lambda _: platform)
    with placed_on(mesh, {}):
        assert chosen(jnp.ones(())) == expected
    assert chosen(jnp.ones(())) == 1  # these devices are CPUs


def test_platform_of_a_mesh(mesh: Mesh):
    assert per_device._platform_of(mesh) == "cpu"


@pytest.mark.parametrize("attention_type", ["divided_space_time", "joint_space_time"])
def test_sharded_programs_have_no_conditionals(attention_type: str):
    """A conditional behind a checkpoint stays in the compiled program, and what is in it isn't optimized."""
    model = tsf.TimeSformer(**TINY, attention_type=attention_type, dtype=jnp.bfloat16)
    video = jnp.ones((8, 4, 16, 16, 3))
    variables = jax.eval_shape(model.init, jax.random.key(0), video)

    def conditionals() -> int:
        def loss(variables: Any) -> jax.Array:
            return model.apply(variables, video).astype(jnp.float32).sum()

        return equations(jax.make_jaxpr(jax.grad(loss))(variables).jaxpr, "cond")

    assert conditionals() > 0
    with split_activations(make_mesh(jax.devices(), fsdp=8)):
        assert conditionals() == 0


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
