"""Rollout and relevance of every scheme against matrices over all tokens, built entry by entry."""

import functools
import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import timesformer_jax as tsf
from timesformer_jax import explain
from timesformer_jax.modeling.schemes import SCHEMES, Grouping

CASES: dict[str, dict[str, Any]] = {
    "divided": {},
    "divided, scanned": {"scan_layers": True},
    "divided, the CLS a key in time": {"temporal_cls_key": True},
    "divided, space first": {"attention_order": "space_then_time", "temporal_cls_key": True},
    "divided, parallel": {"attention_order": "parallel"},
    "joint": {"attention_type": "joint_space_time"},
    "space only": {"attention_type": "space_only"},
    "local and global, padded": {"attention_type": "local_global"},
    "axial": {"attention_type": "axial"},
}
MASKED = ("divided, the CLS a key in time", "joint", "space only", "local and global, padded")
SIZES = 3, 2, 3  # frames, rows, columns
VIDEO = np.random.default_rng(0).normal(size=(2, SIZES[0], 4 * SIZES[1], 4 * SIZES[2], 3)).astype(np.float32)
CLIPS = jnp.asarray(VIDEO)


def mask_of(frame_mask: np.ndarray | None) -> jax.Array | None:
    return None if frame_mask is None else jnp.asarray(frame_mask)


@functools.cache
def make(name: str) -> tuple[tsf.TimeSformer, Any]:
    """Make a small model whose attention is far from uniform."""
    fields = {"attention_type": "divided_space_time", **CASES[name]}
    model = tsf.TimeSformer(
        num_classes=3, image_size=(8, 12), patch_size=4, num_frames=3, embed_dim=8, depth=2, num_heads=2, **fields
    ).clone(initialization="from_scratch")
    params: Any = jax.jit(model.init)(jax.random.key(1), CLIPS)["params"]
    sharper = jax.tree_util.tree_map_with_path(
        lambda path, x: x * (12.0 if "qkv" in str(path) else 3.0 if "proj" in str(path) else 1.0), params
    )
    return model, sharper


