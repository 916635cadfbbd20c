"""The jitted step: equal losses on one device and on eight, one compilation, donated state."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import timesformer_jax as tsf
from timesformer_jax import training
from timesformer_jax.video import normalize

MODEL = tsf.TimeSformer(
    num_classes=3,
    image_size=16,
    patch_size=8,
    num_frames=4,
    embed_dim=24,
    depth=2,
    num_heads=2,
    drop_path_rate=0.2,
    initialization="from_scratch",
    scan_layers=True,
)
"""Scanned, since sharding must not depend on it, and the program is half as long."""


ONE_BLOCK = MODEL.clone(depth=1, scan_layers=False, drop_path_rate=0.0)
"""For tests in which the number of blocks doesn't matter."""


def optimizer(**changes) -> training.Optimizer:
    options = {
        "name": "adamw",
        "learning_rate": 1e-2,
        "schedule": "cosine",
        "steps": (),
        "warmup_epochs": 0.2,
        "weight_decay": 0.1,
        "decay_pattern": ".*/kernel",
        "clip_norm": 1.0,
        "momentum": 0.9,
        "b2": 0.999,
        "layer_decay": 1.0,
        "rates": ((".*", 1.0),),
        "depth": 2,
        "num_epochs": 1.0,
        "steps_per_epoch": 10.0,
    }
    return training.make_optimizer(**{**options, **changes})


def prepare(key: jax.Array, batch: dict[str, jax.Array]) -> jax.Array:
    """Apply random brightness, so that the step's random keys matter."""
    bright = jax.random.uniform(key, (len(batch["video"]), 1, 1, 1, 1))
    return normalize(batch["video"], (0.45,) * 3, (0.225,) * 3) + bright


def plain(key: jax.Array, batch: dict[str, jax.Array]) -> jax.Array:
    return normalize(batch["video"], (0.45,) * 3, (0.225,) * 3)


def batches(count: int) -> list[dict[str, np.ndarray]]:
    random = np.random.default_rng(0)
    return [
        {
            "video": random.integers(0, 256, (16, 4, 16, 16, 3), dtype=np.uint8),
            "label": random.integers(0, 3, 16, dtype=np.int32),
        }
        for _ in range(count)
    ]


MESHES = {
    "data 8": (8, {}),
    "fsdp 8": (8, {"data": 1, "fsdp": 8}),
    "data 2, fsdp 2, tensor 2": (8, {"data": 2, "fsdp": 2, "tensor": 2}),
    "data 2, context 4": (8, {"data": 2, "context": 4}),
    "fsdp 2, tensor 2, context 2": (8, {"data": 1, "fsdp": 2, "tensor": 2, "context": 2}),
}
PIECES = {
    "state": {"ema": True},
    "step": {"ema_decay": 0.9, "label_smoothing": 0.1},
}


@functools.cache
def five_steps(mesh_name: str = "one"):
    """Return the metrics of five steps, the last state, and the program."""
    devices, sizes = MESHES.get(mesh_name, (1, {}))
    mesh = training.make_mesh(jax.devices()[:devices], **sizes)
    training.check_mesh(MODEL, mesh)
    # Not Adam, which turns the rounding noise in the zero gradient of the key's bias into steps of full size.
    sgd = optimizer(name="sgd").transformation
    state = training.init_state(MODEL, sgd, 0, mesh, **PIECES["state"])
    step = training.make_train_step(model=MODEL, optimizer=sgd, prepare=prepare, seed=0, mesh=mesh, **PIECES["step"])
    compiled = step.lower(state, training.to_devices(batches(1)[0], mesh)).compile()
    metrics = []
    for batch in batches(5):
        state, values = compiled(state, training.to_devices(batch, mesh))
        metrics.append(jax.device_get(values))
    return metrics, jax.device_get(state), compiled, jax.tree.map(lambda x: x.sharding, state)


@functools.cache
def made_state() -> training.TrainState:
    return training.init_state(
        MODEL, optimizer(name="sgd").transformation, 0, training.make_mesh(jax.devices()[:1]), **PIECES["state"]
    )


def fresh_state() -> training.TrainState:
    """Initial state of `five_steps` on one device, for a step to donate."""
    return jax.tree.map(jnp.copy, made_state())


