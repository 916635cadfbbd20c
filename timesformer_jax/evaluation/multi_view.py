"""Scores of whole videos, averaged over any number of clips and crops of each."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from timesformer_jax._typing import Array, Float
from timesformer_jax.evaluation.clip_scores import AVERAGE_NAMES, AVERAGES, ClipRows, ClipScores, Predictions
from timesformer_jax.evaluation.partial import PartialEvaluation
from timesformer_jax.modeling import variables_of, weight_shapes
from timesformer_jax.preemption import Preempted
from timesformer_jax.training.activations import split_activations, split_clips
from timesformer_jax.training.mesh import batch_sharding, batch_share, to_devices
from timesformer_jax.training.sharding import weight_sharding

ScoreFn = Callable[[Any, dict[str, Array]], Array]


def make_score_fn(
    *, model: nn.Module, prepare: Callable[[dict[str, Array]], Array], mesh: Mesh, objective: str = "softmax"
) -> ScoreFn:
    """Make a jitted function that computes what each clip of a batch adds to its video's scores.

    The function takes the model's weights (the parameters, or `weights_of` for a model with BatchNorm) and a batch of `B`
    clips, and returns `[B, averages, classes]`, summed over each clip's crops. One forward pass serves all averages of
    `AVERAGES`.

    Args:
        model: The model.
        prepare: Maps a batch to the model's input `[B * crops, T, H, W, C]`, with the crops of a clip next to each other.
        mesh: Mesh of devices.
        objective: A key of `OBJECTIVES`.

    Returns:
        The function.
    """
    averages = AVERAGES[objective].values()

    def score(weights: Any, batch: dict[str, Array]) -> Float[Array, "B averages classes"]:
        clips = prepare(batch)
        with split_activations(mesh):
            logits: Any = model.apply(variables_of(weights), split_clips(clips, mesh))
        views = jnp.stack([average.of_view(logits) for average in averages], axis=1)  # [B * crops, averages, classes]
        return views.reshape(len(batch["video"]), -1, *views.shape[1:]).sum(axis=1)

    split = batch_sharding(mesh)
    return jax.jit(score, in_shardings=(weight_sharding(weight_shapes(model), mesh), split), out_shardings=split)


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
    """Score every clip in `batches`.

    Args:
        score_fn: A function made by `make_score_fn`.
        params: Weights of the model.
        batches: This host's batches. Every host must provide the same number of batches, all of one size. Rows whose `mask`
            is False are padding. The clips of a video share an integer `identity`, need not be in one batch, and are ordered by
            `clip` `[B, 2]`. `name` is bytes.
        num_crops: Number of crops per clip.
        mesh: Mesh of devices.
        objective: A key of `OBJECTIVES`.
        averages: Names of all averages that `score_fn` returns, in order.
        partial: Batches scored earlier, which `batches` continues. New batches are saved to it, also before `Preempted` or
            `KeyboardInterrupt` propagates.

    Returns:
        The scores of all hosts' clips.
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
            # One batch stays in flight, which keeps the devices busy with no more than two batches in their memory.
            fetch()
            in_flight.append(({name: batch[name] for name in batch.keys() & NOT_FOR_DEVICES}, sums))
        fetch()
    except (Preempted, KeyboardInterrupt) as error:
        if partial is not None:
            if isinstance(error, Preempted) or jax.process_count() == 1:  # else `fetch` may wait for processes that have ended
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
    """Score every video in `batches`.

    Args:
        score_fn: A function made by `make_score_fn`.
        params: Weights of the model.
        batches: This host's batches, as in `score_clips`.
        average: One of `averages`, by which a video's views are averaged.
        num_crops: Number of crops per clip.
        mesh: Mesh of devices.
        objective: A key of `OBJECTIVES`.
        averages: Names of all averages that `score_fn` returns, in order.

    Returns:
        The scores of all hosts' videos.
    """
    options: dict[str, Any] = {"num_crops": num_crops, "mesh": mesh, "objective": objective, "averages": averages}
    return score_clips(score_fn, params, batches, **options).predictions(average)


NOT_FOR_DEVICES = frozenset({"label", "name", "mask", "identity", "clip", "seconds"})
"""Entries of a batch that describe its clips and are not passed to the model."""
