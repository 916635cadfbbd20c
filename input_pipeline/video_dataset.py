"""A prepared data set as the pipeline reads it: records, labels, facts about every video, and what was left out."""

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
    """A prepared TFDS builder: which of its features is the label, how its frames are kept, and how large at most."""

    builder: tfds.core.DatasetBuilder
    label: str
    codec: str
    short_side: int
    part_seconds: float = 0.0
    """How long each part but the last of a long video is; 0 where videos are kept whole."""
    most_videos: int | None = None
    """Of each split only so many, the first ones; None for all."""
    chosen: tuple[str, tuple[int, ...]] | None = None
    """A split, and the numbers of those of its videos that count, in this order; None for all."""

    @property
    def _label_feature(self) -> Any:
        features: Any = self.builder.info.features
        return features[self.label]

    @property
    def several(self) -> bool:
        """Whether a video may have any number of labels."""
        return self.label == "labels"

    @functools.cached_property
    def label_names(self) -> list[str]:
        source = read_source(epath.Path(self.builder.data_path)) if isinstance(self.builder, VideoBuilder) else None
        if source is not None:  # where TFDS has them escaped
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
        """The examples of a split, any by its number."""
        records = self._records_of(split)
        return records if self.chosen is None or split != self.chosen[0] else Selection(records, self.chosen[1])

    def _records_of(self, split: str) -> Records:
        if split not in self._records:
            self._records[split] = Records(self.builder, split)
        return self._records[split]

    def describe(self, split: str) -> dict[str, Any]:
        """What tells a split's videos from others', as JSON."""
        return {
            "name": self.builder.info.full_name,
            "split": split,
            "label": self.label,
            "num_videos": self.num_videos(split),
            "records": self.records(split).fingerprint,
        }

    def encode_label(self, features: Any) -> np.ndarray:
        """An example's label as the model learns it: its number, or for several one or zero for each class."""
        labels = list(features[self.label].int64_list.value)
        return encode_label(labels, len(self.label_names), multi_label=self.several)

    @property
    def label_spec(self) -> tf.TensorSpec:
        """Shape and type of `encode_label`."""
        return tf.TensorSpec([len(self.label_names)], tf.float32) if self.several else tf.TensorSpec([], tf.int32)

    def facts(self, split: str, name: str) -> np.ndarray:
        """What is known of every video of a split without reading it: its `name` as text, `num_frames`, `fps`, `part`, ..."""
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
        """Split -> video that is listed but couldn't be read, or isn't there -> why. The whole lists are read for it."""
        return self._left_out.videos

    @property
    def damaged(self) -> dict[str, int]:
        """Video -> in how many places it is damaged; such videos are used. The whole list is read for it."""
        return self._left_out.damaged

    @property
    def num_left_out(self) -> dict[str, int]:
        """Split -> how many videos `left_out` has."""
        metadata = self.builder.info.metadata or {}
        if "num_left_out" in metadata:
            return dict(metadata["num_left_out"])
        return {split: len(videos) for split, videos in metadata.get("left_out", {}).items()}

    def describe_left_out(self) -> list[str]:
        """Lines for the log about videos that are left out or damaged: the first of each split, and how many more there are."""
        metadata = self.builder.info.metadata or {}
        lines = []
        for split, count in self.num_left_out.items():
            first = list(metadata["left_out"].get(split, {}).items())[:EXAMPLES]
            lines += [f"Left out {name} of '{split}': {reason}." for name, reason in first]
            lines += self._more(count - len(first), f"of '{split}' are left out")
        first = list(metadata.get("damaged", {}).items())[:EXAMPLES]
        lines += [f"Used, though damaged in {places} place(s): {name}." for name, places in first]
        return lines + self._more(metadata.get("num_damaged", len(metadata.get("damaged", {}))) - len(first), "are damaged")

    def _more(self, count: int, what: str) -> list[str]:
        return [f"{count:,} more {what}; all are listed in {self.builder.data_path}/{LEFT_OUT}."] if count > 0 else []
