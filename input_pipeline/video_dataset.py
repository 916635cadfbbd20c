"""Prepared data set as the pipeline reads it: records, labels, facts about every video, and skipped videos."""

import dataclasses
import functools
from typing import Any

import numpy as np
from etils import epath

from input_pipeline._tensorflow import tf, tfds
from input_pipeline.facts import SplitFacts, facts_of_split
from input_pipeline.left_out import EXAMPLES, LeftOut, read_left_out
from input_pipeline.left_out import FILE as LEFT_OUT
from input_pipeline.records import Records, Selection
from input_pipeline.sources import read_source
from input_pipeline.video_builder import VideoBuilder
from timesformer_jax.labels import encode_label


@dataclasses.dataclass(frozen=True, kw_only=True)
class VideoDataset:
    """A prepared data set.

    Attributes:
        builder: TFDS builder of the prepared data.
        label: Name of the builder's label feature; "labels" if a video may have any number of labels.
        codec: Codec of the stored frames.
        short_side: Largest short side of the stored frames, in pixels.
        part_seconds: Duration of each segment of a long video but the last; 0 if videos aren't split.
        most_videos: Use only the first `most_videos` videos of each split; None for all.
        chosen: A split and the numbers of its videos to use, in this order; None for all.
    """

    builder: tfds.core.DatasetBuilder
    label: str
    codec: str
    short_side: int
    part_seconds: float = 0.0
    most_videos: int | None = None
    chosen: tuple[str, tuple[int, ...]] | None = None

    @property
    def _label_feature(self) -> Any:
        features: Any = self.builder.info.features
        return features[self.label]

    @property
    def several(self) -> bool:
        """True if a video may have any number of labels."""
        return self.label == "labels"

    @functools.cached_property
    def label_names(self) -> list[str]:
        source = read_source(epath.Path(self.builder.data_path)) if isinstance(self.builder, VideoBuilder) else None
        if source is not None:  # TFDS has them escaped
            return source.label_names
        return list((self._label_feature.feature if self.several else self._label_feature).names)

    def num_videos(self, split: str) -> int:
        there = self.builder.info.splits[split].num_examples
        if self.chosen is not None and split == self.chosen[0]:
            there = len(self.chosen[1])
        return there if self.most_videos is None else min(there, self.most_videos)

    @functools.cached_property
    def _records(self) -> dict[str, Records]:
        return {}

    def records(self, split: str) -> Records | Selection:
        """Return the examples of a split, with random access."""
        records = self._records_of(split)
        return records if self.chosen is None or split != self.chosen[0] else Selection(records, self.chosen[1])

    def _records_of(self, split: str) -> Records:
        if split not in self._records:
            self._records[split] = Records(self.builder, split)
        return self._records[split]

    def describe(self, split: str) -> dict[str, Any]:
        """Return JSON values that identify a split's videos."""
        return {
            "name": self.builder.info.full_name,
            "split": split,
            "label": self.label,
            "num_videos": self.num_videos(split),
            "records": self.records(split).fingerprint,
        }

    def encode_label(self, features: Any) -> np.ndarray:
        """Return an example's label as the training target: its class number, or for multi-label data a 0 or 1 per class."""
        labels = list(features[self.label].int64_list.value)
        return encode_label(labels, len(self.label_names), multi_label=self.several)

    @property
    def label_spec(self) -> tf.TensorSpec:
        """Shape and dtype of the result of `encode_label`."""
        return tf.TensorSpec([len(self.label_names)], tf.float32) if self.several else tf.TensorSpec([], tf.int32)

    def facts(self, split: str, name: str) -> np.ndarray:
        """Return a fact about every video of a split without reading the videos: `name`, `num_frames`, `fps`, `part`, ..."""
        if split not in self._facts:
            self._facts[split] = facts_of_split(self.builder.data_path, split, self._records_of(split))
        values = self._facts[split].scalars(name)
        values = values if self.chosen is None or split != self.chosen[0] else values[list(self.chosen[1])]
        return values[: self.num_videos(split)]

    @functools.cached_property
    def _facts(self) -> dict[str, SplitFacts]:
        return {}

    @functools.cached_property
    def _left_out(self) -> LeftOut:
        return read_left_out(self.builder.data_path, self.builder.info.metadata or {})

    @property
    def left_out(self) -> dict[str, dict[str, str]]:
        """Maps each split to a dict from the name of a skipped video (missing or unreadable) to the reason.

        Reads the full lists.
        """
        return self._left_out.videos

    @property
    def damaged(self) -> dict[str, int]:
        """Maps the name of each damaged video, which is used, to its number of damaged places; reads the full list."""
        return self._left_out.damaged

    @property
    def num_left_out(self) -> dict[str, int]:
        """Maps each split to its number of videos in `left_out`."""
        metadata = self.builder.info.metadata or {}
        if "num_left_out" in metadata:
            return dict(metadata["num_left_out"])
        return {split: len(videos) for split, videos in metadata.get("left_out", {}).items()}

    def describe_left_out(self) -> list[str]:
        """Return log lines about skipped and damaged videos: a few examples of each split, and the number of others."""
        metadata = self.builder.info.metadata or {}
        lines = []
        for split, count in self.num_left_out.items():
            first = list(metadata["left_out"].get(split, {}).items())[:EXAMPLES]
            lines += [f"Skipped {name} of '{split}': {reason}." for name, reason in first]
            lines += self._more(count - len(first), f"of '{split}' are skipped")
        first = list(metadata.get("damaged", {}).items())[:EXAMPLES]
        lines += [f"Used, though damaged in {places} place(s): {name}." for name, places in first]
        return lines + self._more(metadata.get("num_damaged", len(metadata.get("damaged", {}))) - len(first), "are damaged")

    def _more(self, count: int, what: str) -> list[str]:
        return [f"{count:,} more {what}; all are listed in {self.builder.data_path}/{LEFT_OUT}."] if count > 0 else []
