"""The data sets that a config can name, prepared on first use."""

import contextlib
import dataclasses
import io
import logging
import os
import sys
from collections.abc import Callable
from typing import Any

import jax
from jax.experimental import multihost_utils

from input_pipeline._tensorflow import quiet_tfds, tfds
from input_pipeline.moving_digits import MovingDigits, MovingDigitsConfig
from input_pipeline.video_folder import VideoFolder, VideoFolderConfig
from timesformer_jax.errors import InputError

log = logging.getLogger("timesformer_jax")


@dataclasses.dataclass(frozen=True, kw_only=True)
class VideoDataset:
    """A prepared TFDS builder, and which of its labels is meant."""

    builder: tfds.core.DatasetBuilder
    label: str

    @property
    def label_names(self) -> list[str]:
        features: Any = self.builder.info.features
        return features[self.label].names

    def num_videos(self, split: str) -> int:
        return self.builder.info.splits[split].num_examples

    @property
    def left_out(self) -> dict[str, str]:
        """File -> why it was left out."""
        return dict((self.builder.info.metadata or {}).get("left_out", {}))

    @property
    def damaged(self) -> dict[str, int]:
        """File -> in how many places it is damaged; such files are used."""
        return dict((self.builder.info.metadata or {}).get("damaged", {}))


def _moving_digits(*, label: str, train_clips: int, val_clips: int, data_dir: str | None) -> VideoDataset:
    if label not in ("motion", "digit"):
        raise InputError(f"data.label must be 'motion' or 'digit', got {label!r}.")
    if min(train_clips, val_clips) < 1:
        raise InputError(f"data.train_clips and data.val_clips must be at least 1, got {train_clips} and {val_clips}.")
    config = MovingDigitsConfig(train_clips=train_clips, val_clips=val_clips)
    config = MovingDigits.builder_configs.get(config.name, config)  # TFDS wants its own object where it lists the name
    return VideoDataset(builder=_prepared(MovingDigits, config, data_dir), label=label)


def _video_folder(*, root: str | None, val_fraction: float, max_short_side: int, data_dir: str | None) -> VideoDataset:
    if root is None:
        raise InputError("data.root is not set: give the folder of your videos as --config.data.root=FOLDER.")
    config = VideoFolderConfig(root=root, val_fraction=val_fraction, max_short_side=max_short_side)
    return VideoDataset(builder=_prepared(VideoFolder, config, data_dir), label="label")


DATASETS: dict[str, Callable[..., VideoDataset]] = {
    "moving_digits": _moving_digits,
    "video_folder": _video_folder,
}
"""`data.name` -> a function whose keyword arguments are the other keys of the config's `data`."""


def open_dataset(*, name: str, **options: Any) -> VideoDataset:
    """The data set `name`, prepared on first use into `data_dir` (None: TFDS's own folder, or $TFDS_DATA_DIR)."""
    if name not in DATASETS:
        raise InputError(f"data.name must be one of {', '.join(DATASETS)}, got {name!r}.")
    return DATASETS[name](**options)


def _prepared(
    builder_class: type[tfds.core.DatasetBuilder], config: tfds.core.BuilderConfig, data_dir: str | None
) -> tfds.core.DatasetBuilder:
    """The builder, with its data on disk: written by the first process while the others wait."""
    data_dir = data_dir and os.path.expanduser(data_dir)
    if data_dir and "://" not in data_dir:
        try:
            os.makedirs(data_dir, exist_ok=True)
        except OSError as error:
            raise InputError(f"data.data_dir={data_dir} can't be used as a folder: {error.strerror}.") from error
    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    with quiet_tfds():
        builder = builder_class(data_dir=data_dir, config=config)
        if jax.process_index() == 0 and not builder.is_prepared():
            log.info("Preparing the data set in %s; this is done once.", builder.data_path)
            with contextlib.redirect_stdout(io.StringIO()):  # TFDS prints its sizes, which are unknown here
                builder.download_and_prepare()
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices("data set prepared")
            builder = builder_class(data_dir=data_dir, config=config)
            builder.download_and_prepare()  # does nothing where the disk is shared
    return builder
