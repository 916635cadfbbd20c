"""Readers of data sets as they are distributed: each reads the lists and finds the videos on disk, without decoding any."""

from collections.abc import Callable

from timesformer_jax.datasets.entries import Listing
from timesformer_jax.datasets.layouts.diving48 import read_diving48
from timesformer_jax.datasets.layouts.hmdb51 import read_hmdb51
from timesformer_jax.datasets.layouts.howto100m import read_howto100m
from timesformer_jax.datasets.layouts.kinetics import read_kinetics
from timesformer_jax.datasets.layouts.something import read_something_v2
from timesformer_jax.datasets.layouts.ucf101 import read_ucf101
from timesformer_jax.datasets.layouts.video_folder import read_video_folder
from timesformer_jax.datasets.layouts.video_list import read_video_list

LAYOUTS: dict[str, Callable[..., Listing]] = {
    "kinetics400": read_kinetics,
    "kinetics600": read_kinetics,
    "kinetics700": read_kinetics,
    "something_something_v2": read_something_v2,
    "diving48": read_diving48,
    "howto100m": read_howto100m,
    "ucf101": read_ucf101,
    "hmdb51": read_hmdb51,
    "video_folder": read_video_folder,
    "video_list": read_video_list,
}
"""Maps data sets to their readers. The first argument is the data set's folder, except for `read_video_list`: two lists."""

EXPECTED_CLASSES: dict[str, int | None] = {
    "kinetics400": 400,
    "kinetics600": 600,
    "kinetics700": 700,
    "something_something_v2": 174,
    "diving48": 48,
    "howto100m": None,
    "ucf101": 101,
    "hmdb51": 51,
    "video_folder": None,
    "video_list": None,
}
"""Maps data sets to their number of classes; None if it isn't fixed."""

__all__ = [
    "EXPECTED_CLASSES",
    "LAYOUTS",
    "read_diving48",
    "read_hmdb51",
    "read_howto100m",
    "read_kinetics",
    "read_something_v2",
    "read_ucf101",
    "read_video_folder",
    "read_video_list",
]
