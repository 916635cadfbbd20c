"""Scores of whole videos: several clips and crops of each, as many as it has, averaged; every video counts once."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from timesformer_jax._typing import Array, Float
from timesformer_jax.evaluation.clip_scores import AVERAGE_NAMES, AVERAGES, ClipRows, ClipScores, Predictions
from timesformer_jax.evaluation.partial import PartialEvaluation
from timesformer_jax.modeling import TimeSformer, parameter_shapes
from timesformer_jax.preemption import Preempted
from timesformer_jax.training.activations import split_activations, split_clips
from timesformer_jax.training.mesh import batch_sharding, batch_share, to_devices
from timesformer_jax.training.sharding import sharding_of

ScoreFn = Callable[[Any, dict[str, Array]], Array]


def make_score_fn(
    *, model: TimeSformer, prepare: Callable[[dict[str, Array]], Array], mesh: Mesh, objective: str = "softmax"
) -> ScoreFn:
    """A jitted function (params, batch of `B` clips) -> what each adds to its video, `[B, averages, classes]`, by each average
    of `AVERAGES`: one forward pass serves them all.

    `objective`: a key of `OBJECTIVES`. `prepare` makes `[B * crops, T, H, W, C]` as the model gets them out of the batch, the
    crops of a clip together.
    """
    averages = AVERAGES[objective].values()

    def score(params: Any, batch: dict[str, Array]) -> Float[Array, "B averages classes"]:
        clips = prepare(batch)
        with split_activations(mesh):
            logits: Any = model.apply({"params": params}, split_clips(clips, mesh))
        views = jnp.stack([average.of_view(logits) for average in averages], axis=1)  # [B * crops, averages, classes]
        return views.reshape(len(batch["video"]), -1, *views.shape[1:]).sum(axis=1)

    split, shapes = batch_sharding(mesh), parameter_shapes(model)
    return jax.jit(score, in_shardings=(sharding_of(shapes, shapes, mesh), split), out_shardings=split)


def score_clips(
    score_fn: ScoreFn,
    params: Any,
    batches: Iterator[dict[str, np.ndarray]],
    *,
    num_crops: int,
    mesh: Mesh,
    objective: str = "softmax",
    averages: Sequence[str] = AVERAGE_NAMES,
    partial: PartialEvaluation | None = None,
) -> ClipScores:
    """Scores of every clip in `batches` (this host's clips; rows whose `mask` is False fill a batch up and don't count).

    The clips of a video share their `identity`, a number, and needn't be in one batch; `clip` `[B, 2]` puts them in order.
    Every host must bring equally many batches of one size. `name` is bytes. `averages`: what the rows of `score_fn` are, each
    of them. `partial`: batches that were scored before, which `batches` goes on behind, and where more are kept; also where
    `Preempted` or Ctrl-C ends this.
    """
    rows = ClipRows() if partial is None else partial.rows
    in_flight: list[tuple[dict[str, np.ndarray], Array]] = []

    def fetch() -> None:
        while in_flight:
            batch, sums = in_flight.pop()
            if jax.process_count() > 1:
                sums = multihost_utils.global_array_to_host_local_array(sums, mesh, batch_sharding(mesh).spec)
            rows.add(batch, np.asarray(sums).reshape(len(sums), len(averages), -1))
            if partial is not None:
                partial.tick()

    try:
        for batch in batches:
            sums = score_fn(params, to_devices({name: batch[name] for name in batch.keys() - NOT_FOR_DEVICES}, mesh))
            # One batch stays in flight: enough to keep the devices busy, and no more than two batches in their memory.
            fetch()
            in_flight.append(({name: batch[name] for name in batch.keys() & NOT_FOR_DEVICES}, sums))
        fetch()
    except (Preempted, KeyboardInterrupt) as told:
        if partial is not None:
            if isinstance(told, Preempted) or jax.process_count() == 1:  # else others may have left, whom this waits for
                fetch()
            partial.write()
        raise
    return rows.gather(leads=batch_share(mesh).leads, num_crops=num_crops, averages=averages, objective=objective)


def predict_videos(
    score_fn: ScoreFn,
    params: Any,
    batches: Iterator[dict[str, np.ndarray]],
    *,
    average: str,
    num_crops: int,
    mesh: Mesh,
    objective: str = "softmax",
    averages: Sequence[str] = AVERAGE_NAMES,
) -> Predictions:
    """Scores of every video in `batches`, its clips averaged by `average`; the rest is as in `score_clips`."""
    options: dict[str, Any] = {"num_crops": num_crops, "mesh": mesh, "objective": objective, "averages": averages}
    return score_clips(score_fn, params, batches, **options).predictions(average)


NOT_FOR_DEVICES = frozenset({"label", "name", "mask", "identity", "clip", "seconds"})
"""What a batch of clips says of them, and the model isn't asked."""
