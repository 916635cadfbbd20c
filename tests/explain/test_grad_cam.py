"""Grad-CAM of I3D and SlowFast, and explanations that need attention."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import timesformer_jax as tsf
from timesformer_jax.explain import attention_rollout, class_relevance, grad_cam
from timesformer_jax.modeling import weight_shapes

MODEL = tsf.SlowFast(num_classes=3, width=8, depths=(1, 1, 1, 1), num_frames=4, image_size=64)


def test_grad_cam_averages_to_the_logit():
    """With a classifier of positive weights and one window, the mean of the map is the logit without the bias."""
    video = jnp.asarray(np.random.default_rng(0).normal(size=(2, 4, 64, 64, 3)), jnp.float32)
    random = np.random.default_rng(1)
    variables = jax.tree.map(
        lambda leaf: jnp.asarray(random.uniform(0.0, leaf.size**-0.5, leaf.shape), jnp.float32), weight_shapes(MODEL)
    )
    variables["params"]["head"]["bias"] = jnp.zeros(3)
    variables["batch_stats"] = jax.tree.map(jnp.ones_like, variables["batch_stats"])
    found = grad_cam(MODEL, variables, video, [2, 0])
    assert found.shape == (2, 4, 2, 2)
    logits: Any = jax.jit(MODEL.apply)(variables, video)
    np.testing.assert_allclose(found.mean(axis=(1, 2, 3)), logits[np.arange(2), [2, 0]], rtol=1e-4)
    with pytest.raises(tsf.InputError, match="from 0 to 2 for each of the 2"):
        grad_cam(MODEL, variables, video, [3, 0])


def test_explanations_by_attention_reject_convolutional_networks():
    video = np.zeros((1, 4, 64, 64, 3), np.float32)
    with pytest.raises(tsf.InputError, match="SlowFast has no attention"):
        attention_rollout(MODEL, {}, video)
    with pytest.raises(tsf.InputError, match=r"SlowFast has no attention.*grad_cam"):
        class_relevance(MODEL, {}, video, [0])
