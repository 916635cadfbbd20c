"""The data sets that a config can name, prepared on first use."""

import contextlib
import dataclasses
import functools
import inspect
import io
import logging
import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from etils import epath

from input_pipeline._tensorflow import quiet_tfds, tf, tfds
from input_pipeline.builders import BUILDERS, older_name, own_config
from input_pipeline.facts import SplitFacts, facts_of_split
from input_pipeline.left_out import EXAMPLES, LeftOut, read_left_out
from input_pipeline.left_out import FILE as LEFT_OUT
from input_pipeline.moving_digits import FRAME_SIZE, NUM_FRAMES, MovingDigits, MovingDigitsConfig
from input_pipeline.preparation import Share, SharePrepared, alone
from input_pipeline.records import Records, Selection
from input_pipeline.sources import Contents, check_source, read_contents, read_source
from input_pipeline.video_builder import VideoBuilder, VideoConfig
from timesformer_jax.datasets import EXPECTED_CLASSES, LAYOUTS, Storage
from timesformer_jax.errors import InputError, check_utf8
from timesformer_jax.labels import encode_label
from timesformer_jax.os_errors import sentence
from timesformer_jax.processes import from_first, wait_for_all
from timesformer_jax.state_files import refuse
from timesformer_jax.video import Limits

log = logging.getLogger("timesformer_jax")

