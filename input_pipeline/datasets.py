"""Data sets that a config can name, prepared on first use."""

import dataclasses
import functools
import inspect
import logging
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from input_pipeline.builders import BUILDERS, own_config
from input_pipeline.moving_digits import FRAME_SIZE, NUM_FRAMES, SCENES, MovingDigits, MovingDigitsConfig
from input_pipeline.prepared import CheckLabels, prepared
from input_pipeline.shares import Share
from input_pipeline.video_builder import VideoConfig
from input_pipeline.video_dataset import VideoDataset
from timesformer_jax.checks import check_choice
from timesformer_jax.datasets import EXPECTED_CLASSES, LAYOUTS, Storage
from timesformer_jax.errors import InputError
from timesformer_jax.video import Limits

log = logging.getLogger("timesformer_jax")


def classes_of_digits(scene: str, label: str) -> tuple[str, ...]:
    """Return the names of the classes of `moving_digits`; raises `InputError` for an unknown scene or label."""
    check_choice("data.scene", scene, SCENES)
    if label not in SCENES[scene].labels:
        raise InputError(f"data.label must be one of {', '.join(SCENES[scene].labels)} with data.scene={scene}, got {label!r}.")
    return SCENES[scene].labels[label]


def _moving_digits(
    *,
    label: str,
    train_clips: int,
    val_clips: int,
    data_dir: str | None,
    num_frames: int = NUM_FRAMES,
    scene: str = "motion",
    check: CheckLabels | None = None,
) -> VideoDataset:
    classes_of_digits(scene, label)
    if min(train_clips, val_clips) < 1:
        raise InputError(f"data.train_clips and data.val_clips must be at least 1, got {train_clips} and {val_clips}.")
    if num_frames not in range(2, NUM_FRAMES + 1, 2):
        raise InputError(f"data.num_frames must be an even number from 2 to {NUM_FRAMES}, got {num_frames}.")
    config = MovingDigitsConfig(scene=scene, train_clips=train_clips, val_clips=val_clips, num_frames=num_frames)
    builder = prepared(MovingDigits, config, data_dir)
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
        builder = prepared(BUILDERS[name], base, data_dir, complete=OWN[name](base, folder, layout), check=check, share=share)
    else:
        # Default values stay out of the config's name, so that `tfds build` and `main.py` find each other's data.
        layout = {field: value for field, value in layout.items() if value != parameters[field].default}
        builder = prepared(BUILDERS[name], dataclasses.replace(base, name="", layout=layout), data_dir, share=share)
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
        log.warning("%s has %d labels here instead of %d: published weights won't fit.", name, found, expected)
    return dataset


def _folder_config(base: VideoConfig, root: Path | None, layout: dict[str, Any]) -> Callable[[], VideoConfig]:
    if root is None:
        raise InputError("data.root is not set: give the folder of your videos as --config.data.root=FOLDER.")
    return lambda: own_config(base, root.name, LAYOUTS["video_folder"](root, **layout), root)


def _list_config(base: VideoConfig, root: Path | None, layout: dict[str, Any]) -> Callable[[], VideoConfig]:
    layout = dict(layout)
    given = {split: layout.pop(split, None) for split in ("train", "val")}
    for split, path in given.items():
        if path is None:
            raise InputError(f"data.{split} is not set: give the list of its videos as --config.data.{split}=FILE.csv.")
    lists = [Path(path).expanduser() for path in given.values()]
    below = root or lists[0].resolve().parent
    return lambda: own_config(base, lists[0].stem, LAYOUTS["video_list"](*lists, root=root, **layout), below)


OWN = {"video_folder": _folder_config, "video_list": _list_config}
"""Maps each data set without a published list to a function of (config, root, other fields of `data`), which returns a function
that lists the videos and completes the config."""

DATASETS: dict[str, Callable[..., VideoDataset]] = {
    "moving_digits": _moving_digits,
    **{name: functools.partial(_videos, name) for name in BUILDERS},
}
"""Maps `data.name` to a function whose keyword arguments are the other fields of the config's `data`."""


def open_dataset(*, name: str, check: CheckLabels | None = None, **options: Any) -> VideoDataset:
    """Open the data set `name`, prepared on first use.

    Args:
        name: A key of `DATASETS`.
        check: Called before a user's own videos are prepared, which can take hours, with the label names and whether a video
            may have several; may raise `InputError`.
        options: The other fields of `data`. `data_dir` is the folder for prepared data; None for $TFDS_DATA_DIR or TFDS's
            default.

    Raises:
        InputError: If the options or the videos are invalid.
        SharePrepared: Once a share of the data is prepared, if `shard` is given.
    """
    check_choice("data.name", name, DATASETS)
    try:
        inspect.signature(DATASETS[name]).bind(check=check, **options)
    except TypeError as error:
        config = "configs/moving_digits.py" if name == "moving_digits" else f"configs/folder.py:{name}"
        raise InputError(f"data.name={name} needs other fields of data ({error}): use --config={config}.") from error
    return DATASETS[name](check=check, **options)
