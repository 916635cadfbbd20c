"""Every scheme against a slow, explicit block: sets of neighbours, one full attention matrix, no groups."""

import functools
import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import timesformer_jax as tsf
from timesformer_jax.modeling.block import Block

Place = tuple[int, int, int]  # time, row, column
Sees = Callable[[Place, Place, Place], bool]  # (query, key, size of the clip)


def half(place: int, size: int) -> int:
    return int(place >= math.ceil(size / 2))


def time(q: Place, k: Place, size: Place) -> bool:
    return q[1:] == k[1:]


def frame(q: Place, k: Place, size: Place) -> bool:
    return q[0] == k[0]


def row(q: Place, k: Place, size: Place) -> bool:
    return q[:2] == k[:2]


def column(q: Place, k: Place, size: Place) -> bool:
    return (q[0], q[2]) == (k[0], k[2])


def clip(q: Place, k: Place, size: Place) -> bool:
    return True


def quarter(q: Place, k: Place, size: Place) -> bool:
    return all(half(q[axis], size[axis]) == half(k[axis], size[axis]) for axis in (1, 2))


def stride_2(q: Place, k: Place, size: Place) -> bool:
    return all((q[axis] - k[axis]) % 2 == 0 for axis in range(3))


NEIGHBOURS: dict[str, tuple[dict[str, Sees], Sees]] = {  # extra steps by name, then the last attention
    "divided_space_time": ({"temporal": time}, frame),
    "joint_space_time": ({}, clip),
    "space_only": ({}, frame),
    "local_global": ({"local": quarter}, stride_2),
    "axial": ({"temporal": time, "width": row}, column),
}


def norm(p: Any, x: np.ndarray) -> np.ndarray:
    x = x - x.mean(axis=-1, keepdims=True)
    return x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + 1e-6) * p["scale"] + p["bias"]


