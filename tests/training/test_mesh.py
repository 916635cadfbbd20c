"""The mesh, each process's shard of a batch, and the sharding of parameters."""

import re
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import timesformer_jax as tsf
from tests.training.test_batch_stats import MODEL as CONVOLUTIONAL
from timesformer_jax import training
from timesformer_jax.modeling import SCHEMES, parameter_shapes, variables_of, weight_shapes
from timesformer_jax.modeling.memory_order import row_major
from timesformer_jax.training.activations import split_activations
from timesformer_jax.training.mesh import AXES
from timesformer_jax.training.sharding import path_of

MODEL = tsf.create("timesformer-tiny", num_classes=8)
ADAMW = optax.adamw(1e-3)


@pytest.mark.parametrize(
    ("sizes", "shape"),
    [
        ({}, (8, 1, 1, 1)),
        ({"data": 1, "fsdp": -1}, (1, 8, 1, 1)),
        ({"data": 2, "fsdp": 2, "tensor": 2}, (2, 2, 2, 1)),
        ({"context": 4}, (2, 1, 1, 4)),
    ],
)
def test_mesh_has_the_requested_sizes(sizes: dict, shape: tuple):
    mesh = training.make_mesh(**sizes)
    assert tuple(mesh.shape.values()) == shape
    assert mesh.axis_names == AXES


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ({"data": 3}, r"must multiply to the number of devices, 8; got mesh.data=3"),
        ({"tensor": 3}, r"must multiply to the number of devices, 8, or divide it; got .*mesh.tensor=3"),
        ({"fsdp": -1}, r"one of them -1 for the remaining devices; got mesh.data=-1, mesh.fsdp=-1"),
        ({"tensor": 0}, r"at least 1.*mesh.tensor=0"),
    ],
)
def test_impossible_mesh_sizes_are_rejected(sizes: dict, words: str):
    with pytest.raises(tsf.InputError, match=words):
        training.make_mesh(**sizes)


def fake_mesh(processes: int, *sizes: int) -> Any:
    """Make a mesh of these sizes from fake devices, dealt out to the processes in turn."""
    count = int(np.prod(sizes))
    owners = np.arange(count) // (count // processes)
    devices = np.array([SimpleNamespace(process_index=int(owner)) for owner in owners], object).reshape(sizes)
    return SimpleNamespace(devices=devices, shape=dict(zip(AXES, sizes, strict=True)))


@pytest.mark.parametrize(
    ("processes", "sizes", "shares"),
    [
        (1, (8, 1, 1, 1), [(0, 1, True)]),
        (4, (8, 1, 1, 1), [(0, 4, True), (1, 4, True), (2, 4, True), (3, 4, True)]),
        (2, (2, 2, 2, 1), [(0, 2, True), (1, 2, True)]),
        (4, (2, 1, 1, 4), [(0, 2, True), (0, 2, False), (1, 2, True), (1, 2, False)]),  # two processes hold the same clips
        (2, (1, 1, 2, 4), [(0, 1, True), (0, 1, False)]),
    ],
)
def test_batch_shares_of_processes(monkeypatch: pytest.MonkeyPatch, processes: int, sizes: tuple, shares: list):
    share = getattr(training.batch_share, "__wrapped__", training.batch_share)  # the run-time type check requires a real mesh
    monkeypatch.setattr("timesformer_jax.training.mesh.batch_shards", lambda mesh: sizes[0] * sizes[1])
    assert [tuple(share(fake_mesh(processes, *sizes), process)) for process in range(processes)] == shares


def test_overlapping_batch_shares_are_rejected(monkeypatch: pytest.MonkeyPatch):
    share = getattr(training.batch_share, "__wrapped__", training.batch_share)
    monkeypatch.setattr("timesformer_jax.training.mesh.batch_shards", lambda mesh: 2)
    with pytest.raises(tsf.InputError, match=r"overlapping shares of a batch: let mesh.tensor x mesh.context divide"):
        share(fake_mesh(3, 2, 1, 1, 3), 0)


@pytest.mark.parametrize("batch_size", [12, 0, 4])
def test_batch_size_must_be_divisible_by_the_devices(batch_size: int):
    with pytest.raises(tsf.InputError, match=rf"train.batch_size={batch_size} .* 8 device.* multiple of 8, such as (8|16)"):
        training.local_batch_size("train.batch_size", batch_size, training.make_mesh())


def test_batch_size_must_be_divisible_by_the_micro_batches():
    mesh = training.make_mesh(data=2, context=4)
    assert training.local_batch_size("train.batch_size", 12, mesh, 3) == 12
    with pytest.raises(tsf.InputError, match=r"2 device\(s\) and 3 micro-batches: use a multiple of 6, such as 18"):
        training.local_batch_size("train.batch_size", 16, mesh, 3)


