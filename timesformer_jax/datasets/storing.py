"""Write the records of a listed video to a file, in a worker process of the preparation."""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from timesformer_jax.datasets.entries import Entry
from timesformer_jax.datasets.storage import Storage, StoredVideo, store_video
from timesformer_jax.datasets.tfrecords import Features, encode_example, write_record

FRAMES = "video"
"""Feature that holds the encoded frames; all other features are small."""
NUM_FRAMES = "num_frames"
"""Entry of a record's facts that replaces the frames."""

Facts = dict[str, list[Any]]
"""The small features of a record, name -> values, and `NUM_FRAMES`, in JSON types: text instead of bytes."""


class Labelled(NamedTuple):
    """A video to store."""

    entry: Entry
    """The video."""
    labels: tuple[int, ...]
    """Indices of its labels."""


class Written(NamedTuple):
    """Records of a video, one after the other in a file."""

    path: str
    """The file."""
    lengths: list[int]
    """Length of the data of each record in bytes."""
    facts: list[Facts]
    """Facts of each record."""
    num_damaged: int
    """Number of damaged places in the video."""


def write_records(video: Labelled, storage: Storage, *, several: bool, folder: str) -> Written:
    """Read and encode a video, and write one record per part to a file in `folder`.

    The parent process copies the file, because passing megabytes between processes would cost ten times as much.

    Args:
        video: The video to store.
        storage: Settings of the storage.
        several: Whether the data are multi-label.
        folder: Folder for the file.

    Returns:
        The location and facts of the records.

    Raises:
        UnreadableVideoError: If no frame can be read.
        OSError: If the file can't be written.
    """
    parts = store_video(video.entry, storage)
    path = Path(folder) / hashlib.sha256(os.fsencode(video.entry.name)).hexdigest()[:32]
    lengths, facts = [], []
    with open(path, "wb") as file:
        for number, part in enumerate(parts):
            features = features_of(video, number, part, several=several)
            lengths.append(write_record(file, encode_example(features)))
            facts.append(facts_of_features(features))
    return Written(os.fspath(path), lengths, facts, parts[0].num_damaged)


def features_of(video: Labelled, part: int, stored: StoredVideo, *, several: bool) -> Features:
    """Return the features of a record, as declared by the TFDS builders of `input_pipeline`.

    Args:
        video: The video.
        part: Number of the part.
        stored: The encoded part.
        several: Whether the data are multi-label.
    """
    return {
        FRAMES: (bytes, stored.frames),
        "labels" if several else "label": (int, video.labels),
        "fps": (float, [stored.fps]),
        "source_fps": (float, [stored.source_fps]),
        "height": (int, [stored.height]),
        "width": (int, [stored.width]),
        "name": (bytes, [video.entry.name.encode()]),
        "part": (int, [part]),
    }


def facts_of_features(features: Mapping[str, tuple[type, Any]]) -> Facts:
    """Return all features except for the frames, which are replaced by their number."""
    facts = {
        name: [value.decode() for value in values] if kind is bytes else list(values)
        for name, (kind, values) in features.items()
        if name != FRAMES
    }
    return {**facts, NUM_FRAMES: [len(features[FRAMES][1])]}
