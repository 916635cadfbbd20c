"""Scores of whole videos: several clips and crops of each, as many as it has, averaged; every video counts once."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from timesformer_jax._typing import Array, Float, Int, Shaped, ndarray
from timesformer_jax.errors import InputError
from timesformer_jax.modeling import TimeSformer, parameter_shapes
from timesformer_jax.training.activations import split_activations, split_clips
from timesformer_jax.training.mesh import batch_share, split_batch, to_devices
from timesformer_jax.training.objective import OBJECTIVES
from timesformer_jax.training.placement import place


def _softmax(logits: np.ndarray) -> np.ndarray:
    odds = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return odds / odds.sum(axis=-1, keepdims=True)


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logits))


class Average(NamedTuple):
    """How a video's views become its scores: what each view adds (on the device), and what is made of the sum."""

    of_view: Callable[[Array], Array]
    of_video: Callable[[np.ndarray, np.ndarray], np.ndarray]


AVERAGES: dict[str, dict[str, Average]] = {
    "softmax": {
        "probabilities": Average(OBJECTIVES["softmax"].scores, lambda total, views: total / views),
        "logits": Average(lambda logits: logits, lambda total, views: _softmax(total)),
    },
    "sigmoid": {
        "probabilities": Average(OBJECTIVES["sigmoid"].scores, lambda total, views: total / views),
        "logits": Average(lambda logits: logits, lambda total, views: _sigmoid(total / views)),
    },
}
"""Objective -> `eval.average` -> how. Scores sum to 1 where a video has one label.

The paper averages the views' probabilities, the official code adds up their logits (shown here through a softmax, which
changes no ranking).
"""

ScoreFn = Callable[[Any, dict[str, Array]], Array]


class Predictions(NamedTuple):
    """One row a video, sorted by name; on every host the same rows."""

    names: list[str]
    labels: Shaped[ndarray, "videos ..."]
    """Numbers, or zeros and ones `[videos, classes]` where a video has any number of labels."""
    scores: Float[ndarray, "videos classes"]
    num_views: Int[ndarray, "videos"]


def _average(objective: str, name: str) -> Average:
    averages = AVERAGES[objective]
    if name not in averages:
        raise InputError(f"eval.average must be one of {', '.join(averages)}, got {name!r}.")
    return averages[name]


def make_score_fn(
    *,
    model: TimeSformer,
    prepare: Callable[[dict[str, Array]], Array],
    average: str,
    mesh: Mesh,
    objective: str = "softmax",
) -> ScoreFn:
    """A jitted function (params, batch of `B` clips) -> what each adds to its video's score, `[B, classes]`.

    `objective`: a key of `OBJECTIVES`. `prepare` makes `[B * crops, T, H, W, C]` as the model gets them out of the batch, the
    crops of a clip together.
    """
    of_view = _average(objective, average).of_view

    def score(params: Any, batch: dict[str, Array]) -> Float[Array, "B classes"]:
        clips = prepare(batch)
        with split_activations(mesh):
            logits: Any = model.apply({"params": params}, split_clips(clips, mesh))
        return of_view(logits).reshape(len(batch["video"]), -1, logits.shape[-1]).sum(axis=1)

    split, shapes = split_batch(mesh), parameter_shapes(model)
    return jax.jit(score, in_shardings=(place(shapes, shapes, mesh), split), out_shardings=split)


def predict_videos(
    score_fn: ScoreFn,
    params: Any,
    batches: Iterator[dict[str, np.ndarray]],
    *,
    average: str,
    num_crops: int,
    mesh: Mesh,
    objective: str = "softmax",
) -> Predictions:
    """Scores of every video in `batches` (this host's clips; rows whose `mask` is False fill a batch up and don't count).

    The clips of a video share their `identity`, a number, and needn't be in one batch. Every host must bring equally many
    batches of one size. `name` is bytes; longer names than 512 bytes are cut.
    """
    names, labels, masks, identities, scores = [], [], [], [], []
    for batch in batches:
        rows = score_fn(params, to_devices({name: batch[name] for name in batch.keys() - NOT_FOR_DEVICES}, mesh))
        # One batch stays in flight: enough to keep the devices busy, and no more than two batches in their memory.
        scores[-1:] = jax.device_get(scores[-1:])
        scores.append(multihost_utils.global_array_to_host_local_array(rows, mesh, split_batch(mesh).spec))
        names.append(np.array([np.frombuffer(name[:512].ljust(512, b"\0"), np.uint8) for name in batch["name"]]))
        for column, name in ((labels, "label"), (masks, "mask"), (identities, "identity")):
            column.append(batch[name])
    if not batch_share(mesh).leads:  # another host counts the same clips
        masks = [np.zeros_like(mask) for mask in masks]
    columns = (
        *(np.concatenate(column) for column in (names, labels, masks, identities)),
        np.concatenate(jax.device_get(scores)),
    )
    # As bytes: JAX would make 32 bits of the identities' 64.
    columns = (*columns[:3], np.ascontiguousarray(columns[3])[:, None].view(np.uint8), columns[4])
    everything = multihost_utils.process_allgather(columns, tiled=True) if jax.process_count() > 1 else columns
    name_bytes, labels, mask, identities, scores = (np.asarray(column) for column in everything)
    identities = np.ascontiguousarray(identities).view(np.int64)[:, 0]
    _, first, video_of = np.unique(identities[mask], return_index=True, return_inverse=True)
    total = np.zeros((len(first), scores.shape[-1]), np.float32)
    np.add.at(total, video_of, scores[mask])
    num_views = np.bincount(video_of) * num_crops
    names = [row.tobytes().rstrip(b"\0").decode(errors="replace") for row in name_bytes[mask][first]]
    order = sorted(range(len(names)), key=names.__getitem__)
    scores = _average(objective, average).of_video(total, num_views[:, None])
    return Predictions([names[i] for i in order], labels[mask][first][order], scores[order], num_views[order])


NOT_FOR_DEVICES = frozenset({"label", "name", "mask", "identity", "seconds"})
"""What a batch of clips says of them, and the model isn't asked."""
