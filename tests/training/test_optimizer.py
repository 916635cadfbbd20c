"""Optimizers, schedules and their tables, each against a few lines of NumPy."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import timesformer_jax as tsf
from timesformer_jax import training
from timesformer_jax.modeling import parameter_shapes
from timesformer_jax.training.optimizer import layer_factors

OPTIONS = {
    "name": "adamw",
    "learning_rate": 0.1,
    "schedule": "constant",
    "steps": (),
    "warmup_epochs": 0.0,
    "weight_decay": 0.0,
    "decay_pattern": ".*/kernel",
    "clip_norm": 0.0,
    "momentum": 0.9,
    "b2": 0.99,
    "layer_decay": 1.0,
    "rates": ((".*", 1.0),),
    "depth": 2,
    "num_epochs": 15.0,
    "steps_per_epoch": 10.0,
}


def make(**changes) -> training.Optimizer:
    return training.make_optimizer(**{**OPTIONS, **changes})


def draw(seed: int) -> dict:
    random = np.random.default_rng(seed)
    return {"head": {"kernel": random.normal(size=(3, 2)), "bias": random.normal(size=2)}}


def as_float32(tree: dict) -> dict:
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), tree)


def run(optimizer: training.Optimizer, steps: int = 4) -> dict:
    params = as_float32(draw(0))
    state = optimizer.transformation.init(params)
    for step in range(steps):
        updates, state = optimizer.transformation.update(as_float32(draw(step + 1)), state, params)
        params = jax.tree.map(jnp.add, params, updates)
    return params["head"]


def by_hand(rule, decay: float, steps: int = 4) -> dict:
    """Apply `rule(step, p, g, memory, decay)`, which returns p, to the kernel (with decay) and the bias (without)."""
    result = {}
    for name in ("kernel", "bias"):
        p, memory = draw(0)["head"][name], {}
        for step in range(steps):
            p = rule(step, p, draw(step + 1)["head"][name], memory, decay if name == "kernel" else 0.0)
        result[name] = p
    return result


def sgd(step, p, g, memory, decay):
    """PyTorch's SGD: decay is added to the gradient; Nesterov momentum."""
    g = g + decay * p
    memory["m"] = 0.9 * memory.get("m", 0) + g
    return p - 0.1 * (g + 0.9 * memory["m"])


def adam_direction(step, g, memory, epsilon):
    memory["m"] = 0.9 * memory.get("m", 0) + 0.1 * g
    memory["v"] = 0.99 * memory.get("v", 0) + 0.01 * g**2
    return memory["m"] / (1 - 0.9 ** (step + 1)) / (np.sqrt(memory["v"] / (1 - 0.99 ** (step + 1))) + epsilon)


def adamw(step, p, g, memory, decay):
    return p - 0.1 * (adam_direction(step, g, memory, 1e-8) + decay * p)


def lamb(step, p, g, memory, decay):
    direction = adam_direction(step, g, memory, 1e-6) + decay * p
    return p - 0.1 * np.linalg.norm(p) / np.linalg.norm(direction) * direction


def lion(step, p, g, memory, decay):
    m = memory.get("m", 0)
    memory["m"] = 0.99 * m + 0.01 * g
    return p - 0.1 * (np.sign(0.9 * m + 0.1 * g) + decay * p)


RULES = {"sgd": sgd, "adamw": adamw, "lamb": lamb, "lion": lion}


def test_every_optimizer_has_a_reference():
    assert RULES.keys() == training.OPTIMIZERS.keys()


@pytest.mark.parametrize("name", RULES)
def test_optimizers_match_their_references(name: str):
    """Four steps, with decay of the kernel but not of the bias."""
    got, expected = run(make(name=name, weight_decay=0.3)), by_hand(RULES[name], 0.3)
    for leaf in ("kernel", "bias"):
        np.testing.assert_allclose(got[leaf], expected[leaf], rtol=2e-5, atol=1e-6)


