"""Clips of different lengths in one batch: padding frames influence nothing."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import timesformer_jax as tsf
from tests.support import random_variables

TINY = {"num_classes": 3, "image_size": 16, "patch_size": 8, "num_frames": 6, "embed_dim": 24, "depth": 2, "num_heads": 2}
MASK = jnp.array([[True] * 4 + [False] * 2, [True] * 6])


def made(**fields: Any) -> tuple[tsf.TimeSformer, Any, jax.Array]:
    model = tsf.TimeSformer(**TINY, **fields)
    return model, random_variables(model), jax.random.normal(jax.random.key(0), (2, 6, 16, 16, 3))


@pytest.mark.slow_cases(".*False")
@pytest.mark.slow_cases("(local_global|axial|joint_space_time)")
@pytest.mark.parametrize(
    ("attention_type", "cls_key"), [("divided_space_time", True), *((attention_type, False) for attention_type in tsf.SCHEMES)]
)
def test_masked_frame_has_no_influence(attention_type: str, cls_key: bool):
    """Not even if it holds NaN; and a short clip has the same logits as on its own."""
    model, variables, video = made(attention_type=attention_type, temporal_cls_key=cls_key)
    apply = jax.jit(model.apply)
    logits = apply(variables, video, MASK)
    spoilt = jnp.where(MASK[:, :, None, None, None], video, jnp.nan)
    np.testing.assert_array_equal(apply(variables, spoilt, MASK), logits)
    grads = jax.jit(jax.grad(lambda video: (model.apply(variables, video, MASK) ** 2).sum()))(video)
    assert not grads[0, 4:].any()
    assert float(jnp.abs(grads[0, :4]).max(axis=(1, 2, 3)).min()) > 0
    alone = {"params": dict(variables["params"])}
    if "time_embed" in alone["params"]:  # otherwise the time embedding for 4 frames would be resized from that for 6
        alone["params"]["time_embed"] = alone["params"]["time_embed"][:, :4]
    short = jax.jit(model.clone(num_frames=4).apply)(alone, video[:1, :4])
    np.testing.assert_allclose(logits[:1], short, atol=1e-5)
    np.testing.assert_allclose(logits[1:], apply(variables, video, jnp.ones_like(MASK))[1:], atol=1e-5)


@pytest.mark.parametrize(("scan_layers", "implementation"), [(False, "xla"), (True, "chunked")])
def test_features_of_unmasked_frames_equal_those_of_the_short_clip(scan_layers: bool, implementation: str):
    model, variables, video = made(scan_layers=scan_layers, attention_implementation=implementation, position_embedding="space")
    features = jax.jit(lambda *args: model.apply(*args, method="features", blocks=True))
    long, short = features(variables, video, MASK), features(variables, video[:1, :4])
    np.testing.assert_allclose(long.cls[:1], short.cls, atol=1e-5)
    np.testing.assert_allclose(long.frame_cls[:1, :4], short.frame_cls, atol=1e-5)
    np.testing.assert_allclose(long.patches[:1, :4], short.patches, atol=1e-5)
    np.testing.assert_allclose(long.blocks.patches[:, :1, :4], short.blocks.patches, atol=1e-5)


@pytest.mark.parametrize(
    "attention_type",
    [
        name if name in ("divided_space_time", "space_only") else pytest.param(name, marks=pytest.mark.slow)
        for name in tsf.SCHEMES
    ],
)
def test_fully_masked_clip_leaves_the_others_finite(attention_type: str):
    """As in a padded batch: its logits and all gradients are finite."""
    model, variables, video = made(attention_type=attention_type)
    mask = MASK.at[0].set(False)

    def loss(variables: Any) -> tuple[jax.Array, jax.Array]:
        logits = model.apply(variables, video, mask)
        return (logits[1] ** 2).sum(), logits

    (_, logits), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(variables)
    assert jnp.isfinite(logits).all()
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (np.ones((2, 5), bool), r"bool array \[batch, frames\], here \(2, 6\), got bool \(2, 5\)"),
        (np.ones((2, 6), np.float32), r"got float32 \(2, 6\)"),
        ([[True] * 6] * 2, "got list"),
    ],
)
def test_impossible_masks_are_rejected(mask: Any, words: str):
    model = tsf.TimeSformer(**TINY)
    with pytest.raises(tsf.InputError, match=words):  # called directly, since jaxtyping would raise first in tests
        model._check((2, 6, 16, 16, 3), jnp.float32, mask)
