"""TFDS builders of data sets that consist of local video files.

`main.py` prepares them. So does TFDS's own command:

    PYTHONPATH=. tfds build kinetics400/h264_256 --imports=input_pipeline.builders --manual_dir=FOLDER
"""

import dataclasses
import hashlib
import re
from pathlib import Path
from typing import ClassVar

from input_pipeline.sources import read_contents
from input_pipeline.video_builder import VideoBuilder, VideoConfig
from timesformer_jax.datasets import LAYOUTS, Listing, Storage
from timesformer_jax.datasets.fingerprints import facts_of
from timesformer_jax.errors import InputError

PREPARED = [VideoConfig(storage=Storage(codec=codec, short_side=side)) for codec in ("h264", "jpeg") for side in (256, 320)]
"""Configs that `tfds build` knows by name; `main.py` creates others from its config."""


class ListedBuilder(VideoBuilder, skip_registration=True):
    """A data set whose lists are read by a function in `LAYOUTS`."""

    BUILDER_CONFIGS = PREPARED
    layout_name: ClassVar[str | None] = None
    """Key in `LAYOUTS`; None for the builder's name."""

    def read(self, root: Path) -> Listing:
        return LAYOUTS[self.layout_name or self.name](root, **self.builder_config.layout)


class Kinetics400(ListedBuilder):
    """Kinetics-400: 400 human actions, clips of about 10 seconds from YouTube (Kay et al. 2017)."""

    name = "kinetics400"


class Kinetics600(ListedBuilder):
    """Kinetics-600: 600 human actions (Carreira et al. 2018)."""

    name = "kinetics600"


class Kinetics700(ListedBuilder):
    """Kinetics-700: 700 human actions (Carreira et al. 2019)."""

    name = "kinetics700"


class SomethingSomethingV2(ListedBuilder):
    """Something-Something v2: 174 interactions of hands with objects; the order of frames matters (Goyal et al. 2017)."""

    name = "something_something_v2"


class Diving48(ListedBuilder):
    """Diving-48: 48 kinds of dives that differ in their turns (Li et al. 2018; labels of version 2)."""

    name = "diving48"


class HowTo100M(ListedBuilder):
    """HowTo100M: instructional videos of several minutes, classified by task (Miech et al. 2019).

    Videos are stored in segments of a minute each.
    """

    name = "howto100m"
    BUILDER_CONFIGS: ClassVar = [
        VideoConfig(storage=dataclasses.replace(config.storage, part_seconds=60.0)) for config in PREPARED
    ]


class UCF101(ListedBuilder):
    """UCF-101: 101 human actions (Soomro et al. 2012) in its official splits; `layout={"fold": 2}` selects the second."""

    name = "ucf101_files"  # TFDS has its own ucf101, with squashed frames
    layout_name = "ucf101"


class HMDB51(ListedBuilder):
    """HMDB-51: 51 human actions (Kuehne et al. 2011) in its official splits; `layout={"fold": 2}` selects the second."""

    name = "hmdb51"


def own_config(base: VideoConfig, title: str, listing: Listing, root: Path) -> VideoConfig:
    """Complete a config for a user's own videos.

    The config's name ends in a digest of the storage and of every video's path below `root`, size and labels. So changed
    videos are prepared again, while the same videos moved to another root are recognized.

    Args:
        base: Config to complete.
        title: Beginning of the config's name.
        listing: The videos.
        root: Folder that the paths of videos below it are relative to.
    """
    contents = read_contents(listing, root)
    digest = hashlib.sha256(ascii((base.storage, listing.several, contents.digest)).encode()).hexdigest()[:12]
    return dataclasses.replace(
        base,
        name=f"{_word(title)}_{digest}",
        root=str(root),
        several=listing.several,
        listing=listing,
        contents=contents,
    )


def older_name(config: VideoConfig, title: str) -> str:
    """Return the name that versions before `source.json` gave to the same videos, from absolute paths and times."""
    listing = config.listing
    assert listing is not None
    facts = [ascii((config.storage, listing.label_names, listing.several))]
    facts += [f"{split} {facts_of(entry)}" for split, entries in listing.splits.items() for entry in entries]
    return f"{_word(title)}_{hashlib.sha256(chr(10).join(facts).encode()).hexdigest()[:12]}"


def _word(title: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "_", title)


class VideoFolder(ListedBuilder):
    """A folder of videos with one subfolder per label."""

    name = "video_folder"


class VideoList(ListedBuilder):
    """Videos listed in csv or jsonl files, `train` and `val`, with one label each or any number (configs "..._several")."""

    name = "video_list"
    BUILDER_CONFIGS: ClassVar = [
        dataclasses.replace(config, name="", several=on) for on in (False, True) for config in PREPARED
    ]

    def read(self, root: Path) -> Listing:
        """Read the lists `train` and `val`, `.csv` or `.jsonl`, in a folder; only `tfds build` uses this."""
        lists = [
            next((file for file in sorted(root.glob(f"{split}.*")) if file.suffix in (".csv", ".jsonl")), None)
            for split in ("train", "val")
        ]
        if None in lists:
            raise InputError(f"Expected the lists train.csv and val.csv (or .jsonl) in {root}.")
        return LAYOUTS[self.name](*lists)


BUILDERS: dict[str, type[VideoBuilder]] = {
    "kinetics400": Kinetics400,
    "kinetics600": Kinetics600,
    "kinetics700": Kinetics700,
    "something_something_v2": SomethingSomethingV2,
    "diving48": Diving48,
    "howto100m": HowTo100M,
    "ucf101": UCF101,
    "hmdb51": HMDB51,
    "video_folder": VideoFolder,
    "video_list": VideoList,
}
"""Maps each name in `LAYOUTS` to its builder."""