@pytest.mark.slow_cases("(fsdp 2, tensor 2, context 2|fsdp 8)")
@pytest.mark.parametrize("mesh_name", MESHES)
def test_train_step_agrees_on_one_and_eight_devices(mesh_name: str):
    """To 1e-5 of each array's largest value, dropped paths and random brightness included."""
    one, eight = five_steps(), five_steps(mesh_name)
    for name in ("loss", "top1", "grad_norm", "update_norm"):
        np.testing.assert_allclose([m[name] for m in one[0]], [m[name] for m in eight[0]], rtol=1e-5)
    assert one[0][0]["loss"] != one[0][4]["loss"]

    def close(a: np.ndarray, b: np.ndarray) -> None:
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * np.abs(a).max() + 1e-7)

    jax.tree.map(close, one[1].params, eight[1].params)
    jax.tree.map(close, one[1].ema, eight[1].ema)


def test_batch_is_sharded_and_state_is_replicated():
    _, state, _, shardings = five_steps("data 8")
    mesh = training.make_mesh()
    batch = training.to_devices(batches(1)[0], mesh)
    assert {shard.data.shape[0] for shard in batch["video"].addressable_shards} == {2}
    assert len(batch["video"].sharding.device_set) == 8
    assert all(sharding.is_fully_replicated for sharding in jax.tree.leaves(shardings))
    assert int(state.step) == 5


def test_state_keeps_its_sharding():
    """Also after a step: without pinned output shardings the compiler may return unsharded arrays."""
    name = "data 2, fsdp 2, tensor 2"
    sgd = optimizer(name="sgd").transformation
    fresh = training.init_state(MODEL, sgd, 0, training.make_mesh(**MESHES[name][1]), ema=True)
    after = five_steps(name)[3]
    kept = jax.tree.map(lambda x, sharding: x.sharding.is_equivalent_to(sharding, x.ndim), fresh, after)
    assert all(jax.tree.leaves(kept))
    kernel = after.params["blocks"]["mlp"]["fc1"]["kernel"]
    assert kernel.shard_shape((2, 24, 96)) == (2, 12, 48)


def collectives(program: str, kind: str) -> list[tuple[int, ...]]:
    """Shapes that this collective operation exchanges between devices (the first of several in one operation)."""
    found = re.findall(rf"^ *\S+ = \(?\w+\[([\d,]*)\].* {kind}(?:-start)?\(", program, flags=re.MULTILINE)
    return [tuple(int(size) for size in shape.split(",") if size) for shape in found]


def check_no_clip_is_gathered(program: str) -> None:
    """Check that `context` uses all-to-alls between time and space, and no device holds a whole clip's tokens."""
    assert len(collectives(program, "all-to-all")) == 4 * MODEL.depth
    activations = [shape for shape in collectives(program, "all-gather") if len(shape) > 2]  # [T, D]: the time embedding's
    assert activations == []


def test_frames_are_sharded_without_gathering():
    check_no_clip_is_gathered(five_steps("data 2, context 4")[2].as_text())


def test_weights_are_gathered_once_per_block_and_pass():
    """Queries, keys and values together, and only over `fsdp`: each device keeps one of the two heads."""
    gathered = collectives(five_steps("data 2, fsdp 2, tensor 2")[2].as_text(), "all-gather")
    passes = 2 * MODEL.depth  # through all blocks, forward and backward
    assert gathered.count((24, 3, 1, 12)) == 2 * passes  # qkv of both attention steps
    assert gathered.count((1, 12, 24)) == 2 * passes  # their projections
    assert [gathered.count(shape) for shape in [(24, 24), (24, 48), (48, 24)]] == [passes] * 3  # temporal_fc, fc1, fc2
    assert not [shape for shape in gathered if shape[-2:] == (2, 12)]
    assert {shape for shape in gathered if len(shape) > 3} == {(24, 3, 1, 12)}  # no tokens


@pytest.mark.slow
def test_frames_are_sharded_without_gathering_if_only_the_grid_size_divides():
    model = MODEL.clone(image_size=112)
    sgd = optimizer(name="sgd").transformation
    mesh = training.make_mesh(data=2, context=4)
    step = training.make_train_step(model=model, optimizer=sgd, prepare=plain, seed=0, mesh=mesh)
    state = jax.eval_shape(lambda: training.init_state(model, sgd, 0, mesh))
    video = jax.ShapeDtypeStruct((8, 4, 112, 112, 3), jnp.uint8)
    compiled = step.lower(state, {"video": video, "label": jax.ShapeDtypeStruct((8,), jnp.int32)}).compile()
    check_no_clip_is_gathered(compiled.as_text())


