"""Grad-CAM: the places of a convolutional network's feature maps that raise a label's logit."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from timesformer_jax._typing import Array, Float, Int
from timesformer_jax.cnn3d import ConvNet
from timesformer_jax.errors import InputError


def grad_cam(
    model: ConvNet,
    variables: Mapping[str, Any],
    video: Float[Array | np.ndarray, "B T H W C"],
    labels: Int[Array | np.ndarray, "B"] | Sequence[int],
) -> Float[Array, "B T h w"]:
    """Compute the relevance of each place of the last feature maps to a label of its clip.

    The channels of each map are weighted by the gradient of the label's logit, summed over places, and negative sums over
    channels are set to 0. The maps of SlowFast's pathways are added. A map with fewer frames than the clip is repeated in time.

    Source: Selvaraju et al., "Grad-CAM", ICCV 2017, equations 1 and 2, up to a constant factor.

    Args:
        model: An I3D or SlowFast.
        variables: Its variables, `{"params": ..., "batch_stats": ...}`.
        video: Normalised clips.
        labels: Class indices, one per clip.

    Returns:
        One number per frame and place; only differences within a clip are meaningful.

    Raises:
        InputError: If `labels` isn't one class of the model per clip.
    """
    labels = np.asarray(labels)
    if labels.shape != video.shape[:1] or not ((labels >= 0) & (labels < model.num_classes)).all():
        raise InputError(
            f"labels must be one class index from 0 to {model.num_classes - 1} for each of the {video.shape[0]} clip(s), got "
            f"{labels.tolist()}."
        )
    return _grad_cam(model, variables, jnp.asarray(video), jnp.asarray(labels))


@functools.partial(jax.jit, static_argnums=0)
def _grad_cam(model: ConvNet, variables: Any, video: Array, labels: Array) -> Array:
    features: Any = model.apply(variables, video, method="features")

    def logits(maps: tuple[Array, ...]) -> Array:
        found: Any = model.apply(variables, maps, method="classify")
        return jnp.take_along_axis(found, labels[:, None], axis=1).sum()

    def in_frames(maps: Array, gradient: Array) -> Array:
        weights = gradient.astype(jnp.float32).sum(axis=(1, 2, 3), keepdims=True)
        relevance = (weights * maps.astype(jnp.float32)).sum(axis=-1)
        frames = np.arange(video.shape[1]) * maps.shape[1] // video.shape[1]
        return relevance[:, frames]

    gradients = jax.grad(logits)(features.maps)
    return jax.nn.relu(sum(map(in_frames, features.maps, gradients), jnp.float32(0)))