@pytest.mark.parametrize("scan_layers", [True, False])
@pytest.mark.parametrize("attention_type", SCHEMES)
def test_every_parameter_has_a_sharding(attention_type: str, scan_layers: bool):
    model = MODEL.clone(attention_type=attention_type, scan_layers=scan_layers, pre_norm=True)
    shapes = parameter_shapes(model)
    mesh = training.make_mesh(data=2, fsdp=2, tensor=2)
    placed = training.sharding_of(shapes, shapes, mesh)
    for keys, sharding in jax.tree_util.tree_flatten_with_path(placed)[0]:
        path, kernel = path_of(keys), path_of(keys).endswith("kernel")
        assert ("fsdp" in jax.tree.leaves(tuple(sharding.spec))) == kernel, path  # all large arrays are sharded


def test_parameter_without_a_sharding_is_an_error():
    tree = {"blocks_0": {"gate": {"weights": jax.ShapeDtypeStruct((4,), np.float32)}}}
    with pytest.raises(tsf.InputError, match=r"SHARDING_RULES matches the parameter blocks_0/gate/weights"):
        training.sharding_of(tree, tree, training.make_mesh())


def test_every_sharding_pattern_matches_a_parameter():
    paths = set()
    schemes = [parameter_shapes(MODEL.clone(attention_type=attention_type)) for attention_type in SCHEMES]
    for shapes in [*schemes, variables_of(weight_shapes(CONVOLUTIONAL))["params"]]:
        paths |= {path_of(keys) for keys, _ in jax.tree_util.tree_flatten_with_path(shapes)[0]}
    for pattern, _ in training.SHARDING_RULES:
        assert any(re.fullmatch(pattern, path) for path in paths), pattern


def test_moments_are_sharded_like_parameters_and_indivisible_ones_are_replicated():
    model = MODEL.clone(embed_dim=36, num_heads=2, mlp_ratio=3.0, scan_layers=True)
    mesh = training.make_mesh(data=1, fsdp=8)
    state = training.init_state(model, ADAMW, 0, mesh, ema=True)
    moments = [
        leaf
        for keys, leaf in jax.tree_util.tree_flatten_with_path(state.opt_state)[0]
        if path_of(keys).endswith("mu/blocks/mlp/fc2/kernel")
    ]
    (moment,) = moments
    for array in (moment, state.params["blocks"]["mlp"]["fc2"]["kernel"], state.ema["blocks"]["mlp"]["fc2"]["kernel"]):
        assert array.sharding.is_fully_replicated  # the hidden layer's width, 108, isn't divisible by 8
    mesh = training.make_mesh(data=2, fsdp=4)
    state = training.init_state(model, ADAMW, 0, mesh)
    kernel = state.params["blocks"]["mlp"]["fc2"]["kernel"]
    assert kernel.sharding.shard_shape(kernel.shape) == (2, 27, 36)


def test_memory_table_adds_up():
    model = MODEL.clone(scan_layers=True)
    mesh = training.make_mesh(data=2, fsdp=2, tensor=2)
    shapes = parameter_shapes(model)
    lines = training.sharding_table(shapes, jax.eval_shape(ADAMW.init, shapes), mesh).splitlines()
    figures = {line[:48].strip(): [float(word) for word in line[48:].split()] for line in lines[1:]}
    size = sum(leaf.size * 4 for leaf in jax.tree.leaves(shapes)) / 2**20
    assert figures["all parameters"][:2] == pytest.approx([len(jax.tree.leaves(shapes)), size], abs=0.01)
    assert figures["optimizer state"][1] == pytest.approx(2 * size, abs=0.01)
    assert 0.2 * size < figures["all parameters"][2] < 0.4 * size  # a quarter, plus the small arrays
    whole = sum(values[1] for name, values in figures.items() if not name.startswith(("all", "optimizer")))
    assert whole == pytest.approx(size, abs=0.05)


@pytest.mark.parametrize(
    ("changes", "sizes", "words"),
    [
        ({"num_heads": 2}, {"tensor": 4}, r"mesh.tensor=4 must divide the model's 2 heads and the MLP's 256 hidden"),
        ({"attention_type": "joint_space_time"}, {"context": 2}, r"only divided_space_time, space_only, axial support"),
        ({"num_frames": 6}, {"context": 4}, r"mesh.context=4 must divide the 6 frames and the 4 x 4 = 16 patches"),
    ],
)
def test_unsuitable_meshes_are_rejected(changes: dict, sizes: dict, words: str):
    with pytest.raises(tsf.InputError, match=words):
        training.check_mesh(MODEL.clone(**changes), training.make_mesh(**sizes))


def test_layout_of_tokens_needs_no_compilation():
    """With `debug`, JAX runs a step that made a NaN again, operation by operation."""
    tokens = jnp.ones((2, 4, 4, 8))
    with split_activations(training.make_mesh(jax.devices()[:2])):
        np.testing.assert_array_equal(row_major(tokens), tokens)