@pytest.mark.slow
def test_sharding_frames_reduces_memory():
    """Temporary memory per device of a step on one long clip falls to nearly a quarter on four devices."""
    model = tsf.TimeSformer(
        num_classes=3, image_size=32, patch_size=8, num_frames=32, embed_dim=64, depth=2, num_heads=4, scan_layers=True
    )
    sgd = optimizer(name="sgd").transformation

    def temporary(**sizes: int) -> int:
        mesh = training.make_mesh(jax.devices()[: sizes.get("context", 1)], data=1, **sizes)
        step = training.make_train_step(model=model, optimizer=sgd, prepare=plain, seed=0, mesh=mesh)
        state = jax.eval_shape(lambda: training.init_state(model, sgd, 0, mesh))
        video = jax.ShapeDtypeStruct((4, 32, 32, 32, 3), jnp.uint8)
        batch = {"video": video, "label": jax.ShapeDtypeStruct((4,), jnp.int32)}
        return step.lower(state, batch).compile().memory_analysis().temp_size_in_bytes

    assert temporary(context=4) < temporary() / 3.3


def test_random_draws_are_determined_by_seed_and_step():
    """Another step or another seed changes the preparation and dropout of the same batch."""
    mesh = training.make_mesh(jax.devices()[:1])
    sgd = optimizer(name="sgd").transformation
    batch = training.to_devices(batches(1)[0], mesh)

    def loss(step, number: int = 0) -> float:
        """Loss of the common initial parameters, as if at this step."""
        state = fresh_state()
        return float(step(state.replace(step=state.step + number), batch)[1]["loss"])

    seed_0 = five_steps()[2]
    seed_1 = training.make_train_step(model=MODEL, optimizer=sgd, prepare=prepare, seed=1, mesh=mesh, **PIECES["step"])
    first, second = loss(seed_0), loss(seed_0, 1)
    assert abs(first - second) > 1e-3
    assert [loss(seed_0), loss(seed_0, 1)] == [first, second]
    assert abs(loss(seed_1) - first) > 1e-3


def test_train_step_donates_the_old_state():
    mesh = training.make_mesh(jax.devices()[:1])
    state = fresh_state()
    five_steps()[2](state, training.to_devices(batches(1)[0], mesh))
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state.params))


def one_gradient(model: tsf.TimeSformer, batch: dict[str, np.ndarray], accumulation: int, devices: int = 1):
    """The gradient, as the update of one step of plain descent at rate 1."""
    mesh = training.make_mesh(jax.devices()[:devices])
    descent = optimizer(
        name="sgd", momentum=0.0, learning_rate=1.0, schedule="constant", warmup_epochs=0.0, weight_decay=0.0, clip_norm=0.0
    ).transformation
    state = training.init_state(model, descent, 0, mesh)
    before = jax.device_get(state.params)
    step = training.make_train_step(model=model, optimizer=descent, prepare=plain, seed=0, mesh=mesh, accumulation=accumulation)
    state, metrics = step(state, training.to_devices(batch, mesh))
    return jax.tree.map(np.subtract, before, jax.device_get(state.params)), jax.device_get(metrics)


@pytest.mark.slow_cases("1")
@pytest.mark.parametrize("devices", [1, 4])
def test_four_micro_batches_of_8_equal_a_batch_of_32(devices: int):
    first, second = batches(2)
    batch = {name: np.concatenate([first[name], second[name]]) for name in first}
    whole, metrics = one_gradient(ONE_BLOCK, batch, 1)
    parts, part_metrics = one_gradient(ONE_BLOCK, batch, 4, devices)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-6), whole, parts)
    for name in ("loss", "top1", "grad_norm"):
        assert part_metrics[name] == pytest.approx(metrics[name], rel=1e-5)


def test_moving_average_matches_the_reference():
    """Compared with the formula in NumPy, on the actual parameters of five steps."""
    mesh = training.make_mesh(jax.devices()[:1])
    state = fresh_state()
    compiled = five_steps()[2]
    average = jax.device_get(state.params)
    for number, batch in enumerate(batches(5)):
        state, _ = compiled(state, training.to_devices(batch, mesh))
        decay = min(0.9, (1 + number) / (10 + number))
        average = jax.tree.map(lambda a, p, decay=decay: decay * a + (1 - decay) * np.asarray(p), average, state.params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), average, jax.device_get(state.ema))
    assert state.best_params is state.ema


