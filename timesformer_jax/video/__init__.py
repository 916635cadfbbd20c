"""Video reading, frame sampling, cropping and normalization."""

from timesformer_jax.printable import printable
from timesformer_jax.renamed import renamed
from timesformer_jax.video.clip_at import clip_at
from timesformer_jax.video.clip_source import ClipSource
from timesformer_jax.video.containers import CONTAINERS
from timesformer_jax.video.decoding import VideoFile
from timesformer_jax.video.entry import Entry
from timesformer_jax.video.files import PICTURE_SUFFIXES, VIDEO_SUFFIXES
from timesformer_jax.video.finding import FolderContents, find_videos
from timesformer_jax.video.geometry import (
    crop_offset,
    random_resized_crop,
    sample_positions,
    scale_short_side,
    view_crop_offset,
)
from timesformer_jax.video.limits import Limits, OverLimitError, UnreadableVideoError
from timesformer_jax.video.opening import open_video
from timesformer_jax.video.pixels import crop_and_scale, denormalize, normalize, standardize
from timesformer_jax.video.preprocess import CHANNEL_ORDERS, Preprocess, Window
from timesformer_jax.video.reading import Clip, sample_frames, stream_clips
from timesformer_jax.video.sampling import (
    PLACEMENT_NAMES,
    PLACEMENTS,
    SAMPLINGS,
    clip_frames,
    eval_clips,
    nearest_clips,
    segment_bounds,
    segment_frames,
    sliding_clips,
    tiled_clips,
)
from timesformer_jax.video.views import ClipOptions, EvalViews

__all__ = [
    "CHANNEL_ORDERS",
    "CONTAINERS",
    "PICTURE_SUFFIXES",
    "PLACEMENTS",
    "PLACEMENT_NAMES",
    "SAMPLINGS",
    "VIDEO_SUFFIXES",
    "Clip",
    "ClipOptions",
    "ClipSource",
    "Entry",
    "EvalViews",
    "FolderContents",
    "Limits",
    "OverLimitError",
    "Preprocess",
    "UnreadableVideoError",
    "VideoFile",
    "Window",
    "clip_at",
    "clip_frames",
    "crop_and_scale",
    "crop_offset",
    "denormalize",
    "eval_clips",
    "find_videos",
    "nearest_clips",
    "normalize",
    "open_video",
    "printable",
    "random_resized_crop",
    "sample_frames",
    "sample_positions",
    "scale_short_side",
    "segment_bounds",
    "segment_frames",
    "sliding_clips",
    "standardize",
    "stream_clips",
    "tiled_clips",
    "view_crop_offset",
]

__getattr__ = renamed(__name__, {"test_clips": "eval_clips"})
