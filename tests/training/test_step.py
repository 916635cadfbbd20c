"""One jitted step: the same losses on one device and on eight, one compilation, the old state's memory reused."""

import functools

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


def optimizer(**changes):
    options = {
        "name": "adamw",
        "learning_rate": 1e-2,
        "schedule": "cosine",
        "warmup_steps": 2,
        "weight_decay": 0.1,
        "decay_pattern": ".*/kernel",
        "clip_norm": 1.0,
        "total_steps": 10,
    }
    return training.make_optimizer(**{**options, **changes})[0]


def prepare(key: jax.Array, batch: dict[str, jax.Array]) -> jax.Array:
    """Random brightness, so that the step's random keys matter."""
    bright = jax.random.uniform(key, (len(batch["video"]), 1, 1, 1, 1))
    return normalize(batch["video"], (0.45,) * 3, (0.225,) * 3) + bright


def batches(count: int) -> list[dict[str, np.ndarray]]:
    random = np.random.default_rng(0)
    return [
        {
            "video": random.integers(0, 256, (16, 4, 16, 16, 3), dtype=np.uint8),
            "label": random.integers(0, 3, 16, dtype=np.int32),
        }
        for _ in range(count)
    ]


@functools.cache
def five_steps(devices: int):
    mesh = training.make_mesh(jax.devices()[:devices])
    sgd = optimizer(
        name="sgd"
    )  # Adam makes steps of full size out of the rounding noise in the key's bias, whose gradient is 0
    state = training.init_state(MODEL, sgd, 0, mesh)
    step = training.make_train_step(model=MODEL, optimizer=sgd, prepare=prepare, seed=0, mesh=mesh)
    metrics = []
    for batch in batches(5):
        state, values = step(state, training.to_devices(batch, mesh))
        metrics.append(jax.device_get(values))
    return metrics, state, step


def test_one_device_and_eight_agree():
    one, eight = five_steps(1), five_steps(8)
    for name in ("loss", "top1", "grad_norm"):
        np.testing.assert_allclose([m[name] for m in one[0]], [m[name] for m in eight[0]], rtol=1e-5)
    assert one[0][0]["loss"] != one[0][4]["loss"]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), one[1].params, eight[1].params)


def test_the_batch_is_split_and_the_state_is_everywhere():
    _, state, _ = five_steps(8)
    mesh = training.make_mesh()
    batch = training.to_devices(batches(1)[0], mesh)
    assert {shard.data.shape[0] for shard in batch["video"].addressable_shards} == {2}
    assert len(batch["video"].sharding.device_set) == 8
    assert all(leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(state))
    assert int(state.step) == 5


def test_random_draws_follow_from_the_seed_and_the_step():
    """The same batch at another step, or with another seed, is prepared and dropped otherwise."""
    mesh = training.make_mesh(jax.devices()[:1])
    sgd = optimizer(name="sgd", schedule="constant", learning_rate=1e-9, warmup_steps=0)
    batch = training.to_devices(batches(1)[0], mesh)

    @functools.cache
    def step_of(seed: int):
        return training.make_train_step(model=MODEL, optimizer=sgd, prepare=prepare, seed=seed, mesh=mesh)

    def losses(seed: int) -> list[float]:
        step = step_of(seed)
        state, values = training.init_state(MODEL, sgd, 0, mesh), []
        for _ in range(2):
            state, metrics = step(state, batch)
            values.append(float(metrics["loss"]))
        return values

    first, second = losses(0)
    assert abs(first - second) > 1e-3
    assert losses(0) == [first, second]
    assert abs(losses(1)[0] - first) > 1e-3


def test_the_step_compiles_once():
    assert five_steps(8)[2]._cache_size() == 1


def test_the_old_state_is_given_up():
    mesh = training.make_mesh(jax.devices()[:1])
    state = training.init_state(MODEL, optimizer(name="sgd"), 0, mesh)
    step = five_steps(1)[2]
    step(state, training.to_devices(batches(1)[0], mesh))
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state.params))


@pytest.mark.parametrize("batch_size", [12, 0, 4])
def test_a_batch_that_devices_do_not_divide(batch_size: int):
    with pytest.raises(tsf.InputError, match=rf"train.batch_size={batch_size} .* 8 device.* multiple of 8, such as (8|16)"):
        training.local_batch_size("train.batch_size", batch_size, training.make_mesh())