def test_non_finite_step_changes_only_the_counters():
    mesh = training.make_mesh(jax.devices()[:1])
    sgd = optimizer(name="sgd", schedule="constant", warmup_epochs=0.0).transformation
    step = training.make_train_step(
        model=ONE_BLOCK, optimizer=sgd, prepare=lambda key, batch: batch["video"], seed=0, mesh=mesh
    )
    state = training.init_state(ONE_BLOCK, sgd, 0, mesh)
    (batch,) = batches(1)
    good = {**batch, "video": batch["video"].astype(np.float32) / 255}
    bad = {**good, "video": np.where(np.arange(16)[:, None, None, None, None] == 3, np.float32(np.nan), good["video"])}
    seen = []
    for values in (good, bad, bad, good):
        before = jax.device_get(state)
        state, metrics = step(state, training.to_devices(values, mesh))
        after = jax.device_get(state)
        changed = any((a != b).any() for a, b in zip(*map(jax.tree.leaves, (before.params, after.params)), strict=True))
        seen.append((changed, int(metrics["skipped"]), int(metrics["skipped_in_a_row"]), int(state.skipped), int(state.step)))
        if not changed:
            jax.tree.map(np.testing.assert_array_equal, before.opt_state, after.opt_state)
    assert seen == [(True, 0, 0, 0, 1), (False, 1, 1, 1, 2), (False, 1, 2, 2, 3), (True, 0, 0, 2, 4)]


def test_frozen_parameters_have_no_gradients_or_moments():
    frozen = optimizer(rates=(("head/.*", 1.0), (".*", None)))
    mesh = training.make_mesh(jax.devices()[:1])
    model = MODEL.clone(drop_path_rate=0.0)
    state = training.init_state(model, frozen.transformation, 0, mesh)
    moments = [leaf.shape for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim]
    assert sorted(moments) == sorted([(3,), (24, 3)] * 2)
    step = training.make_train_step(
        model=model, optimizer=frozen.transformation, prepare=plain, seed=0, mesh=mesh, trained=frozen.trained
    )
    batch = training.to_devices(batches(1)[0], mesh)
    compiled = step.lower(state, batch).compile()
    # No gradient passes through the blocks.
    assert compiled.cost_analysis()["flops"] < 0.5 * five_steps()[2].cost_analysis()["flops"]
    before = jax.device_get(state.params)
    for values in batches(3):
        state, _ = compiled(state, training.to_devices(values, mesh))
    after = jax.device_get(state.params)
    assert (after["head"]["kernel"] != before["head"]["kernel"]).any()
    jax.tree.map(np.testing.assert_array_equal, {**before, "head": 0}, {**after, "head": 0})


def test_train_step_on_mixed_clips():
    """The model sees the mixed clips, and loss and accuracy count both labels."""
    model = ONE_BLOCK
    mesh = training.make_mesh(jax.devices()[:2])
    sgd = optimizer().transformation
    (batch,) = batches(1)
    share = jnp.linspace(0.0, 1.0, 16)

    def mix(key: jax.Array, video: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        return video[::-1], labels[::-1], share

    step = training.make_train_step(model=model, optimizer=sgd, prepare=plain, mix=mix, seed=0, mesh=mesh)
    state = training.init_state(model, sgd, 0, mesh)
    seen = normalize(jnp.asarray(batch["video"]), (0.45,) * 3, (0.225,) * 3)[::-1]
    logits = jax.jit(model.apply)({"params": state.params}, seen)
    labels, others = jnp.asarray(batch["label"]), jnp.asarray(batch["label"][::-1].copy())
    best = logits.argmax(axis=-1)
    hits = jnp.where(best == labels, share, 0.0) + jnp.where(best == others, 1 - share, 0.0)
    _, metrics = step(state, training.to_devices(batch, mesh))
    each = -jax.nn.log_softmax(logits)
    expected = share * each[jnp.arange(16), labels] + (1 - share) * each[jnp.arange(16), others]
    assert float(metrics["loss"]) == pytest.approx(float(expected.mean()), abs=1e-5)
    assert float(metrics["top1"]) == pytest.approx(float(hits.mean()), abs=1e-6)