def attend(p: Any, tokens: np.ndarray, sees: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Attention of all tokens `[n, D]` under a mask `[n, n]` of visible tokens, and its weights `[heads, n, n]`."""
    q, k, v = np.einsum("nd,dchk->chnk", tokens, p["qkv"]["kernel"]) + p["qkv"]["bias"][:, :, None]
    scores = np.where(sees, np.einsum("hnk,hmk->hnm", q, k) / np.sqrt(q.shape[-1]), -np.inf)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    return np.einsum("hnm,hmk,hkd->nd", weights, v, p["proj"]["kernel"]) + p["proj"]["bias"], weights


def mlp(p: Any, x: np.ndarray) -> np.ndarray:
    hidden = x @ p["fc1"]["kernel"] + p["fc1"]["bias"]
    hidden = hidden * 0.5 * (1 + np.vectorize(math.erf)(hidden / math.sqrt(2)))
    return hidden @ p["fc2"]["kernel"] + p["fc2"]["bias"]


class Slow(NamedTuple):
    cls: np.ndarray
    patches: np.ndarray
    frame_cls: np.ndarray
    attention: dict[str, np.ndarray]  # maps a step to [heads, queries, keys] over all places, with the CLS last


def slow_block(
    attention_type: str,
    p: Any,
    cls: np.ndarray,
    x: np.ndarray,
    *,
    order: str = "time_then_space",
    cls_key: bool = False,
    real_frames: int | None = None,
) -> Slow:
    """The block on one clip: cls `[F, D]`, patches `[T, h, w, D]`; frames from `real_frames` on are masked."""
    steps, last = NEIGHBOURS[attention_type]
    size = x.shape[:3]
    real = size[0] if real_frames is None else real_frames
    places = list(itertools.product(*map(range, size)))
    patches = np.stack([x[place] for place in places])
    maps = {}

    def visible(rule: Sees) -> np.ndarray:
        return np.array([[rule(q, k, size) and (k[0] < real or k == q) for k in places] for q in places])

    def extra(name: str, rule: Sees, cls: np.ndarray, patches: np.ndarray) -> np.ndarray:
        tokens, sees = np.concatenate([patches, cls]), visible(rule)  # one CLS, after the patches
        sees = np.pad(sees, ((0, 1), (0, 1)), constant_values=cls_key and name == "temporal")
        sees[-1, -1] = True
        attention, maps[name] = attend(p[f"{name}_attn"], norm(p[f"{name}_norm1"], tokens), sees)
        return attention[:-1] @ p[f"{name}_fc"]["kernel"] + p[f"{name}_fc"]["bias"]

    def own(patches: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        residual, cls_residuals, by_frame = np.zeros_like(patches), [], {}
        maps["own"] = np.zeros((2, len(places) + 1, len(places) + 1))
        sees = np.array([[last(q, k, size) for k in places] for q in places])
        for group in sorted({tuple(np.flatnonzero(line)) for line in sees}):
            # If each frame has its own CLS, the groups are the frames, in order.
            frame = places[group[0]][0]
            members = [number for number in group if places[number][0] < real]
            if not members:
                continue
            head = cls[frame if len(cls) > 1 else 0]
            tokens = norm(p["norm1"], np.concatenate([patches[members], head[None]]))
            output, weights = attend(p["attn"], tokens, np.ones((len(tokens), len(tokens)), bool))
            maps["own"][np.ix_([0, 1], members, members)] = weights[:, :-1, :-1]
            maps["own"][:, members, -1] = weights[:, :-1, -1]
            cls_residuals.append(output[-1])
            by_frame.setdefault(frame, []).append(output[-1])
            residual[members] = output[:-1]
        frame_residuals = np.stack([np.mean(by_frame[frame], axis=0) for frame in sorted(by_frame)])
        mean = frame_residuals if attention_type == "space_only" else np.mean(cls_residuals, axis=0)
        return mean, frame_residuals, residual

    if order == "parallel":
        added = [extra(name, rule, cls, patches) for name, rule in steps.items()]
        cls_residual, frame_residuals, residual = own(patches)
        patches = patches + residual + sum(added)
    else:
        if order == "time_then_space":
            for name, rule in steps.items():
                patches = patches + extra(name, rule, cls, patches)
        cls_residual, frame_residuals, residual = own(patches)
        patches = patches + residual
        if order == "space_then_time":  # for the CLS, too, it is the output of the spatial step
            for name, rule in steps.items():
                patches = patches + extra(name, rule, cls + cls_residual, patches)
    out = [cls[:real] + cls_residual, patches, cls[:real] + frame_residuals]
    cls, patches, frame_cls = (tokens + mlp(p["mlp"], norm(p["norm2"], tokens)) for tokens in out)
    return Slow(cls, patches.reshape(x.shape), frame_cls, maps)


def test_every_scheme_has_a_reference():
    assert NEIGHBOURS.keys() == tsf.SCHEMES.keys()


def compare(
    attention_type: str, size: Place, *, order: str = "time_then_space", cls_key: bool = False, real_frames: int | None = None
) -> None:
    """Compare tokens, CLS tokens and attention maps of both blocks on two clips; the second has `real_frames` frames."""
    model = tsf.TimeSformer(
        num_classes=1,
        attention_type=attention_type,
        embed_dim=8,
        num_heads=2,
        mlp_ratio=2.0,
        initialization="from_scratch",
        attention_order=order,
        temporal_cls_key=cls_key,
    )
    block = Block(**model.block_fields)
    keys = jax.random.split(jax.random.key(0), 3)
    cls = jax.random.normal(keys[0], (2, size[0] if attention_type == "space_only" else 1, 8))
    patches = jax.random.normal(keys[1], (2, *size, 8))
    tokens = cls, patches.reshape(2, size[0], -1, 8)
    params = jax.jit(functools.partial(block.init, grid=size[1:]))(keys[2], *tokens)["params"]
    lengths = [size[0], real_frames or size[0]]
    mask = None if real_frames is None else jnp.arange(size[0])[None] < jnp.array(lengths)[:, None]
    apply = functools.partial(block.apply, grid=size[1:], with_frame_cls=True, with_attention=True)
    got = jax.jit(apply)({"params": params}, *tokens, mask)
    plain = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    scheme = tsf.SCHEMES[attention_type]
    assert (got.frame_cls is None) == (attention_type in ("joint_space_time", "local_global"))
    assert got.attention.keys() == scheme.steps.keys()
    close = functools.partial(np.testing.assert_allclose, atol=2e-5)
    for clip, real in enumerate(lengths):
        expected = slow_block(
            attention_type,
            plain,
            np.asarray(cls[clip]),
            np.asarray(patches[clip]),
            order=order,
            cls_key=cls_key,
            real_frames=real,
        )
        close(got.cls[clip, :real], expected.cls)
        close(got.patches[clip, :real], expected.patches[:real].reshape(real, -1, 8))
        if got.frame_cls is not None:
            close(got.frame_cls[clip, :real], expected.frame_cls)
        for step, grouping in scheme.steps.items():
            # Patch number (from 1; 0 is padding or masked) at each place of each group.
            numbers = np.arange(1, 1 + math.prod(size)).reshape(1, size[0], -1, 1)
            numbers[:, real:] = 0
            for group, weights in zip(
                np.asarray(grouping.split(jnp.asarray(numbers), size))[0, :, :, 0], got.attention[step][clip], strict=True
            ):
                cls_queries, cls_keys = (1, 1) if step == scheme.name else (0, int(cls_key and step == "temporal"))
                assert weights.shape[1:] == (cls_queries + len(group), cls_keys + len(group))
                if not group.any():
                    continue
                np.testing.assert_allclose(weights.sum(axis=-1), 1, atol=1e-5)
                there = np.flatnonzero(group)
                want = expected.attention["own" if step == scheme.name else step]
                members = group[there] - 1
                close(weights[:, cls_queries + there][:, :, cls_keys + there], want[:, members][:, :, members])
                if cls_keys:
                    close(weights[:, cls_queries + there, 0], want[:, members, -1])
                assert not weights[:, :, cls_keys + np.flatnonzero(group == 0)].any()


slow = pytest.mark.slow
SIZES = [(3, 4, 3), *(pytest.param(size, marks=slow) for size in ((4, 4, 4), (3, 5, 3), (1, 3, 2), (5, 1, 4), (1, 1, 1)))]


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("attention_type", NEIGHBOURS)
def test_block_matches_the_slow_reference(attention_type: str, size: Place):
    """Includes sizes that don't divide, so padding must change nothing and groups of padding alone must be ignored."""
    compare(attention_type, size)


@pytest.mark.parametrize("attention_type", NEIGHBOURS)
def test_masked_frames_match_the_reference(attention_type: str):
    compare(attention_type, (4, 3, 2), real_frames=2)


@pytest.mark.parametrize("order", ["space_then_time", "parallel"])
@pytest.mark.parametrize("attention_type", ["divided_space_time", "local_global", "axial"])
def test_orders_match_the_reference(attention_type: str, order: str):
    compare(attention_type, (3, 2, 3), order=order)


@pytest.mark.parametrize(
    ("attention_type", "order"),
    [("divided_space_time", "time_then_space"), ("divided_space_time", "space_then_time"), ("axial", "parallel")],
)
def test_cls_as_a_temporal_key_matches_the_reference(attention_type: str, order: str):
    compare(attention_type, (3, 2, 3), order=order, cls_key=True)


@pytest.mark.slow_cases("local_global")
@pytest.mark.parametrize("attention_type", ["local_global", "axial"])
def test_gradients_are_finite_with_empty_groups(attention_type: str):
    """With one frame of one row, half of the windows and most residue classes hold only padding."""
    model = tsf.TimeSformer(
        num_classes=3,
        image_size=(8, 24),
        patch_size=8,
        num_frames=1,
        embed_dim=8,
        depth=2,
        num_heads=2,
        attention_type=attention_type,
        initialization="from_scratch",
    )
    video = jax.random.normal(jax.random.key(0), (2, 1, 8, 24, 3))
    params = jax.jit(model.init)(jax.random.key(1), video)
    grads = jax.jit(jax.grad(lambda p: (model.apply(p, video) ** 2).sum()))(params)
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))
    assert all(float(jnp.abs(leaf).max()) > 0 for leaf in jax.tree.leaves(grads["params"]["blocks_0"]["mlp"]))