def test_decay_reaches_what_the_pattern_names_and_nothing_else():
    """With no gradient at all, only decay moves a parameter."""
    params = {"head": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}, "pos_embed": jnp.ones((1, 2))}
    zeros = jax.tree.map(jnp.zeros_like, params)
    for name in training.OPTIMIZERS:
        transform = optimizer(name=name, warmup_steps=0, schedule="constant", decay_pattern=".*/kernel|pos_embed")
        updates, _ = transform.update(zeros, transform.init(params), params)
        assert (updates["head"]["kernel"] < 0).all()
        assert (updates["pos_embed"] < 0).all()
        assert (updates["head"]["bias"] == 0).all()


def test_clipping_can_be_switched_on_and_off_between_runs():
    """The optimizer's state has one form either way."""
    params = {"kernel": jnp.ones(2)}
    with_clip, without = (optimizer(clip_norm=norm).init(params) for norm in (1.0, 0.0))
    assert jax.tree.structure(with_clip) == jax.tree.structure(without)
    grads = {"kernel": jnp.array([30.0, 40.0])}
    for norm, expected in ((1.0, 1.0), (0.0, 50.0)):
        sgd = optimizer(name="sgd", clip_norm=norm, warmup_steps=0, schedule="constant", learning_rate=1.0, weight_decay=0.0)
        updates, _ = sgd.update(grads, sgd.init(params), params)
        assert float(jnp.linalg.norm(updates["kernel"])) == pytest.approx(1.9 * expected, rel=1e-5)  # Nesterov: 1 + 0.9


def test_warm_up_then_cosine():
    _, rate = training.make_optimizer(
        name="sgd",
        learning_rate=1.0,
        schedule="cosine",
        warmup_steps=4,
        weight_decay=0.0,
        decay_pattern=".*",
        clip_norm=0.0,
        total_steps=12,
    )
    np.testing.assert_allclose([rate(step) for step in (0, 2, 4, 8, 12)], [0.0, 0.5, 1.0, 0.5, 0.0], atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": "adam"}, "optimizer.name must be one of sgd, adamw, got 'adam'"),
        ({"schedule": "steps"}, "optimizer.schedule must be one of constant, cosine"),
        ({"decay_pattern": "*kernel"}, "decay_pattern='.kernel' is no regular expression"),
        ({"learning_rate": -1.0}, "learning_rate must be positive"),
    ],
)
def test_optimizers_that_cannot_work(changes: dict, words: str):
    with pytest.raises(tsf.InputError, match=words):
        optimizer(**changes)


def test_the_loss_of_mixed_clips_is_that_of_both_labels_by_their_shares():
    logits = jax.random.normal(jax.random.key(0), (4, 3))
    labels, others = jnp.array([0, 1, 2, 0]), jnp.array([2, 2, 1, 0])
    share = jnp.array([1.0, 0.25, 0.0, 0.5])
    each = -jax.nn.log_softmax(logits)
    expected = share * each[jnp.arange(4), labels] + (1 - share) * each[jnp.arange(4), others]
    assert float(training.cross_entropy(logits, labels, others, share)) == pytest.approx(float(expected.mean()), abs=1e-6)
    assert float(training.cross_entropy(logits, labels)) == pytest.approx(float(each[jnp.arange(4), labels].mean()), abs=1e-6)


def test_a_step_on_mixed_clips():
    """What is mixed is what the model sees, and loss and accuracy count both labels."""
    model = MODEL.clone(drop_path_rate=0.0)
    mesh = training.make_mesh(jax.devices()[:2])
    sgd = optimizer()
    (batch,) = batches(1)
    share = jnp.linspace(0.0, 1.0, 16)

    def normalised(key: jax.Array, batch: dict[str, jax.Array]) -> jax.Array:
        return normalize(jnp.asarray(batch["video"]), (0.45,) * 3, (0.225,) * 3)

    def mix(key: jax.Array, video: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        return video[::-1], labels[::-1], share

    step = training.make_train_step(model=model, optimizer=sgd, prepare=normalised, mix=mix, seed=0, mesh=mesh)
    state = training.init_state(model, sgd, 0, mesh)
    seen = normalised(jax.random.key(0), batch)[::-1]
    logits = jax.jit(model.apply)({"params": state.params}, seen)
    labels, others = jnp.asarray(batch["label"]), jnp.asarray(batch["label"][::-1].copy())
    best = logits.argmax(axis=-1)
    hits = jnp.where(best == labels, share, 0.0) + jnp.where(best == others, 1 - share, 0.0)
    _, metrics = step(state, training.to_devices(batch, mesh))
    assert float(metrics["loss"]) == pytest.approx(float(training.cross_entropy(logits, labels, others, share)), abs=1e-5)
    assert float(metrics["top1"]) == pytest.approx(float(hits.mean()), abs=1e-6)