CheckLabels = Callable[[Sequence[str], bool], None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class VideoDataset:
    """A prepared TFDS builder: which of its features is the label, how its frames are kept, and how large at most."""

    builder: tfds.core.DatasetBuilder
    label: str
    codec: str
    short_side: int
    part_seconds: float = 0.0
    """How long each part but the last of a long video is; 0 where videos are kept whole."""
    most_videos: int | None = None
    """Of each split only so many, the first ones; None for all."""
    chosen: tuple[str, tuple[int, ...]] | None = None
    """A split, and the numbers of those of its videos that count, in this order; None for all."""

    @property
    def _label_feature(self) -> Any:
        features: Any = self.builder.info.features
        return features[self.label]

    @property
    def several(self) -> bool:
        """Whether a video may have any number of labels."""
        return self.label == "labels"

    @functools.cached_property
    def label_names(self) -> list[str]:
        source = read_source(epath.Path(self.builder.data_path)) if isinstance(self.builder, VideoBuilder) else None
        if source is not None:  # where TFDS has them escaped
            return source.label_names
        return list((self._label_feature.feature if self.several else self._label_feature).names)

    def num_videos(self, split: str) -> int:
        there = self.builder.info.splits[split].num_examples
        if self.chosen is not None and split == self.chosen[0]:
            there = len(self.chosen[1])
        return there if self.most_videos is None else min(there, self.most_videos)

    @functools.cached_property
    def _records(self) -> dict[str, Records]:
        return {}

    def records(self, split: str) -> Records | Selection:
        """The examples of a split, any by its number."""
        records = self._records_of(split)
        return records if self.chosen is None or split != self.chosen[0] else Selection(records, self.chosen[1])

    def _records_of(self, split: str) -> Records:
        if split not in self._records:
            self._records[split] = Records(self.builder, split)
        return self._records[split]

    def describe(self, split: str) -> dict[str, Any]:
        """What tells a split's videos from others', as JSON."""
        return {
            "name": self.builder.info.full_name,
            "split": split,
            "label": self.label,
            "num_videos": self.num_videos(split),
            "records": self.records(split).fingerprint,
        }

    def encode_label(self, features: Any) -> np.ndarray:
        """An example's label as the model learns it: its number, or for several one or zero for each class."""
        labels = list(features[self.label].int64_list.value)
        return encode_label(labels, len(self.label_names), multi_label=self.several)

    @property
    def label_spec(self) -> tf.TensorSpec:
        """Shape and type of `encode_label`."""
        return tf.TensorSpec([len(self.label_names)], tf.float32) if self.several else tf.TensorSpec([], tf.int32)

    def facts(self, split: str, name: str) -> np.ndarray:
        """What is known of every video of a split without reading it: its `name` as text, `num_frames`, `fps`, `part`, ..."""
        if split not in self._facts:
            self._facts[split] = facts_of_split(self.builder.data_path, split, self._records_of(split))
        values = self._facts[split].scalars(name)
        values = values if self.chosen is None or split != self.chosen[0] else values[list(self.chosen[1])]
        return values[: self.num_videos(split)]

    @functools.cached_property
    def _facts(self) -> dict[str, SplitFacts]:
        return {}

    @functools.cached_property
    def _left_out(self) -> LeftOut:
        return read_left_out(self.builder.data_path, self.builder.info.metadata or {})

    @property
    def left_out(self) -> dict[str, dict[str, str]]:
        """Split -> video that is listed but couldn't be read, or isn't there -> why. The whole lists are read for it."""
        return self._left_out.videos

    @property
    def damaged(self) -> dict[str, int]:
        """Video -> in how many places it is damaged; such videos are used. The whole list is read for it."""
        return self._left_out.damaged

    @property
    def num_left_out(self) -> dict[str, int]:
        """Split -> how many videos `left_out` has."""
        metadata = self.builder.info.metadata or {}
        if "num_left_out" in metadata:
            return dict(metadata["num_left_out"])
        return {split: len(videos) for split, videos in metadata.get("left_out", {}).items()}

    def describe_left_out(self) -> list[str]:
        """Lines for the log about videos that are left out or damaged: the first of each split, and how many more there are."""
        metadata = self.builder.info.metadata or {}
        lines = []
        for split, count in self.num_left_out.items():
            first = list(metadata["left_out"].get(split, {}).items())[:EXAMPLES]
            lines += [f"Left out {name} of '{split}': {reason}." for name, reason in first]
            lines += self._more(count - len(first), f"of '{split}' are left out")
        first = list(metadata.get("damaged", {}).items())[:EXAMPLES]
        lines += [f"Used, though damaged in {places} place(s): {name}." for name, places in first]
        return lines + self._more(metadata.get("num_damaged", len(metadata.get("damaged", {}))) - len(first), "are damaged")

    def _more(self, count: int, what: str) -> list[str]:
        return [f"{count:,} more {what}; all are listed in {self.builder.data_path}/{LEFT_OUT}."] if count > 0 else []


def _moving_digits(
    *,
    label: str,
    train_clips: int,
    val_clips: int,
    data_dir: str | None,
    num_frames: int = NUM_FRAMES,
    check: CheckLabels | None = None,
) -> VideoDataset:
    if label not in ("motion", "digit"):
        raise InputError(f"data.label must be 'motion' or 'digit', got {label!r}.")
    if min(train_clips, val_clips) < 1:
        raise InputError(f"data.train_clips and data.val_clips must be at least 1, got {train_clips} and {val_clips}.")
    if num_frames not in range(2, NUM_FRAMES + 1, 2):
        raise InputError(f"data.num_frames must be an even number from 2 to {NUM_FRAMES}, got {num_frames}.")
    config = MovingDigitsConfig(train_clips=train_clips, val_clips=val_clips, num_frames=num_frames)
    builder = _prepared(MovingDigits, config, data_dir)
    return VideoDataset(builder=builder, label=label, codec="jpeg", short_side=FRAME_SIZE)


def _videos(
    name: str,
    *,
    storage: str,
    short_side: int,
    max_fps: float | None,
    num_workers: int,
    data_dir: str | None,
    root: str | None = None,
    part_seconds: float | None = None,
    limits: Mapping[str, Any] | None = None,
    shard: str | None = None,
    check: CheckLabels | None = None,
    **layout: Any,
) -> VideoDataset:
    parameters = inspect.signature(LAYOUTS[name]).parameters
    if unknown := sorted(set(layout) - set(parameters)):
        raise InputError(f"The data set {name} has no field data.{unknown[0]}: see configs/folder.py:{name}.")
    kept = Storage(
        codec=storage,
        short_side=short_side,
        max_fps=math.inf if max_fps is None else max_fps,
        part_seconds=math.inf if part_seconds is None else part_seconds,
        limits=Limits(**(limits or {})),
    )
    share = Share.parse(shard)
    folder = None if root is None else Path(root).expanduser().resolve()
    base = VideoConfig(storage=kept, root=None if folder is None else str(folder), num_workers=num_workers)
    if name in OWN:
        builder = _prepared(BUILDERS[name], base, data_dir, complete=OWN[name](base, folder, layout), check=check, share=share)
    else:
        # What is as it would be anyway stays out of the name, so that `tfds build` and `main.py` find each other's data.
        layout = {field: value for field, value in layout.items() if value != parameters[field].default}
        builder = _prepared(BUILDERS[name], dataclasses.replace(base, name="", layout=layout), data_dir, share=share)
    opened: Any = builder.builder_config
    dataset = VideoDataset(
        builder=builder,
        label="labels" if opened.several else "label",
        codec=kept.codec,
        short_side=kept.short_side,
        part_seconds=part_seconds or 0.0,
    )
    expected, found = EXPECTED_CLASSES[name], len(dataset.label_names)
    if expected not in (None, found):
        log.warning("%s has %d labels here, and %d in all: published weights won't fit.", name, found, expected)
    return dataset


def _folder_config(base: VideoConfig, root: Path | None, layout: dict[str, Any]) -> Callable[[], VideoConfig]:
    if root is None:
        raise InputError("data.root is not set: give the folder of your videos as --config.data.root=FOLDER.")
    return lambda: own_config(base, root.name, LAYOUTS["video_folder"](root, **layout), root)


def _list_config(base: VideoConfig, root: Path | None, layout: dict[str, Any]) -> Callable[[], VideoConfig]:
    layout = dict(layout)
    given = {split: layout.pop(split) for split in ("train", "val")}
    for split, path in given.items():
        if path is None:
            raise InputError(f"data.{split} is not set: give the list of its videos as --config.data.{split}=FILE.csv.")
    lists = [Path(path).expanduser() for path in given.values()]
    below = root or lists[0].resolve().parent
    return lambda: own_config(base, lists[0].stem, LAYOUTS["video_list"](*lists, root=root, **layout), below)


OWN = {"video_folder": _folder_config, "video_list": _list_config}
"""Data sets without a published list -> (config, root, other fields of `data`) to a function that lists the videos, which their
config's name depends on."""

DATASETS: dict[str, Callable[..., VideoDataset]] = {
    "moving_digits": _moving_digits,
    **{name: functools.partial(_videos, name) for name in BUILDERS},
}
"""`data.name` -> a function whose keyword arguments are the other keys of the config's `data`."""


def open_dataset(*, name: str, check: CheckLabels | None = None, **options: Any) -> VideoDataset:
    """Open the data set `name`, prepared on first use.

    Args:
      name: a key of `DATASETS`.
      check: called before a user's own videos are prepared, which can take long, with the label names and whether a video may
        have several; it may raise `InputError`.
      options: the other fields of `data`; `data_dir`: where the data are prepared (None: TFDS's own folder, or $TFDS_DATA_DIR).

    Raises:
      InputError: for options or videos that can't work.
      SharePrepared: with `shard`, once that share of the data is prepared.
    """
    if name not in DATASETS:
        raise InputError(f"data.name must be one of {', '.join(DATASETS)}, got {name!r}.")
    return DATASETS[name](check=check, **options)


def _prepared(
    builder_class: type[tfds.core.DatasetBuilder],
    base: tfds.core.BuilderConfig,
    data_dir: str | None,
    complete: Callable[[], VideoConfig] | None = None,
    check: CheckLabels | None = None,
    share: Share | None = None,
) -> tfds.core.DatasetBuilder:
    """The builder, with its data on disk: listed, compared with their source and written by the first process while the others
    wait.

    `complete`: lists the videos where the config's name depends on them; else `base` is the config. `check`: as for
    `open_dataset`. `share`: which part of unprepared data to write, after which `SharePrepared` is raised.
    """
    data_dir = data_dir and os.path.expanduser(data_dir)
    check_utf8("data.data_dir", data_dir or "")
    if data_dir and "://" not in data_dir:
        try:
            os.makedirs(data_dir, exist_ok=True)
        except OSError as error:
            raise InputError(f"data.data_dir={data_dir} can't be used as a folder: {error.strerror}.") from error
    if not sys.stderr.isatty():
        tfds.disable_progress_bar()

    here: list[tfds.core.DatasetBuilder] = []

    def prepare() -> dict[str, Any]:
        """Add the builder to `here`; returns what other processes need in order to open the same data."""
        config = base if complete is None else complete()
        builder = _open(builder_class, config, data_dir)
        if isinstance(config, VideoConfig):
            builder = _known(builder, config, data_dir)
        _check_info(builder)
        if not builder.is_prepared():
            listing = getattr(config, "listing", None)
            if check is not None and listing is not None:
                check(listing.label_names, listing.several)
            if share is not None and not share.is_all:
                _write_share(builder, share)
            builder = _write(builder, data_dir)
        elif isinstance(config, VideoConfig):
            _check(builder, config)
        here.append(builder)
        opened: Any = builder.builder_config
        return {"name": opened.name, "several": getattr(config, "several", False)}

    with quiet_tfds():
        found = from_first(prepare, "the first process to prepare the data set")
        if not here:
            builder = _open(builder_class, dataclasses.replace(base, **found) if complete else base, data_dir)
            if builder.is_prepared():
                here.append(builder)
            else:
                prepare()  # this process has its own disk
        wait_for_all("processes with their own disks to prepare the data set")
        return here[0]


def _open(
    builder_class: type[tfds.core.DatasetBuilder], config: tfds.core.BuilderConfig, data_dir: str | None
) -> tfds.core.DatasetBuilder:
    listed = builder_class.builder_configs.get(config.name, config)  # TFDS wants its own object where it lists the name
    builder = builder_class(data_dir=data_dir, config=listed)
    if isinstance(config, VideoConfig):
        known: Any = builder.builder_config
        known.root, known.num_workers = config.root, config.num_workers
    return builder


def _known(builder: tfds.core.DatasetBuilder, config: VideoConfig, data_dir: str | None) -> tfds.core.DatasetBuilder:
    """The builder of the same videos as a folder of another name, or an older version, has prepared them; else `builder`."""
    if config.listing is None or builder.is_prepared():
        return builder
    title, _, digest = config.name.rpartition("_")
    beside = epath.Path(builder.data_path).parent.parent
    names = sorted(path.name for path in beside.glob(f"*_{digest}")) if beside.exists() else []
    names.append(older_name(config, title))
    others = (_open(type(builder), dataclasses.replace(config, name=name), data_dir) for name in names)
    return next((other for other in others if other.is_prepared()), builder)


def _write(builder: tfds.core.DatasetBuilder, data_dir: str | None) -> tfds.core.DatasetBuilder:
    """The builder with its data prepared, by this process or by another one meanwhile."""
    config: Any = builder.builder_config
    _check_root(builder)
    with alone(builder.data_path):
        again = _open(type(builder), config, data_dir)
        if again.is_prepared():
            return again
        _delete_unfinished(epath.Path(builder.data_path))
        log.info("Preparing the data set in %s; this is done once.", builder.data_path)
        with contextlib.redirect_stdout(io.StringIO()):  # TFDS prints its sizes, which are unknown here
            try:
                builder.download_and_prepare()
            except OSError as error:
                raise InputError(sentence(error, f"{builder.name} can't be prepared in {builder.data_path}")) from error
    return builder


def _write_share(builder: Any, share: Share) -> NoReturn:
    _check_root(builder)
    log.info("Preparing the share %s of the data set in %s.", share, builder.data_path)
    try:
        builder.prepare_share(share)
    except OSError as error:
        raise InputError(sentence(error, f"{builder.name} can't be prepared in {builder.data_path}")) from error
    raise SharePrepared(share, builder.data_path)


def _check_root(builder: tfds.core.DatasetBuilder) -> None:
    """Raises `InputError` if nobody said where the videos of unprepared data are."""
    config: Any = builder.builder_config
    if isinstance(config, VideoConfig) and config.root is None and config.listing is None:
        raise InputError(
            f"{builder.name} isn't prepared in {builder.data_path}, and data.root is not set: give the folder of its "
            "videos and lists as --config.data.root=FOLDER, or where it is prepared as --config.data.data_dir=FOLDER."
        )


def _check_info(builder: tfds.core.DatasetBuilder) -> None:
    """Raises `InputError` if prepared data have lost TFDS's description of them: TFDS would take them for empty splits."""
    folder = epath.Path(builder.data_path)
    if folder.exists() and not (folder / "dataset_info.json").exists():
        refuse(folder / "dataset_info.json", "it is missing", f"delete {folder} to prepare the data again")


def _delete_unfinished(folder: epath.Path) -> None:
    """Delete what killed preparations of the same data have left: TFDS writes into folders of random names and renames them."""
    left = list(folder.parent.glob(f"incomplete.*_{folder.name}")) if folder.parent.exists() else []
    for path in left:
        path.rmtree()


def _check(builder: tfds.core.DatasetBuilder, config: VideoConfig) -> None:
    """Compare what is prepared with what is in `data.root` now; raises `InputError` if it is something else."""
    root = None if config.root is None else Path(config.root)

    def read() -> Contents:
        assert root is not None
        assert isinstance(builder, VideoBuilder)
        return config.contents or read_contents(builder.read(root), root)

    check_source(epath.Path(builder.data_path), root, read)
