"""Training objectives for single-label and multi-label clips, mixed clips included."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from timesformer_jax._typing import Array, Float, Shaped
from timesformer_jax.modeling import SCORES


def make_targets(
    labels: Shaped[Array, "B ..."],
    num_classes: int,
    *,
    smoothing: float = 0.0,
    others: Shaped[Array, "B ..."] | None = None,
    share: Float[Array, "B"] | None = None,
) -> Float[Array, "B classes"]:
    """Make dense target probabilities.

    Args:
        labels: Class indices `[B]`, or for multi-label clips zeros and ones `[B, classes]`.
        num_classes: Number of classes.
        smoothing: Label smoothing (Szegedy et al. 2016): the fraction of each target that is replaced with 1 / `num_classes`,
            or with 1/2 for multi-label clips.
        others: Labels of the clips mixed in.
        share: Weight of each clip's own labels; `others` get 1 - `share`.
    """

    def dense(labels: Array) -> Array:
        return jax.nn.one_hot(labels, num_classes) if labels.ndim == 1 else labels.astype(jnp.float32)

    targets = dense(labels)
    if others is not None and share is not None:
        targets = share[:, None] * targets + (1 - share[:, None]) * dense(others)
    even = 1 / num_classes if labels.ndim == 1 else 0.5
    return (1 - smoothing) * targets + smoothing * even


class Objective(NamedTuple):
    """Loss function and the matching activation."""

    loss: Callable[[Array, Array], Array]
    """Maps logits and targets, both `[B, classes]`, to the loss of each clip `[B]`."""
    scores: Callable[[Array], Array]
    """Maps logits to scores."""


OBJECTIVES: dict[str, Objective] = {
    # One label per clip: cross-entropy.
    "softmax": Objective(optax.losses.softmax_cross_entropy, SCORES["softmax"]),
    # Any number of labels per clip: binary cross-entropy, averaged over the classes.
    "sigmoid": Objective(
        lambda logits, targets: optax.losses.sigmoid_binary_cross_entropy(logits, targets).mean(axis=-1), SCORES["sigmoid"]
    ),
}
"""Maps a name to its objective: "softmax" for one label per clip, "sigmoid" for any number of labels."""


def hits(
    logits: Float[Array, "B classes"],
    labels: Shaped[Array, "B ..."],
    others: Shaped[Array, "B ..."] | None = None,
    share: Float[Array, "B"] | None = None,
) -> Float[Array, "B"]:
    """Top-1 accuracy per clip: 1 if the highest-scoring class is a label of the clip, else 0.

    Args:
        logits: Logits of the clips.
        labels: Class indices `[B]`, or for multi-label clips zeros and ones `[B, classes]`.
        others: Labels of the clips mixed in; a hit on either label counts by that label's weight.
        share: Weight of each clip's own labels.
    """
    best = logits.argmax(axis=-1)

    def hit(labels: Array) -> Array:
        right = best == labels if labels.ndim == 1 else jnp.take_along_axis(labels, best[:, None], axis=1)[:, 0] > 0
        return right.astype(jnp.float32)

    own = hit(labels)
    return own if others is None or share is None else share * own + (1 - share) * hit(others)
