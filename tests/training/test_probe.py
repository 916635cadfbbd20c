"""Heads trained together on frozen features: each as if alone, on one device or eight, with the model unchanged."""

import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import timesformer_jax as tsf
from tests.support import random_variables
from timesformer_jax import training
from timesformer_jax.video import normalize

MODEL = tsf.TimeSformer(num_classes=3, image_size=16, patch_size=8, num_frames=4, embed_dim=16, depth=1, num_heads=2)
RATES = training.probe_rates((1e-2, 1e-3), (0.0, 0.5))
STEPS = 3


def prepare(key: jax.Array, batch: dict[str, jax.Array]) -> jax.Array:
    """Apply random brightness, so that the step's random keys matter."""
    bright = jax.random.uniform(key, (len(batch["video"]), 1, 1, 1, 1))
    return normalize(batch["video"], (0.45,) * 3, (0.225,) * 3) + bright


def plain(batch: dict[str, jax.Array]) -> jax.Array:
    return normalize(batch["video"], (0.45,) * 3, (0.225,) * 3)


def batches(count: int, several: bool = False) -> list[dict[str, np.ndarray]]:
    random = np.random.default_rng(0)

    def labels() -> np.ndarray:
        return random.integers(0, 2, (16, 3), dtype=np.int32) if several else random.integers(0, 3, 16, dtype=np.int32)

    return [{"video": random.integers(0, 256, (16, 4, 16, 16, 3), dtype=np.uint8), "label": labels()} for _ in range(count)]


def parts(kind: str, devices: int, rates: list[training.Rates]) -> dict[str, Any]:
    return {
        "model": MODEL,
        "probe": training.make_probe(kind=kind, model=MODEL, depth=2, num_heads=2),
        "kind": kind,
        "mesh": training.make_mesh(jax.devices()[:devices]),
        "optimizer": training.make_probe_optimizer(rates=rates, num_epochs=1.0, steps_per_epoch=STEPS),
    }


@functools.cache
def trained(kind: str, devices: int = 1, heads: tuple[int, ...] = (0, 1, 2, 3), **options: Any):
    """Return the metrics of every step, the last parameters, and the frozen ones afterwards."""
    rates = [RATES[i] for i in heads]
    given = parts(kind, devices, rates)
    state = training.init_probe_state(
        model=MODEL,
        probe=given["probe"],
        kind=kind,
        optimizer=given["optimizer"],
        num_heads=len(rates),
        seed=0,
        mesh=given["mesh"],
    )
    step = training.make_probe_step(**given, prepare=prepare, seed=0, **options)
    backbone = jax.device_put(random_variables(MODEL)["params"], training.replicated(given["mesh"]))
    metrics = []
    for batch in batches(STEPS, several=options.get("objective") == "sigmoid"):
        state, values = step(state, backbone, training.to_devices(batch, given["mesh"]))
        metrics.append(jax.device_get(values))
    return metrics, jax.device_get(state.params), jax.device_get(backbone), state


@pytest.mark.slow_cases("attentive")
@pytest.mark.parametrize("kind", training.PROBES)
def test_probe_head_trains_as_if_alone(kind: str):
    metrics, params, _, _ = trained(kind)
    for i in range(len(RATES)) if kind == "linear" else (2,):
        alone, own, _, _ = trained(kind, heads=(i,))
        for at_once, single in zip(metrics, alone, strict=True):
            np.testing.assert_allclose(at_once["loss"][i], single["loss"][0], atol=1e-6)
        _compare(jax.tree.map(lambda x, i=i: x[i], params), jax.tree.map(lambda x: x[0], own), 1e-6)
    assert len({float(loss) for loss in metrics[-1]["loss"]}) == len(RATES)  # and each differs from the others


@pytest.mark.parametrize("kind", training.PROBES)
def test_probe_agrees_on_one_and_eight_devices(kind: str):
    one, eight = trained(kind), trained(kind, devices=8)
    for a, b in zip(one[0], eight[0], strict=True):
        np.testing.assert_allclose(a["loss"], b["loss"], rtol=1e-5)
        np.testing.assert_array_equal(a["top1"], b["top1"])
    _compare(one[1], eight[1], 1e-5)
    assert all(leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(eight[3]))


def test_grouped_heads_equal_all_heads_at_once():
    _compare(trained("linear")[1], trained("linear", heads_at_once=3)[1], 1e-6)


def _compare(ours: Any, theirs: Any, tolerance: float) -> None:
    def one(keys: Any, a: np.ndarray, b: np.ndarray) -> None:
        if "qkv" in jax.tree_util.keystr(keys) and "bias" in jax.tree_util.keystr(keys):
            # The gradient of a key's bias is pure rounding noise, which Adam turns into steps.
            a, b = (np.delete(x, 1, axis=x.ndim - 3) for x in (a, b))
        np.testing.assert_allclose(a, b, atol=tolerance, rtol=tolerance)

    jax.tree_util.tree_map_with_path(one, ours, theirs)


def test_probe_freezes_the_model():
    """It stays unchanged, and a step costs little more than the forward pass: no gradient passes through the blocks."""
    before = random_variables(MODEL)["params"]
    jax.tree.map(np.testing.assert_array_equal, before, trained("linear")[2])
    model, state = MODEL.clone(depth=3), trained("linear")[3]
    params = random_variables(model)["params"]
    step = training.make_probe_step(**{**parts("linear", 1, RATES), "model": model}, prepare=prepare, seed=0)
    (batch,) = batches(1)

    def forward(params: Any, batch: Any) -> Any:
        return model.apply({"params": params}, plain(batch), method="features").cls

    def flops(function: Any) -> float:
        return jax.jit(function).lower(params, batch).cost_analysis()["flops"]

    needed = flops(forward)
    assert 0.9 * needed < flops(lambda params, batch: step(state, params, batch)[1]) < 1.2 * needed


