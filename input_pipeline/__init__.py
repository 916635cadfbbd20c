"""Videos on disk -> batches of uint8 clips: TFDS builders, one tf.data pipeline, augmentation on the device."""

from input_pipeline.clips import SplitBatches, check_clips_per_video, check_test_views, test_batches, training_batches
from input_pipeline.contact_sheet import draw_clips
from input_pipeline.datasets import DATASETS, VideoDataset, open_dataset
from input_pipeline.preparation import SharePrepared
from input_pipeline.views import ClipOptions
from timesformer_jax.augment import (
    WINDOW_AXES,
    MixingOptions,
    PixelOptions,
    mix_clips,
    prepare_test,
    prepare_training,
    sides_matter,
)

__all__ = [
    "DATASETS",
    "WINDOW_AXES",
    "ClipOptions",
    "MixingOptions",
    "PixelOptions",
    "SharePrepared",
    "SplitBatches",
    "VideoDataset",
    "check_clips_per_video",
    "check_test_views",
    "draw_clips",
    "mix_clips",
    "open_dataset",
    "prepare_test",
    "prepare_training",
    "sides_matter",
    "test_batches",
    "training_batches",
]
