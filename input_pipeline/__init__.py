"""Input pipeline from videos on disk to batches of uint8 clips: TFDS builders, tf.data, and augmentation on the device."""

from input_pipeline.clips import SplitBatches, check_clips_per_video, eval_batches, training_batches
from input_pipeline.contact_sheet import draw_clips
from input_pipeline.datasets import DATASETS, open_dataset
from input_pipeline.shares import SharePrepared
from input_pipeline.stored import StoredFrames, read_frames
from input_pipeline.video_dataset import VideoDataset
from timesformer_jax.augment import (
    WINDOW_AXES,
    MixingOptions,
    PixelOptions,
    mix_clips,
    prepare_eval,
    prepare_training,
    sides_matter,
)
from timesformer_jax.renamed import renamed
from timesformer_jax.video import ClipOptions, EvalViews

__all__ = [
    "DATASETS",
    "WINDOW_AXES",
    "ClipOptions",
    "EvalViews",
    "MixingOptions",
    "PixelOptions",
    "SharePrepared",
    "SplitBatches",
    "StoredFrames",
    "VideoDataset",
    "check_clips_per_video",
    "draw_clips",
    "eval_batches",
    "mix_clips",
    "open_dataset",
    "prepare_eval",
    "prepare_training",
    "read_frames",
    "sides_matter",
    "training_batches",
]

__getattr__ = renamed(__name__, {"prepare_test": "prepare_eval", "test_batches": "eval_batches"})
