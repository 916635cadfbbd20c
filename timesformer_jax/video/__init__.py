"""Which frames, which crop, which pixels: what happens to a video before the model. Imports nothing else of the library."""

from timesformer_jax.video.decoding import UnreadableVideoError, VideoFile, open_video
from timesformer_jax.video.geometry import crop_offset, scale_short_side, view_crop_offset
from timesformer_jax.video.pixels import normalize
from timesformer_jax.video.sampling import clip_frames, segment_bounds, segment_frames

__all__ = [
    "UnreadableVideoError",
    "VideoFile",
    "clip_frames",
    "crop_offset",
    "normalize",
    "open_video",
    "scale_short_side",
    "segment_bounds",
    "segment_frames",
    "view_crop_offset",
]