def group_of(grouping: Grouping, place: tuple[int, ...]) -> tuple[int, int]:
    """Return the group of a patch and its number in the group, following the text of `AxisRule`."""
    group = number = 0
    for rule, size, at in zip(grouping, SIZES, place, strict=True):
        count, length = rule.count(size), rule.length(size)
        own, inside = divmod(at, length) if rule.blocks else (at % count, at // count)
        group, number = group * count + own, number * length + inside
    return group, number


PLACES = list(itertools.product(*map(range, SIZES)))


def dense(model: tsf.TimeSformer, step: str, maps: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Matrix of a step from queries to keys over (CLS of each frame or of the clip, then all patches)."""
    scheme = SCHEMES[model.attention_type]
    grouping, own = scheme.steps[step], step == scheme.name
    num_cls = SIZES[0] if scheme.cls_per_frame else 1
    matrix = np.zeros((num_cls + len(PLACES), num_cls + len(PLACES)))
    cls_key = maps.shape[2] > np.prod([rule.length(size) for rule, size in zip(grouping, SIZES, strict=True)])
    where = [group_of(grouping, place) for place in PLACES]
    for (i, (group, query)), (j, (other, key)) in itertools.product(enumerate(where), repeat=2):
        if group == other:
            matrix[num_cls + i, num_cls + j] = maps[group, query + own, key + cls_key]
    for i, (group, query) in enumerate(where):
        if cls_key:
            matrix[num_cls + i, PLACES[i][0] if scheme.cls_per_frame else 0] = maps[group, query + own, 0]
    if own:  # the CLS averages its copies over groups with a valid patch
        filled = {group for (group, _), place in zip(where, PLACES, strict=True) if counts[place[0]]}
        for group in range(len(maps)) if scheme.cls_per_frame else filled:
            row, share = (group, 1.0) if scheme.cls_per_frame else (0, 1 / len(filled))
            matrix[row, row] += share * maps[group, 0, 0]
            for j, (other, key) in enumerate(where):
                if group == other:
                    matrix[row, num_cls + j] += share * maps[group, 0, key + 1]
    return matrix


def rolled_out(model: tsf.TimeSformer, maps: dict[str, np.ndarray], counts: np.ndarray, *, normalized: bool) -> np.ndarray:
    """The CLS's row of the product of all blocks' matrices."""
    scheme = SCHEMES[model.attention_type]
    num_cls = SIZES[0] if scheme.cls_per_frame else 1
    one = np.eye(num_cls + len(PLACES))
    steps = list(scheme.steps)
    product = one
    for block in range(model.depth):
        matrices = {step: dense(model, step, maps[step][block], counts) for step in steps}
        if model.attention_order == "parallel":
            together = one + sum(matrices.values())
            if normalized:  # the CLS has one such step, patches have all of them
                together[:num_cls] /= 2
                together[num_cls:] /= 1 + len(steps)
            product = together @ product
            continue
        order = steps if model.attention_order == "time_then_space" else [steps[-1], *steps[:-1]]
        for step in order:
            matrix = one + matrices[step]
            if normalized:
                matrix[:num_cls] /= 2 if step == steps[-1] else 1
                matrix[num_cls:] /= 2
            product = matrix @ product
    start = np.zeros(num_cls + len(PLACES))
    start[:num_cls] = counts / counts.sum() if scheme.cls_per_frame else 1
    return (start @ product)[num_cls:].reshape(SIZES)


@functools.partial(jax.jit, static_argnums=0)
def maps_of(model: tsf.TimeSformer, params: Any, frame_mask: jax.Array | None = None) -> Any:
    """Maps of all blocks and heads `[depth, B, G, heads, Q, L]`, by attention step."""
    features: Any = model.apply({"params": params}, CLIPS, frame_mask, method="features", attention=True)
    return {
        step: found.weights.reshape(model.depth, 2, -1, *found.weights.shape[-3:]) for step, found in features.attention.items()
    }


def frame_masks(name: str) -> list[np.ndarray | None]:
    return [None, np.array([[True, True, True], [True, False, True]])] if name in MASKED else [None]


@pytest.mark.slow_cases("(divided, scanned|joint|axial)")
@pytest.mark.parametrize("name", CASES)
def test_rollout_is_the_product_of_all_attention_matrices(name: str):
    model, params = make(name)
    for frame_mask in frame_masks(name):
        got = explain.attention_rollout(model, params, VIDEO, frame_mask)
        found = jax.device_get(maps_of(model, params, mask_of(frame_mask)))
        for clip in range(2):
            counts = np.ones(SIZES[0], bool) if frame_mask is None else frame_mask[clip]
            maps = {step: weights[:, clip].astype(np.float64).mean(axis=2) for step, weights in found.items()}
            expected = rolled_out(model, maps, counts, normalized=True)
            np.testing.assert_allclose(got[clip], expected, atol=1e-6)
            assert expected.std() > 0.1 * expected.mean()  # otherwise anything might pass
            assert (got[clip][~counts] == 0).all()


@pytest.mark.slow_cases("(divided, (scanned|the CLS|space first|parallel)|joint|axial)")
@pytest.mark.parametrize("name", CASES)
def test_relevance_matches_gradients_taken_one_by_one(name: str, monkeypatch: pytest.MonkeyPatch):
    """Each weight's gradient comes from adding to it: a table of additions replaces `watch`."""
    model, params = make(name)
    model = model.clone(scan_layers=False)
    stacked, params = params, tsf.unstack_blocks(params) if "blocks" in params else params
    labels = np.array([2, 0])
    flat = jax.device_get(maps_of(model, params))
    calls: list[Any] = []

    def softmax(scores: jax.Array, axis: int = -1) -> jax.Array:
        weights = jnp.exp(scores - jax.scipy.special.logsumexp(scores, axis=axis, keepdims=True))
        return weights + calls.pop(0)

    def cls_last(x: jax.Array, step: str) -> jax.Array:
        """Move the CLS, which comes first in maps, to where it is in groups: as a key, and as a query if it is one."""
        grouping = SCHEMES[model.attention_type].steps[step]
        has_cls = x.shape[-1] > math.prod(rule.length(size) for rule, size in zip(grouping, SIZES, strict=True))
        return jnp.roll(x, -int(has_cls), axis=(-2, -1) if x.shape[-2] == x.shape[-1] else -1)

    def logits(additions: list[jax.Array]) -> jax.Array:
        calls[:] = [cls_last(x, order[i % len(order)]) for i, x in enumerate(additions)]
        with monkeypatch.context() as patched:
            patched.setattr(jax.nn, "softmax", softmax)
            found: Any = model.apply({"params": params}, CLIPS, method="features", attention=True)
        return (found.cls @ params["head"]["kernel"] + params["head"]["bias"][None])[np.arange(2), labels].sum()

    # In a block's order: extra steps first, unless space comes first.
    steps = list(SCHEMES[model.attention_type].steps)
    order = [steps[-1], *steps[:-1]] if model.attention_order == "space_then_time" else steps
    additions = [jnp.zeros(flat[step].shape[1:]) for _ in range(model.depth) for step in order]
    gradients = jax.jit(jax.grad(logits))(additions)
    got = explain.class_relevance(model if stacked is params else make(name)[0], stacked, VIDEO, labels)
    for clip in range(2):
        maps = {
            step: np.stack(
                [
                    np.maximum(flat[step][block, clip] * gradients[block * len(order) + i][clip], 0).mean(axis=1)
                    for block in range(model.depth)
                ]
            )
            for i, step in enumerate(order)
        }
        expected = rolled_out(model, maps, np.ones(SIZES[0], bool), normalized=False)
        np.testing.assert_allclose(got[clip], expected, atol=1e-5 * expected.max(), rtol=2e-4)
        assert expected.max() > 0


def test_maps_combine_all_heads():
    model, params = make("divided")
    apply = jax.jit(functools.partial(model.apply, method="features"), static_argnames="attention")
    each, mean = (apply({"params": params}, CLIPS, attention=attention) for attention in (True, "mean"))
    for step, found in mean.attention.items():
        axis = each.attention[step].axes.index("head")
        np.testing.assert_allclose(found.weights, each.attention[step].weights.mean(axis=axis), rtol=1e-6, atol=1e-7)
        assert found.axes == tuple(name for name in each.attention[step].axes if name != "head")
    with pytest.raises(tsf.InputError, match="attention must be True, False or 'mean'"):
        model.apply({"params": params}, CLIPS, method="features", attention="max")


def test_relevance_is_for_the_requested_label():
    """Clips of a batch may use different labels."""
    model, params = make("divided")
    both = explain.class_relevance(model, params, VIDEO, np.array([0, 1]))
    other = explain.class_relevance(model, params, VIDEO, np.array([1, 1]))
    np.testing.assert_allclose(both[1], other[1], rtol=1e-5)
    assert not np.allclose(both[0], other[0], rtol=1e-2)
    with pytest.raises(tsf.InputError, match=r"labels must be from 0 to 2, got \[0, 3\]"):
        explain.class_relevance(model, params, VIDEO, np.array([0, 3]))
    with pytest.raises(tsf.InputError, match=r"one for each of the 2 clip.s., got int64 of shape \(1,\)"):
        explain.class_relevance(model, params, VIDEO, np.array([0]))


@pytest.mark.parametrize("label", [1, [1, 1], np.int32(1), jnp.int32(1)], ids=lambda label: type(label).__name__)
def test_class_relevance_accepts_one_label_for_all_clips(label: Any):
    model, params = make("divided")
    expected = explain.class_relevance(model, params, VIDEO, np.array([1, 1]))
    np.testing.assert_array_equal(explain.class_relevance(model, params, VIDEO, label), expected)


def test_folded_parameters_give_the_same_maps():
    model, params = make("divided")
    folded = tsf.fold_for_inference(params)
    labels = np.array([2, 0])
    for maps in (explain.attention_rollout, lambda *given: explain.class_relevance(*given, labels)):
        expected = np.asarray(maps(model, params, VIDEO))
        np.testing.assert_allclose(maps(model, folded, VIDEO), expected, atol=1e-3 * expected.max())
