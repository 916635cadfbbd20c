"""Batches for the device: random clips of a split for ever, or every video of a split once, as uint8.

Which frames and which crop is decided in NumPy, from (seed, epoch, example) alone; the pixels are moved in TensorFlow. So
the same example of the same epoch is the same clip whatever the number of workers, hosts or restarts.
"""

import dataclasses
import functools
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from input_pipeline._tensorflow import quiet_tfds, tf, tfds
from input_pipeline.datasets import VideoDataset
from input_pipeline.frames import crop_frames, decode_frames, resize_frames
from timesformer_jax.errors import InputError
from timesformer_jax.video import (
    PLACEMENTS,
    SAMPLINGS,
    clip_frames,
    crop_offset,
    scale_short_side,
    segment_frames,
    test_clips,
    view_crop_offset,
)

Batch = dict[str, np.ndarray]

SHUFFLE_BUFFER_BYTES = 1 << 30
"""The shuffle buffer holds whole encoded videos: as many of them as fit here."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClipOptions:
    """How a clip is cut out of a video.

    `sampling`: "uniform" (a span of `sampling_rate * num_frames` frames at 30 fps; Kinetics) or "segments" (one frame of
    each of `num_frames` parts of the whole video; Something-Something). `short_side`: (smallest, largest) short side in
    pixels that training scales a frame to before the random crop of `crop_size`; the single centre crop of a test scales
    to the smallest. `placement`: where test clips begin, a key of `PLACEMENTS`.
    """

    num_frames: int
    crop_size: int
    sampling: str
    sampling_rate: float
    short_side: tuple[int, int]
    placement: str = "official"

    def __post_init__(self) -> None:
        if self.sampling not in SAMPLINGS:
            raise InputError(f"clips.sampling must be one of {', '.join(SAMPLINGS)}, got {self.sampling!r}.")
        if self.placement not in PLACEMENTS:
            raise InputError(f"clips.placement must be one of {', '.join(PLACEMENTS)}, got {self.placement!r}.")
        if not (
            isinstance(self.short_side, tuple)
            and len(self.short_side) == 2
            and self.crop_size <= self.short_side[0] <= self.short_side[1]
        ):
            raise InputError(
                f"clips.short_side must be (smallest, largest) with smallest at least the model's image_size "
                f"{self.crop_size}, got {self.short_side}."
            )

    @property
    def test_short_side(self) -> int:
        """The short side that a test's single centre crop is taken from."""
        return self.short_side[0] if self.sampling == "uniform" else self.crop_size

    def training_plan(
        self, random: np.random.Generator, num_video_frames: int, fps: float, height: int, width: int
    ) -> tuple[np.ndarray, tuple[int, int], tuple[int, int]]:
        """Frame indices `[T]`, scaled size (height, width) and crop offset (top, left) of one random clip."""
        if self.sampling == "uniform":
            frames = clip_frames(
                num_video_frames,
                fps,
                num_frames=self.num_frames,
                sampling_rate=self.sampling_rate,
                start=random.random(),
            )
        else:
            frames = segment_frames(num_video_frames, num_frames=self.num_frames, random=random)
        low, high = self.short_side
        # Something-Something's configurations draw the inverse of the short side.
        size = random.uniform(low, high) if self.sampling == "uniform" else 1 / random.uniform(1 / high, 1 / low)
        scaled = scale_short_side(height, width, round(size))
        offset = crop_offset(*scaled, self.crop_size, vertical=random.random(), horizontal=random.random())
        return frames, scaled, offset

    def test_plan(
        self, num_clips: int, num_crops: int, num_video_frames: int, fps: float, height: int, width: int
    ) -> tuple[np.ndarray, tuple[int, int], list[tuple[int, int]]]:
        """Frame indices `[K * T]`, scaled size and crop offsets (top, left) of a video's test views.

        Three crops scale the short side to the crop, one (the centre) to the smallest training size where `sampling` is
        "uniform", as the official tests do.
        """
        clips = test_clips(
            num_video_frames,
            fps,
            num_clips=num_clips,
            num_frames=self.num_frames,
            sampling=self.sampling,
            sampling_rate=self.sampling_rate,
            placement=self.placement,
        )
        scaled = scale_short_side(height, width, self.test_short_side if num_crops == 1 else self.crop_size)
        crops = range(3) if num_crops == 3 else [1]
        offsets = [view_crop_offset(*scaled, self.crop_size, crop) for crop in crops]
        return clips.reshape(-1), scaled, offsets