def test_stacked_blocks_are_updated_like_single_ones():
    """Includes LAMB, whose ratio is per array: stacked blocks of very different norms would share one."""
    random = np.random.default_rng(0)
    lengths = np.array([1.0, 0.1, 0.01])[:, None, None]
    kernels, grads = (jnp.asarray(random.normal(size=(3, 4, 2)) * lengths, jnp.float32) for _ in range(2))
    for name in training.OPTIMIZERS:
        made = make(name=name, weight_decay=0.1, layer_decay=0.5, depth=3).transformation
        stacked, single = (
            made.update(as_tree(grads), made.init(as_tree(kernels)), as_tree(kernels))[0]
            for as_tree in (
                lambda x: {"blocks": {"kernel": x}},
                lambda x: {f"blocks_{i}": {"kernel": x[i]} for i in range(3)},
            )
        )
        expected = np.stack([single[f"blocks_{i}"]["kernel"] for i in range(3)])
        np.testing.assert_allclose(stacked["blocks"]["kernel"], expected, rtol=1e-5, atol=1e-9)


def test_clipping_comes_before_decay_and_momentum():
    norm = np.sqrt(sum((g**2).sum() for g in draw(1)["head"].values()))

    def rule(step, p, g, memory, decay):
        return sgd(step, p, g * 0.5 / norm, memory, decay)

    got, expected = run(make(name="sgd", weight_decay=0.3, clip_norm=0.5), 1), by_hand(rule, 0.3, 1)
    np.testing.assert_allclose(got["kernel"], expected["kernel"], rtol=2e-5)


def test_clipping_can_be_toggled_between_runs():
    """The optimizer state has the same structure either way."""
    with_clip, without = (make(clip_norm=norm).transformation.init(as_float32(draw(0))) for norm in (1.0, 0.0))
    assert jax.tree.structure(with_clip) == jax.tree.structure(without)


@pytest.mark.parametrize("scan_layers", [True, False])
def test_layer_decay_scales_each_block(scan_layers: bool):
    """1 for the classifier and the last LayerNorm, one factor less per block from the last one down, then the embeddings."""
    model = tsf.create("timesformer-tiny", num_classes=3, depth=3, scan_layers=scan_layers)
    shapes = parameter_shapes(model)
    factors = layer_factors(shapes, 0.5, 3, lambda path: 2.0 if path.startswith("head") else 1.0)
    expected = {"head": 2.0, "norm": 1.0, "patch_embed": 0.5**4, "pos_embed": 0.5**4, "cls_token": 0.5**4, "time_embed": 0.5**4}
    for name, value in expected.items():
        assert {float(factor) for factor in jax.tree.leaves(factors[name])} == {value}
    if scan_layers:
        kernel = factors["blocks"]["mlp"]["fc1"]["kernel"]
        assert kernel.shape == (3, 1, 1)
        assert kernel.ravel().tolist() == [0.125, 0.25, 0.5]
    else:
        assert [float(factors[f"blocks_{i}"]["mlp"]["fc1"]["kernel"]) for i in range(3)] == [0.125, 0.25, 0.5]


def test_rates_scale_the_update_and_none_freezes():
    plain, changed = (run(make(rates=rates), 1) for rates in (((".*", 1.0),), ((".*/bias", None), (".*", 3.0))))
    before = draw(0)["head"]
    np.testing.assert_allclose(changed["kernel"] - before["kernel"], 3 * (plain["kernel"] - before["kernel"]), rtol=1e-4)
    np.testing.assert_array_equal(changed["bias"], before["bias"].astype(np.float32))
    optimizer = make(rates=((".*/bias", None), (".*", 3.0)))
    assert optimizer.trained(draw(0)) == {"head": {"kernel": True, "bias": False}}


def test_every_parameter_must_be_matched():
    with pytest.raises(tsf.InputError, match=r"rates has no pattern for the parameter head/bias: end it with \('\.\*', 1\.0\)"):
        make(rates=(("head/kernel", 1.0),)).transformation.init(as_float32(draw(0)))


