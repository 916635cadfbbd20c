"""Data of a run: the prepared data set, and this process's batches of it."""

import dataclasses
import logging
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

import timesformer_jax as tsf
from experiment.architectures import section_name, section_of
from experiment.sections import arguments_of
from input_pipeline import ClipOptions, EvalViews, SplitBatches, VideoDataset, eval_batches, training_batches
from timesformer_jax import training
from timesformer_jax.video import Preprocess

log = logging.getLogger("timesformer_jax")


class RunData:
    """Data set of a run, and this process's batches.

    Attributes:
        dataset: The prepared data set, reduced to the config's share.
        clips: Options for sampling clips from videos.
        views: Views of each video in evaluation.
        share: This process's share of every global batch.
    """

    def __init__(self, config: Any, dataset: VideoDataset, clips: ClipOptions, views: EvalViews, mesh: Mesh):
        _report_files(dataset)
        if config.debug:
            dataset = dataclasses.replace(dataset, most_videos=2 * max(config.train.batch_size, config.eval.batch_size))
        if config.train.data_share < 1:
            dataset = dataclasses.replace(dataset, chosen=("train", drawn_videos(dataset.num_videos("train"), config)))
        self.dataset, self.clips, self.views = dataset, clips, views
        self.share = training.batch_share(mesh)
        self._config, self._shards = config, training.batch_shards(mesh)

    @property
    def label_names(self) -> list[str]:
        """Names of the classes, in order."""
        return self.dataset.label_names

    def num_videos(self, split: str) -> int:
        """Number of readable videos of a split that the run uses."""
        return self.dataset.num_videos(split)

    @property
    def local_batch_size(self) -> int:
        """Number of clips of a training batch that this process provides."""
        return self._config.train.batch_size // self.share.count

    @property
    def eval_batch_size(self) -> int:
        """Clips per evaluation batch over all processes: `eval.batch_size`, rounded up to a multiple of the devices."""
        return -(-self._config.eval.batch_size // self._shards) * self._shards

    def training_batches(self, batch_size: int, first_clip: int) -> Iterator[dict[str, np.ndarray]]:
        """Yield this process's `batch_size` clips of every training batch, starting at the run's clip `first_clip`."""
        return training_batches(
            self.dataset,
            "train",
            self.clips,
            batch_size=batch_size,
            seed=self._config.seed,
            first_clip=first_clip,
            shard=(self.share.index, self.share.count),
        )

    def eval_batches(self, split: str, views: EvalViews | None, shard: tuple[int, int] | None = None) -> SplitBatches:
        """Batches with this process's videos of a split.

        Args:
            split: "train" or "val".
            views: Views of each video; None for a single one, even if the evaluation's clips cover the videos ("tiled").
            shard: (first, step), to read the videos `first`, `first + step`, ... instead of this process's.
        """
        clips = self.clips
        if views is None and clips.placement == "tiled":
            clips = dataclasses.replace(clips, placement="centre")
        return eval_batches(
            self.dataset,
            split,
            clips,
            batch_size=self.eval_batch_size // self.share.count,
            views=views or EvalViews(),
            shard=shard or (self.share.index, self.share.count),
        )


def clip_options(config: Any) -> ClipOptions:
    """Make the clip options of a config; raises `InputError` if a value is invalid."""
    model = section_of(config)
    image_size = model.image_size
    if not isinstance(image_size, int):
        raise tsf.InputError(
            f"{section_name(config)}.image_size must be one number here, since crops are square; got {image_size}."
        )
    with arguments_of(config, "clips"):
        return ClipOptions(num_frames=model.num_frames, crop_size=image_size, **config.clips)


def describe_preprocess(config: Any) -> Preprocess:
    """Preprocessing of videos in evaluation with this config."""
    clips = clip_options(config)
    return Preprocess(
        num_frames=clips.num_frames,
        crop_size=clips.eval_crop,
        sampling=clips.sampling,
        sampling_rate=clips.sampling_rate,
        mean=config.pixels.mean,
        std=config.pixels.std,
        channel_order=config.pixels.channel_order,
        short_side=clips.eval_short_side,
        placement=clips.placement,
    )


def drawn_videos(num_videos: int, config: Any) -> tuple[int, ...]:
    """Indices of the training videos to use; a smaller `data_share` selects a subset of a larger one."""
    count = max(round(config.train.data_share * num_videos), 1)
    return tuple(sorted(np.random.default_rng([config.seed, num_videos]).permutation(num_videos)[:count].tolist()))


def _report_files(dataset: VideoDataset) -> None:
    if jax.process_index():
        return
    for line in dataset.describe_left_out():
        log.warning("%s", line)
