"""What training minimises, for one label a clip or several, mixed clips included."""

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
    """How much of each class a clip is.

    `labels`: numbers `[B]`, or for several labels a clip zeros and ones `[B, classes]`. `others`: those of the clip that is
    mixed in, of which the clip holds 1 - `share`. `smoothing` moves that share of everything to all classes alike (Szegedy et
    al. 2016); of several labels, halfway to 1/2.
    """

    def dense(labels: Array) -> Array:
        return jax.nn.one_hot(labels, num_classes) if labels.ndim == 1 else labels.astype(jnp.float32)

    targets = dense(labels)
    if others is not None and share is not None:
        targets = share[:, None] * targets + (1 - share[:, None]) * dense(others)
    even = 1 / num_classes if labels.ndim == 1 else 0.5
    return (1 - smoothing) * targets + smoothing * even


class Objective(NamedTuple):
    """A loss of each clip, (logits, targets) `[B, classes]` -> `[B]`, and how logits become scores."""

    loss: Callable[[Array, Array], Array]
    scores: Callable[[Array], Array]


OBJECTIVES: dict[str, Objective] = {
    # One label a clip: cross-entropy.
    "softmax": Objective(optax.losses.softmax_cross_entropy, SCORES["softmax"]),
    # Any number of labels: a yes or no for each class, averaged over the classes.
    "sigmoid": Objective(
        lambda logits, targets: optax.losses.sigmoid_binary_cross_entropy(logits, targets).mean(axis=-1), SCORES["sigmoid"]
    ),
}
"""What the labels are -> the objective: "softmax" where each clip has one, "sigmoid" where it has any number."""


def hits(
    logits: Float[Array, "B classes"],
    labels: Shaped[Array, "B ..."],
    others: Shaped[Array, "B ..."] | None = None,
    share: Float[Array, "B"] | None = None,
) -> Float[Array, "B"]:
    """1 where the best class is a label of the clip, 0 where it isn't; of a mixed clip either by its share."""
    best = logits.argmax(axis=-1)

    def hit(labels: Array) -> Array:
        right = best == labels if labels.ndim == 1 else jnp.take_along_axis(labels, best[:, None], axis=1)[:, 0] > 0
        return right.astype(jnp.float32)

    own = hit(labels)
    return own if others is None or share is None else share * own + (1 - share) * hit(others)
