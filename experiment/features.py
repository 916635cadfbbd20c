"""`--mode=features`: write the frozen model's features of every video of some splits, in shards."""

import dataclasses
import logging
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

import timesformer_jax as tsf
from experiment.architectures import check_reads
from experiment.checks import SPLITS
from experiment.data import describe_preprocess
from experiment.follow import make_model
from experiment.frozen import check_frozen, frozen
from experiment.setup import Run
from input_pipeline import EvalViews
from timesformer_jax import training
from timesformer_jax.evaluation.multi_view import NOT_FOR_DEVICES
from timesformer_jax.features import (
    TILED_CLIPS,
    FeatureWriter,
    ShardRows,
    check_folder,
    check_options,
    count_shards,
    describe_features,
    extract,
    folder_at,
)
from timesformer_jax.modeling import describe_model, weight_shapes
from timesformer_jax.preemption import watch_preemption
from timesformer_jax.processes import wait_for_all
from timesformer_jax.progress import Progress
from timesformer_jax.training.activations import split_activations, split_clips
from timesformer_jax.training.mesh import Share

log = logging.getLogger("timesformer_jax")

FOLDER = "features"
"""Folder of the features in the workdir, with a subfolder per split."""


def check_features(config: Any, workdir: str) -> None:
    """Raise `InputError` for invalid options, before the data are prepared, which can take hours."""
    options = config.features
    check_options(options.kind, options.dtype, options.videos_per_shard)
    splits = options.splits
    if not splits or isinstance(splits, str) or not set(splits) <= set(SPLITS) or len(set(splits)) < len(splits):
        raise tsf.InputError(f"features.splits must be some of {SPLITS}, each once, such as ('val',); got {splits!r}.")
    check_reads(config, "features.kind", options.kind)
    check_frozen(config, workdir, "features")
    model = {name: value for name, value in describe_model(make_model(config)).items() if name != "num_classes"}
    about = {
        "kind": options.kind,
        "dtype": options.dtype,
        "model": model,
        "preprocess": describe_preprocess(config).as_dict(),
        **{name: config.eval[name] for name in ("num_clips", "num_crops")},
    }
    for split in splits:
        check_folder(folder_at(workdir) / FOLDER / split, about)


def write_features(run: Run) -> None:
    """Write WORKDIR/features/SPLIT for each of `features.splits`; existing shards are kept."""
    params, source = frozen(run)
    for split in run.config.features.splits:
        _write_split(run, split, params, source)


def _write_split(run: Run, split: str, params: Any, source: dict[str, Any]) -> None:
    options, views = run.config.features, run.data.views
    num_videos, tiled = run.data.num_videos(split), run.data.clips.placement == "tiled"
    num_shards = count_shards(
        num_videos,
        run.model.module,
        kind=options.kind,
        dtype=options.dtype,
        rows_per_video=(TILED_CLIPS if tiled else views.num_clips) * views.num_crops,
        videos_per_shard=options.videos_per_shard,
    )
    description = describe_features(
        run.model.module,
        params,
        kind=options.kind,
        dtype=options.dtype,
        source=source["backbone"],
        step=source["backbone_step"],
        preprocess=run.files.preprocess,
        **dataclasses.asdict(views),
        label_names=run.data.label_names,
        videos={
            "data_set": run.data.dataset.builder.info.full_name,
            "split": split,
            "listed": num_videos,
            "records": run.data.dataset.records(split).fingerprint,
        },
    )
    writer = FeatureWriter(folder_at(run.workdir) / FOLDER / split, description, num_shards=num_shards)
    wait_for_all("every process to read the existing features")
    if jax.process_index() == 0:
        writer.begin()
    wait_for_all("the folder of features to be created")
    missing = _agreed(writer.missing(), num_shards)
    log.info(
        "Features (%s) of %d videos of '%s' in %d shard(s)%s.",
        options.kind,
        num_videos,
        split,
        num_shards,
        "" if len(missing) == num_shards else f", {num_shards - len(missing)} of which already exist",
    )
    compute = make_feature_fn(run, options.kind)
    progress = Progress(len(missing), split, unit="shard", quiet=jax.process_index() > 0)
    with progress, watch_preemption("the shard under way") as stops:
        for mine, writes in turns(missing, run.data.share):
            if stops():
                done = num_shards - len(writer.missing())
                raise stops.preempted(f"{done} of {num_shards} shards of '{split}' are written")
            rows = _rows(run, params, compute, split, views, shard=(mine, num_shards))
            if writes:
                writer.write(mine, rows)
            progress.update(min(run.data.share.count, len(missing) - progress.done))
    wait_for_all("every shard to be written")
    if jax.process_index() == 0:
        about = writer.finish(run.data.dataset.left_out.get(split))
        log.info(
            "%d rows of %d videos of '%s' (%d more can't be read) are in %s.",
            about["num_rows"],
            about["num_videos"],
            split,
            len(about["unreadable"]),
            writer.folder,
        )
    wait_for_all("the features to be completed")


