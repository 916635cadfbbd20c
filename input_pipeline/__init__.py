"""Videos on disk -> batches of uint8 clips: TFDS builders, one tf.data pipeline, augmentation on the device."""

from input_pipeline.clips import ClipOptions, test_batches, training_batches
from input_pipeline.datasets import DATASETS, VideoDataset, open_dataset
from input_pipeline.on_device import prepare_training

__all__ = [
    "DATASETS",
    "ClipOptions",
    "VideoDataset",
    "open_dataset",
    "prepare_training",
    "test_batches",
    "training_batches",
]