def _examples(dataset: VideoDataset, split: str) -> tuple[tf.data.Dataset, int, int]:
    """This host's share of a split, frames still encoded; the number of videos in it and their mean size in bytes."""
    builder: Any = dataset.builder
    share = tfds.split_for_jax_process(split)
    with quiet_tfds():
        examples = builder.as_dataset(
            split=share,
            decoders={"video": tfds.decode.SkipDecoding()},
            read_config=tfds.ReadConfig(add_tfds_id=True, try_autocache=False),
        )
    info = builder.info.splits
    return examples, info[share].num_examples, max(info[split].num_bytes // info[split].num_examples, 1)


def _planned(plan: Callable, example: dict[str, tf.Tensor], shapes: tuple, *more: tf.Tensor) -> tuple[tf.Tensor, ...]:
    """The arrays of `shapes` that `plan(*more, number of frames, fps, height, width)` computes in NumPy."""
    height, width, _ = tf.unstack(tf.io.extract_jpeg_shape(example["video"][0]))
    facts = (*more, tf.size(example["video"]), example["fps"], height, width)

    def in_numpy(*values: Any) -> list[np.ndarray]:
        plain = [value.item() if isinstance(value, np.generic) else value for value in values]
        return [np.asarray(array, np.int64) for array in plan(*plain)]

    arrays = tf.numpy_function(in_numpy, facts, (tf.int64,) * len(shapes))
    return tuple(tf.ensure_shape(array, shape) for array, shape in zip(arrays, shapes, strict=True))


def _numpy(batches: Any) -> Iterator[Batch]:
    return iter(batches.as_numpy_iterator())


def training_batches(
    dataset: VideoDataset, split: str, options: ClipOptions, *, batch_size: int, seed: int, first_example: int = 0
) -> Iterator[Batch]:
    """Endless batches `video` uint8 `[batch_size, T, S, S, 3]`, `label` int32 `[batch_size]`, each epoch in another order.

    `batch_size` is this host's. `first_example` starts in the middle: number of examples that this host has used before,
    so a restarted run goes on with the very next one. Batches run across the ends of epochs; no example is dropped.
    """
    examples, num_examples, mean_bytes = _examples(dataset, split)
    if not num_examples:
        raise InputError(f"The split '{split}' has fewer videos than there are processes ({jax.process_count()}): use fewer.")
    first_epoch, position = divmod(first_example, num_examples)
    buffer = min(num_examples, max(SHUFFLE_BUFFER_BYTES // mean_bytes, 16))

    def one_epoch(epoch: tf.Tensor) -> tf.data.Dataset:
        order: Any = seed * 1_000_003 + epoch
        shuffled = examples.shuffle(buffer, seed=order, reshuffle_each_iteration=False)
        return shuffled.map(lambda example: {**example, "epoch": epoch})

    def plan(identity: bytes, epoch: int, num_video_frames: int, fps: float, height: int, width: int):
        random = np.random.default_rng([seed, epoch, zlib.crc32(identity)])
        return options.training_plan(random, num_video_frames, fps, height, width)

    def clip(example: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        shapes = ((options.num_frames,), (2,), (2,))
        frames, scaled, offset = _planned(plan, example, shapes, example["tfds_id"], example["epoch"])
        video = resize_frames(decode_frames(example["video"], frames), scaled)
        return {"video": crop_frames(video, offset, options.crop_size), "label": tf.cast(example[dataset.label], tf.int32)}

    epochs = tf.data.Dataset.range(first_epoch, np.iinfo(np.int64).max)
    batches = (
        epochs.flat_map(one_epoch)
        .skip(position)  # of encoded examples: nothing is decoded for it
        .map(clip, num_parallel_calls=tf.data.AUTOTUNE)
        .batch(batch_size, drop_remainder=True)
        .prefetch(tf.data.AUTOTUNE)
    )
    return _numpy(batches)


def test_batches(
    dataset: VideoDataset, split: str, options: ClipOptions, *, batch_size: int, num_clips: int, num_crops: int
) -> Iterator[Batch]:
    """Every video of a split once: `video` uint8 `[batch_size, views, T, S, S, 3]`, `label`, `name`, `mask`.

    `views = num_clips * num_crops`, clip-major. `batch_size` is this host's; the last batches are filled up with zeros whose
    `mask` is False, so that every host yields equally many.
    """
    if num_crops not in (1, 3):
        raise InputError(f"eval.num_crops must be 1 (centre) or 3 (along the long side), got {num_crops}.")
    if num_clips < 1:
        raise InputError(f"eval.num_clips must be at least 1, got {num_clips}.")
    examples, _, _ = _examples(dataset, split)
    views = num_clips * num_crops

    plan = functools.partial(options.test_plan, num_clips, num_crops)

    def all_views(example: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        shapes = ((num_clips * options.num_frames,), (2,), (num_crops, 2))
        frames, scaled, offsets = _planned(plan, example, shapes)
        resized = resize_frames(decode_frames(example["video"], frames), scaled)
        crops = [crop_frames(resized, offsets[crop], options.crop_size) for crop in range(num_crops)]
        shape = (num_crops, num_clips, options.num_frames, options.crop_size, options.crop_size, 3)
        video = tf.reshape(tf.stack(crops), shape)  # [crops, K T, S, S, 3] -> [crops, K, T, S, S, 3]
        video = tf.reshape(tf.transpose(video, (1, 0, 2, 3, 4, 5)), (views, *shape[2:]))  # -> [K crops, T, S, S, 3]
        return {
            "video": video,
            "label": tf.cast(example[dataset.label], tf.int32),
            "name": example["name"],
            "mask": tf.constant(True),
        }

    largest_share = -(-dataset.num_videos(split) // jax.process_count())
    num_batches = -(-largest_share // batch_size)
    clips = examples.map(all_views, num_parallel_calls=tf.data.AUTOTUNE)
    specs: Any = clips.element_spec
    nothing = tf.data.Dataset.from_tensors({key: tf.zeros(spec.shape, spec.dtype) for key, spec in specs.items()})
    padded = clips.concatenate(nothing.repeat()).batch(batch_size).take(num_batches)
    return _numpy(padded.prefetch(tf.data.AUTOTUNE))