def make_feature_fn(run: Run, kind: str) -> Callable[[Any, dict[str, jax.Array]], jax.Array]:
    """Make a jitted function (params, batch of `B` clips) -> features `[B, crops, ...]`, sharded like the batch."""
    mesh, prepare = run.model.mesh, run.model.prepare_eval

    def compute(params: Any, batch: dict[str, jax.Array]) -> jax.Array:
        with split_activations(mesh):
            found = extract(run.model.module, params, split_clips(prepare(batch), mesh), kind)
        return found.reshape(len(batch["video"]), -1, *found.shape[1:]).astype(jax.numpy.float32)

    split, weights = training.batch_sharding(mesh), training.weight_sharding(weight_shapes(run.model.module), mesh)
    return jax.jit(compute, in_shardings=(weights, split), out_shardings=split)


def turns(missing: list[int], share: Share) -> Iterator[tuple[int, bool]]:
    """Yield the feature shard that this process computes in each round, and whether it writes that shard.

    Processes that hold the same clips compute the same shard, and one of them writes it. In the last round there may be fewer
    shards than processes: the others compute the last shard as well, since all processes must provide the same number of
    batches.
    """
    for first in range(0, len(missing), share.count):
        these = missing[first : first + share.count]
        yield these[min(share.index, len(these) - 1)], share.leads and share.index < len(these)


def _agreed(missing: list[int], num_shards: int) -> list[int]:
    """Missing shards that the first process finds; files may become visible later elsewhere."""
    if jax.process_count() == 1:
        return missing
    found = multihost_utils.broadcast_one_to_all(np.isin(np.arange(num_shards), missing))
    return np.flatnonzero(np.asarray(found)).tolist()


def _rows(
    run: Run, params: Any, compute: Callable[..., jax.Array], split: str, views: EvalViews, shard: tuple[int, int]
) -> ShardRows:
    """Compute the features of a shard's videos.

    Args:
        run: The run.
        params: Parameters of its model.
        compute: Result of `make_feature_fn`.
        split: "train" or "val".
        views: Views of each video.
        shard: (k, N): shard k of N has the videos k, k + N, k + 2 N, ... of the split.
    """
    rows = ShardRows(run.config.features.dtype)
    spec = training.batch_sharding(run.model.mesh).spec
    waiting: list[tuple[dict[str, np.ndarray], jax.Array]] = []

    def take() -> None:
        batch, found = waiting.pop(0)
        values = np.asarray(multihost_utils.global_array_to_host_local_array(found, run.model.mesh, spec))
        for i in np.flatnonzero(batch["mask"]):
            name = batch["name"][i].decode(errors="replace")
            rows.add_clip(name, values[i], seconds=float(batch["seconds"][i, 0]), label=batch["label"][i])

    for batch in run.data.eval_batches(split, views, shard):
        given = {name: batch[name] for name in batch.keys() - NOT_FOR_DEVICES}
        waiting.append((batch, compute(params, training.to_devices(given, run.model.mesh))))
        if len(waiting) > 1:  # keep one batch in flight while the next one's videos are decoded
            take()
    while waiting:
        take()
    return rows
