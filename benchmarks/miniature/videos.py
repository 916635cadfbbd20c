"""Moving digits as arrays in memory, and the clips that main.py's input pipeline would choose from them."""

import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from experiment.data import clip_options, drawn_videos
from input_pipeline.moving_digits import FPS, FRAME_SIZE, SCENES, MovingDigitsConfig, clip_name
from timesformer_jax.video import ClipOptions, EvalViews
from timesformer_jax.video.clip_seeds import clip_generator, epoch_order, identity_of
from timesformer_jax.video.views import Video, View, cut_windows, plan_windows


class Videos(NamedTuple):
    """A split in memory.

    Attributes:
        frames: uint8 `[N, T, H, W, 3]`; main.py stores JPEG files of them.
        labels: Class numbers, int32 `[N]`.
        names: Names of the videos.
    """

    frames: np.ndarray
    labels: np.ndarray
    names: list[str]


class Choices(NamedTuple):
    """What to take from the videos for a number of training clips, in order.

    Attributes:
        video: Number of each clip's video, int32 `[N]`.
        frames: Its frames, int32 `[N, T]`.
        corners: Top and left of the window, int32 `[N, 2]`.
        rows: Positions of the crop's rows in the window, float32 `[N, S]`.
        columns: Positions of its columns.
    """

    video: np.ndarray
    frames: np.ndarray
    corners: np.ndarray
    rows: np.ndarray
    columns: np.ndarray


def read_videos(config: Any, split: str) -> Videos:
    """Draw a split of the config's data set."""
    data = config.data
    return _draw(split, data[f"{split}_clips"], data.scene, data.label, data.num_frames)


@functools.lru_cache(maxsize=8)
def _draw(split: str, count: int, scene: str, label: str, num_frames: int) -> Videos:
    kept = MovingDigitsConfig(num_frames=num_frames).middle
    clips = [SCENES[scene].draw(split, index) for index in range(count)]
    frames = np.stack([frames[kept] for frames, _ in clips])
    return Videos(
        frames, np.array([labels[label] for _, labels in clips], np.int32), [clip_name(split, i) for i in range(count)]
    )


def label_names(config: Any) -> list[str]:
    """Names of the config's classes."""
    return list(SCENES[config.data.scene].labels[config.data.label])


def num_training_videos(config: Any) -> int:
    """Number of training videos that the config uses."""
    return max(round(config.train.data_share * config.data.train_clips), 1)


def window_of(config: Any) -> int:
    """Side of the training windows in pixels."""
    return clip_options(config).training_window(FRAME_SIZE)


def choose_clips(config: Any, count: int) -> Choices:
    """Choose the first `count` training clips of a run, as `input_pipeline.training_batches` does."""
    share = None if config.train.data_share == 1 else drawn_videos(config.data.train_clips, config)
    return _choose(clip_options(config), config.seed, config.data.num_frames, config.data.train_clips, share, count)


@functools.lru_cache(maxsize=16)
def _choose(
    options: ClipOptions, seed: int, num_frames: int, num_videos: int, share: tuple[int, ...] | None, count: int
) -> Choices:
    videos = range(num_videos) if share is None else share
    facts, window = Video(num_frames, FPS, FRAME_SIZE, FRAME_SIZE), options.training_window(FRAME_SIZE)
    rows = []
    for position in range(count):
        epoch, place = divmod(position, len(videos))
        video = videos[int(epoch_order(seed, epoch, len(videos))[place])]
        random = clip_generator(seed, epoch, identity_of(clip_name("train", video), 0))
        rows.append((video, *_window(options.training_views(random, facts, window - 2), facts, window)))
    return Choices(*map(np.stack, zip(*rows, strict=True)))


def _window(views: list[View], facts: Video, size: int) -> tuple[np.ndarray, ...]:
    """Return the frames, the corner of the window, and the rows and columns in it, of a single view."""
    plan = plan_windows(views, facts, size)
    frames = np.array(plan.frames, np.int32)[plan.which[0]]
    return frames, (plan.box[:2] + plan.corners[0]).astype(np.int32), plan.rows[0], plan.columns[0]


def eval_batches(config: Any) -> Iterator[dict[str, np.ndarray]]:
    """Yield the batches of `input_pipeline.eval_batches` for the split "val"."""
    views = EvalViews(num_clips=config.eval.num_clips, num_crops=config.eval.num_crops)
    videos, options = read_videos(config, "val"), clip_options(config)
    facts = Video(config.data.num_frames, FPS, FRAME_SIZE, FRAME_SIZE)
    size, chosen = options.eval_window(FRAME_SIZE, views.num_crops), options.eval_views(facts, views)
    plans = [plan_windows(chosen[i : i + views.num_crops], facts, size) for i in range(0, len(chosen), views.num_crops)]
    rows = [
        {
            "video": cut_windows(_box(frames, plan), plan, size),
            "rows": plan.rows,
            "columns": plan.columns,
            "label": label,
            "name": name.encode(),
            "identity": np.int64(identity_of(name)),
            "clip": np.array([0, clip], np.int32),
            "mask": np.True_,
        }
        for frames, label, name in zip(*videos, strict=True)
        for clip, plan in enumerate(plans)
    ]
    for first in range(0, len(rows), config.eval.batch_size):
        batch = rows[first : first + config.eval.batch_size]
        empty = {field: np.zeros_like(value) for field, value in batch[0].items() if field != "name"} | {"name": b""}
        batch += [empty] * (config.eval.batch_size - len(batch))
        yield {field: np.array([row[field] for row in batch], object if field == "name" else None) for field in batch[0]}


def _box(frames: np.ndarray, plan: Any) -> np.ndarray:
    top, left, height, width = plan.box
    return frames[plan.frames, top : top + height, left : left + width]
