"""Data sets on disk: reading their lists, and processing their videos in parallel. Independent of TensorFlow."""

from timesformer_jax.datasets.duplicates import describe_duplicates
from timesformer_jax.datasets.entries import Entry, Listing
from timesformer_jax.datasets.layouts import EXPECTED_CLASSES, LAYOUTS, read_video_folder, read_video_list
from timesformer_jax.datasets.parallel import map_in_processes
from timesformer_jax.datasets.storage import (
    CODECS,
    KEY_FRAME_EVERY,
    Storage,
    StoredVideo,
    VideoFacts,
    inspect_video,
    store_video,
)

__all__ = [
    "CODECS",
    "EXPECTED_CLASSES",
    "KEY_FRAME_EVERY",
    "LAYOUTS",
    "Entry",
    "Listing",
    "Storage",
    "StoredVideo",
    "VideoFacts",
    "describe_duplicates",
    "inspect_video",
    "map_in_processes",
    "read_video_folder",
    "read_video_list",
    "store_video",
]