def test_probe_with_multiple_labels_per_clip():
    metrics, _, _, _ = trained("linear", objective="sigmoid")
    assert metrics[0]["loss"] == pytest.approx([np.log(2)] * 4, abs=0.1)
    assert metrics[-1]["loss"].max() < 1


@pytest.mark.parametrize("kind", training.PROBES)
def test_probe_scores_all_heads_in_one_pass(kind: str):
    given = {name: part for name, part in parts(kind, 8, RATES).items() if name != "optimizer"}
    params, backbone = trained(kind)[1], random_variables(MODEL)["params"]
    (batch,) = batches(1)
    score = training.make_probe_score_fn(**given, prepare=plain)
    scores = score((backbone, params), training.to_devices({"video": batch["video"]}, given["mesh"]))
    by_head = np.asarray(scores).reshape(16, len(RATES), 3)
    np.testing.assert_allclose(by_head.sum(axis=-1), 1.0, atol=1e-5)
    features: Any = jax.jit(functools.partial(MODEL.apply, method="features"))(
        {"params": backbone}, plain(jax.tree.map(jnp.asarray, batch))
    )
    for i in range(len(RATES)):
        head = jax.tree.map(lambda x, i=i: x[i], params)
        logits = given["probe"].apply({"params": head}, training.PROBES[kind].read(features))
        np.testing.assert_allclose(by_head[:, i], jax.nn.softmax(logits), atol=1e-5)


def test_linear_head_replaces_the_classifier():
    """Merged into the model's parameters, it yields the model's logits."""
    head = jax.tree.map(lambda x: x[0], trained("linear")[1])
    params = {**random_variables(MODEL)["params"], **head}
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, random_variables(MODEL)["params"])
    video = plain(jax.tree.map(jnp.asarray, batches(1)[0]))
    features: Any = jax.jit(functools.partial(MODEL.apply, method="features"))({"params": params}, video)
    expected = training.LinearProbe(3).apply({"params": head}, features.cls)
    np.testing.assert_allclose(jax.jit(MODEL.apply)({"params": params}, video), expected, atol=1e-5)


def test_weight_decay_applies_per_head_and_only_to_kernels():
    """Without gradients only decay moves a parameter: by rate x decay, times the schedule's factor."""
    params = {"head": {"kernel": jnp.ones((4, 2, 2)), "bias": jnp.ones((4, 2))}, "query": jnp.ones((4, 1, 1, 2))}
    optimizer = training.make_probe_optimizer(rates=RATES, num_epochs=1.0, steps_per_epoch=1000.0)
    state, zeros = optimizer.init(params), jax.tree.map(jnp.zeros_like, params)
    for _ in range(51):  # the warm-up is over after 50
        updates, state = optimizer.update(zeros, state, params)
    expected = [-rate.learning_rate * rate.weight_decay for rate in RATES]
    np.testing.assert_allclose(updates["head"]["kernel"][:, 0, 0], expected, rtol=1e-4)
    assert not updates["head"]["bias"].any()
    assert not updates["query"].any()


def test_attentive_probe_is_saved_and_loaded(tmp_path: Path):
    probe = training.make_probe(kind="attentive", model=MODEL, depth=2, num_heads=2)
    params = jax.tree.map(lambda x: x[0], trained("attentive")[1])
    training.write_probe(tmp_path / "probe.npz", probe, params, {"labels": ["a", "ü"]})
    assert [path.name for path in tmp_path.iterdir()] == ["probe.npz"]
    again, loaded, notes = training.read_probe(tmp_path / "probe.npz")
    assert (again, notes) == (probe, {"labels": ["a", "ü"]})
    jax.tree.map(np.testing.assert_array_equal, params, loaded)
    (tmp_path / "other.npz").write_bytes(b"PK")
    for name, words in (
        ("other.npz", "is damaged .*: train the probe again"),
        ("none.npz", "There is no file"),
    ):
        with pytest.raises(tsf.InputError, match=words):
            training.read_probe(tmp_path / name)


@pytest.mark.parametrize(
    ("rates", "decays", "words"),
    [
        ((), (0.1,), r"probe.learning_rates must be one or more numbers, each positive.*got \(\)"),
        ((0.1, 0.0), (0.1,), "probe.learning_rates .* positive"),
        ((0.1,), (-0.1,), "probe.weight_decays .* of at least 0"),
        ((float("nan"),), (0.1,), "probe.learning_rates .* positive"),
    ],
)
def test_impossible_probe_rates_are_rejected(rates: Any, decays: Any, words: str):
    with pytest.raises(tsf.InputError, match=words):
        training.probe_rates(rates, decays)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"kind": "mlp"}, "probe.kind must be one of linear, attentive, got 'mlp'"),
        ({"depth": 0}, "probe.depth must be at least 1"),
        ({"num_heads": 3}, "probe.num_heads must be at least 1 and divide model.embed_dim=16, got 3"),
    ],
)
def test_impossible_probes_are_rejected(changes: dict, words: str):
    with pytest.raises(tsf.InputError, match=words):
        training.make_probe(**{"kind": "attentive", "model": MODEL, "depth": 1, "num_heads": 2, **changes})
