"""Scores of whole videos: several clips and crops of each, averaged; every video counts once."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, PartitionSpec

from timesformer_jax._typing import Array, Float, Int, UInt8, ndarray
from timesformer_jax.errors import InputError
from timesformer_jax.modeling import TimeSformer
from timesformer_jax.training.sharding import DATA_AXIS, replicated, split_batch, to_devices

AVERAGES: dict[str, Callable[[Array], Array]] = {
    "probabilities": lambda logits: jax.nn.softmax(logits, axis=-1).mean(axis=1),
    "logits": lambda logits: jax.nn.softmax(logits.sum(axis=1), axis=-1),
}
"""Logits `[B, views, classes]` -> a video's scores `[B, classes]`, which sum to 1.

The paper averages the views' probabilities, the official code adds up their logits (shown here through a softmax, which
changes no ranking).
"""

ScoreFn = Callable[[Any, Array], Array]


class Predictions(NamedTuple):
    """One row a video, on every host the same rows."""

    names: list[str]
    labels: Int[ndarray, "videos"]
    scores: Float[ndarray, "videos classes"]


def make_score_fn(*, model: TimeSformer, normalize: Callable[[Array], Array], average: str, mesh: Mesh) -> ScoreFn:
    """A jitted function (params, uint8 views `[B, views, T, H, W, C]`) -> scores `[B, classes]`, split over the mesh."""
    if average not in AVERAGES:
        raise InputError(f"eval.average must be one of {', '.join(AVERAGES)}, got {average!r}.")

    def score(params: Any, video: UInt8[Array, "B views T H W C"]) -> Float[Array, "B classes"]:
        batch, views = video.shape[:2]
        clips = normalize(video.reshape(batch * views, *video.shape[2:]))  # [B, views, ...] -> [B views, ...]
        logits: Any = model.apply({"params": params}, clips)
        return AVERAGES[average](logits.reshape(batch, views, -1))

    batch = split_batch(mesh)
    return jax.jit(score, in_shardings=(replicated(mesh), batch), out_shardings=batch)


def predict_videos(score_fn: ScoreFn, params: Any, batches: Iterator[dict[str, np.ndarray]], mesh: Mesh) -> Predictions:
    """Scores of every video in `batches` (this host's part; rows whose `mask` is False fill a batch up and don't count).

    Every host must bring equally many batches of one size. `name` is bytes; longer names than 512 bytes are cut.
    """
    names, labels, masks, scores = [], [], [], []
    for batch in batches:
        on_devices = to_devices({"video": batch["video"]}, mesh)
        rows = score_fn(params, on_devices["video"])
        # One batch stays in flight: enough to keep the devices busy, and no more than two batches in their memory.
        scores[-1:] = jax.device_get(scores[-1:])
        scores.append(multihost_utils.global_array_to_host_local_array(rows, mesh, PartitionSpec(DATA_AXIS)))
        names.append(np.array([np.frombuffer(name[:512].ljust(512, b"\0"), np.uint8) for name in batch["name"]]))
        labels.append(batch["label"])
        masks.append(batch["mask"])
    local = (*(np.concatenate(column) for column in (names, labels, masks)), np.concatenate(jax.device_get(scores)))
    everything = multihost_utils.process_allgather(local, tiled=True) if jax.process_count() > 1 else local
    name_bytes, labels, mask, scores = (np.asarray(column) for column in everything)
    names = [row.tobytes().rstrip(b"\0").decode(errors="replace") for row in name_bytes[mask]]
    return Predictions(names, labels[mask], scores[mask])