SCHEDULES = {
    "constant": ({}, [(0, 1.0), (14.9, 1.0)]),
    "linear": ({}, [(0, 1.0), (7.5, 0.5), (15, 0.0)]),
    "cosine": ({"warmup_epochs": 5.0}, [(0, 0.0), (2.5, 0.5), (5, 1.0), (10, 0.5), (15, 0.0)]),
    "steps": (
        {"steps": ((0, 1.0), (11, 0.1), (14, 0.01))},
        [(0, 1.0), (10.9, 1.0), (11, 0.1), (13.9, 0.1), (14, 0.01), (15, 0.01)],
    ),
}


def test_every_schedule_has_expected_values():
    assert SCHEDULES.keys() == training.SCHEDULES.keys()


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_match_expected_values(name: str):
    changes, points = SCHEDULES[name]
    rate = make(schedule=name, learning_rate=0.005, **changes).learning_rate
    np.testing.assert_allclose(
        [rate(round(epoch * 10)) for epoch, _ in points], [0.005 * share for _, share in points], atol=1e-9
    )


@pytest.mark.parametrize("epochs", [15.0, 6.0, 30.0])
def test_fractional_schedule_steps_scale_with_the_epochs(epochs: float):
    steps = ((0, 1.0), ("11/15", 0.1), ("14/15", 0.01))
    rate = make(schedule="steps", learning_rate=1.0, steps=steps, num_epochs=epochs, steps_per_epoch=100.0).learning_rate
    before, after = round(epochs * 100 * 11 / 15), round(epochs * 100 * 14 / 15)
    found = [float(rate(step)) for step in (0, before - 1, before, after - 1, after)]
    assert found == pytest.approx([1, 1, 0.1, 0.1, 0.01])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": "adam"}, "name must be one of sgd, adamw, lion, lamb, got 'adam'"),
        ({"schedule": "step"}, "schedule must be one of constant, linear, cosine, steps"),
        ({"decay_pattern": "*kernel"}, r"decay_pattern has '\*kernel', which is not a regular expression"),
        ({"learning_rate": -1.0}, "learning_rate must be positive"),
        ({"layer_decay": 0.0}, "layer_decay must be above 0 and at most 1, got 0.0"),
        ({"momentum": 1.0}, "momentum must be at least 0 and below 1, got 1.0"),
        ({"weight_decay": -0.1}, "weight_decay must be at least 0, got -0.1"),
        ({"rates": (".*",)}, r"rates must be \(pattern, factor of at least 0 or None\) pairs"),
        ({"rates": ((".*", -1.0),)}, r"rates must be .* got \(\('\.\*', -1\.0\),\)"),
        ({"rates": (("(", 1.0),)}, r"rates has '\(', which is not a regular expression"),
        ({"schedule": "steps", "steps": ((0, -1.0),)}, "steps must have shares of learning_rate"),
        ({"schedule": "steps", "steps": ((0, math.nan),)}, "steps must have shares of learning_rate"),
        ({"schedule": "steps"}, r"steps must be \(epoch, share of learning_rate\) pairs"),
        ({"schedule": "steps", "steps": ((0, 1.0), (11, 0.1), (10, 0.1))}, "each later than the one before"),
        ({"schedule": "steps", "steps": ((0, 1.0), ("11/15", 0.1), (10, 0.1))}, "each later than the one before"),
        ({"schedule": "steps", "steps": ((0, 1.0), ("half", 0.1))}, r'a fraction of the run .* such as "11/15"; got .*half'),
        ({"schedule": "steps", "steps": ((0, 1.0), ("15/11", 0.1))}, "must be .epoch, share"),
    ],
)
def test_impossible_optimizers_are_rejected(changes: dict, words: str):
    with pytest.raises(tsf.InputError, match=words):
        make(**changes)
