"""From a listed video to its records in a file: what the worker processes of a preparation do."""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from timesformer_jax.datasets.entries import Entry
from timesformer_jax.datasets.storage import Storage, StoredVideo, store_video
from timesformer_jax.datasets.tfrecords import Features, encode_example, write_record

FRAMES = "video"
"""The feature that holds the encoded frames; all others are small."""
NUM_FRAMES = "num_frames"
"""What the facts of a record have instead."""

Facts = dict[str, list[Any]]
"""The small features of a record, name -> values, and its `NUM_FRAMES`; as JSON has them, so text instead of bytes."""


class Labelled(NamedTuple):
    """A video to store, with the numbers of its labels."""

    entry: Entry
    labels: tuple[int, ...]


class Written(NamedTuple):
    """The records of a video, one after the other in a file: how long the data of each are, its facts, and where the video is
    damaged."""

    path: str
    lengths: list[int]
    facts: list[Facts]
    num_damaged: int


def write_records(video: Labelled, storage: Storage, *, several: bool, folder: str) -> Written:
    """Read and encode a video and write its records, a part of it each, to a file in `folder`.

    The process that collects them copies that file: passing megabytes between processes costs it ten times as much.

    Raises `UnreadableVideoError` if not one frame can be had, and an `OSError` if the file can't be written.
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
    """The features of a record, as the TFDS builders of `input_pipeline` declare them."""
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
    """Everything but the frames, whose number is kept."""
    facts = {
        name: [value.decode() for value in values] if kind is bytes else list(values)
        for name, (kind, values) in features.items()
        if name != FRAMES
    }
    return {**facts, NUM_FRAMES: [len(features[FRAMES][1])]}
