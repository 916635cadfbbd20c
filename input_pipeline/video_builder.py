"""Base class of all TFDS builders of video files, which turns a `Listing` into prepared splits."""

import dataclasses
import functools
import hashlib
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from etils import epath

from input_pipeline._tensorflow import LocalInfo, tfds
from input_pipeline.facts import make_facts, save_facts
from input_pipeline.left_out import LeftOut, write_left_out
from input_pipeline.preparation import Part, Preparation, places_of
from input_pipeline.records import save_index
from input_pipeline.shares import Share, alone
from input_pipeline.sources import Contents, read_contents, read_source, write_source
from timesformer_jax.datasets import Entry, Listing, Storage, StoredVideo, describe_duplicates, store_video
from timesformer_jax.datasets.storing import Labelled
from timesformer_jax.errors import InputError
from timesformer_jax.printable import printable
from timesformer_jax.state_files import read_json, write_json
from timesformer_jax.video import UnreadableVideoError

log = logging.getLogger("timesformer_jax")


@dataclasses.dataclass(kw_only=True)
class VideoConfig(tfds.core.BuilderConfig):
    """Location and storage of a data set's videos.

    Attributes:
        name: Name of the config; by default derived from `storage`, `layout` and `several`.
        storage: Codec and size of the stored videos.
        root: Folder of the videos; None for TFDS's `--manual_dir`.
        layout: More keyword arguments of the data set's reader, such as a fold.
        several: Whether a video may have any number of labels.
        listing: Result of the reader if it has already run.
        contents: Result of `read_contents` for `listing`.
        num_workers: Number of reading processes; 0 for one per core.
    """

    name: str = ""
    storage: Storage = dataclasses.field(default_factory=lambda: Storage(codec="h264", short_side=256))
    root: str | None = None
    layout: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    several: bool = False
    listing: Listing | None = None
    contents: Contents | None = None
    num_workers: int = 0

    def __post_init__(self) -> None:
        self.name = self.name or storage_name(self.storage, self.layout) + "_several" * self.several


def storage_name(storage: Storage, layout: Mapping[str, Any]) -> str:
    """Return a name for prepared data, such as "h264_256" or "jpeg_320_10fps_fold2"."""
    words = [storage.codec, f"{storage.short_side}"]
    words += [f"{storage.max_fps:g}fps"] if np.isfinite(storage.max_fps) else []
    words += [f"parts{storage.part_seconds:g}s"] if np.isfinite(storage.part_seconds) else []
    return "_".join([*words, *(f"{name}{value}" for name, value in sorted(layout.items()))]).replace(".", "p")


def storable_label(name: str) -> str:
    r"""Escape a label's name for TFDS, which stores one name per line and strips spaces: "run " becomes `run\u0020`.

    Different names stay different. Names that need no escaping stay the same, unless they contain a backslash.
    """
    escaped = printable(name.replace("\\", r"\\"))
    inner = escaped.strip()
    before = escaped[: len(escaped) - len(escaped.lstrip())] if inner else ""
    after = escaped[len(before) + len(inner) :]
    return "".join([_spelled(before), inner, _spelled(after)]) or r"\0"


def _spelled(spaces: str) -> str:
    return "".join(f"\\u{ord(space):04x}" for space in spaces)


def _load_names(label: Any, folder: Any, feature_name: str) -> None:
    """Load the names of prepared data into a ClassLabel, without stripping names or dropping blank ones.

    Replaces `ClassLabel.load_metadata`, which does both. Data prepared by older versions may contain such names.
    """
    path = label.get_names_filepath(folder, feature_name)
    if not path.exists():
        return
    source = read_source(epath.Path(folder))
    if source is not None:
        label.names = [storable_label(name) for name in source.label_names]
    else:
        label.names = path.read_bytes().decode().removesuffix("\n").split("\n")


VIDEO_FEATURES: dict[str, Any] = {
    "jpeg": lambda: tfds.features.Video((None, None, None, 3), encoding_format="jpeg"),
    "h264": lambda: tfds.features.Sequence(tfds.features.Tensor(shape=(), dtype=np.object_)),
}
"""Maps `Storage.codec` to the feature `video`: frames that TFDS decodes, or packets of a .h264 stream, one per frame."""


class VideoBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Prepared videos: `video`, `label` (or `labels`), `fps` and `source_fps`, `height`, `width`, `name`, `part`.

    `name` is the entry's, and `part` numbers the segments of a long video. `left_out.json.gz` lists missing and unreadable
    videos, and damaged ones, which are used; the metadata hold their counts and a few examples.

    TFDS strips the names of labels, so it receives them escaped (`storable_label`); `source.json` has the original names.
    """

    VERSION = tfds.core.Version("2.0.0")
    RELEASE_NOTES: ClassVar = {"2.0.0": "Sizes and rates are features, skipped files are listed by split."}
    MANUAL_DOWNLOAD_INSTRUCTIONS = "The folder of the videos and their lists; see docs/data.md."
    builder_config: VideoConfig
    _left_out: LeftOut

    def read(self, root: Path) -> Listing:
        """Read the data set's lists in `root`."""
        raise NotImplementedError

    def _info(self) -> tfds.core.DatasetInfo:
        label: Any = tfds.features.ClassLabel()  # names are read from the data set's files on preparation
        label.load_metadata = functools.partial(_load_names, label)
        return LocalInfo(
            builder=self,
            description=type(self).__doc__,
            features=tfds.features.FeaturesDict(
                {
                    "video": VIDEO_FEATURES[self.builder_config.storage.codec](),
                    **({"labels": tfds.features.Sequence(label)} if self.builder_config.several else {"label": label}),
                    "fps": np.float32,
                    "source_fps": np.float32,
                    "height": np.int32,
                    "width": np.int32,
                    "name": tfds.features.Text(),
                    "part": np.int32,
                }
            ),
            metadata=tfds.core.MetadataDict(),
        )

    def _listing(self, dl_manager: Any, *, writes_source: bool = True) -> Listing:
        """Read the listing, without empty splits, and set the label names, which are needed before examples are written."""
        config = self.builder_config
        root = Path(config.root or dl_manager.manual_dir).expanduser().resolve()
        listing = config.listing or self.read(root)
        for note in listing.notes:
            log.info("%s", note)
        for note in describe_duplicates(listing):
            log.warning("%s", note)
        if writes_source:
            write_source(epath.Path(self.data_path), config.contents or read_contents(listing, root))
        if listing.several != config.several:
            wanted = f"{config.name}_several" if listing.several else config.name.removesuffix("_several")
            number = "any number of labels" if listing.several else "one label each"
            raise InputError(f"The lists give videos {number}: use the config {wanted}.")
        features: Any = self.info.features
        label = features["labels"].feature if self.builder_config.several else features["label"]
        if label.num_classes is None:
            label.names = [storable_label(name) for name in listing.label_names]
        self._left_out = LeftOut({split: dict(missing) for split, missing in listing.missing.items()})
        there = {split: entries for split, entries in listing.splits.items() if entries}
        for split in sorted(listing.splits.keys() - there.keys()):
            log.warning("No video of the split '%s' was found: the split is skipped.", split)
        return dataclasses.replace(listing, splits=there)

    def _download_and_prepare(self, dl_manager: Any, download_config: Any) -> None:
        if download_config.beam_runner or download_config.beam_options:
            super()._download_and_prepare(dl_manager, download_config)
            self._gather_left_out()
            self._tell_left_out()
            return
        with alone(epath.Path(self.data_path).parent / str(self.version)):
            self._write(self._listing(dl_manager), download_config.max_examples_per_split)
            self._unfinished.rmtree()
        self._tell_left_out()

    def prepare_share(self, share: Share) -> None:
        """Prepare a share of every split, which `download_and_prepare` later joins with the others; `root` must be set."""
        with alone(self.data_path, share):
            for preparation in self._preparations(self._listing(None, writes_source=False)).values():
                preparation.write(share)

    @property
    def _unfinished(self) -> epath.Path:
        return epath.Path(self.data_path).parent / f".unfinished_{self.version}"

    def _preparations(self, listing: Listing, max_examples: int | None = None) -> dict[str, Preparation]:
        """Return the preparation of each split; raises `InputError` if the labels of `train` leave nothing to learn."""
        trained = sorted({label for entry in listing.splits["train"] for label in entry.labels})
        if len(trained) < 2:
            raise InputError(f"Expected two or more labels in the split 'train', got {', '.join(trained) or 'none'}.")
        features: Any = self.info.features
        label = features["labels"].feature if self.builder_config.several else features["label"]
        numbers = {name: label.str2int(storable_label(name)) for name in listing.label_names}
        return {
            split: Preparation(
                [Labelled(entry, tuple(numbers[name] for name in entry.labels)) for entry in entries[:max_examples]],
                self.builder_config.storage,
                self._unfinished / split,
                several=self.builder_config.several,
                title=split,
                written_as=ascii((str(self.version), listing.label_names, listing.several)),
                num_workers=self.builder_config.num_workers,
            )
            for split, entries in listing.splits.items()
        }

    def _write(self, listing: Listing, max_examples: int | None) -> None:
        """Prepare every split as record files in a folder next to the data, and move them into place once all are complete."""
        infos = []
        finished: list[tuple[str, list[Part]]] = []
        for split, preparation in self._preparations(listing, max_examples).items():
            parts = preparation.write_all()
            left_out = self._left_out.videos.setdefault(split, {})
            for part in parts:
                left_out.update(part.left_out)
                self._left_out.damaged.update(part.damaged)
            finished.append((split, [part for part in parts if part.places]))
        for split, entries in listing.splits.items():
            try:
                self._check_readable(split, entries)
            except InputError:
                (self._unfinished / split).rmtree()  # so that the next attempt reads the repaired files
                raise
        for split, parts in finished:
            template = tfds.core.ShardedFileTemplate(
                data_dir=epath.Path(self.data_path), dataset_name=self.name, split=split, filetype_suffix="tfrecord"
            )
            for number, part in enumerate(parts):
                part.records.replace(template.sharded_filepath(shard_index=number, num_shards=len(parts)))
            fingerprint = save_index(str(self.data_path), split, places_of(parts))
            if all(part.has_facts for part in parts):  # otherwise the facts are collected on first use
                facts = make_facts(row for part in parts for row in part.read_facts())
                save_facts(self.data_path, split, facts, fingerprint)
            infos.append(
                tfds.core.SplitInfo(
                    name=split,
                    shard_lengths=[len(part.places) for part in parts],
                    num_bytes=sum(part.num_bytes for part in parts),
                    filename_template=template,
                )
            )
        self.info.set_splits(tfds.core.SplitDict(infos))

    def _tell_left_out(self) -> None:
        metadata: Any = self.info.metadata
        metadata.update(write_left_out(self.data_path, self._left_out))

    def _check_readable(self, split: str, entries: Sequence[Entry]) -> None:
        """Raise `InputError` if too little of a split is readable to train on or to evaluate."""
        left_out = self._left_out.videos[split]
        readable = [entry for entry in entries if entry.name not in left_out]
        labels = {label for entry in readable for label in entry.labels}
        if left_out and (not readable or (split == "train" and len(labels) < 2)):
            name, reason = next(iter(left_out.items()))
            raise InputError(
                f"Too few of the {len(entries)} videos of the split '{split}' can be read: labels with a readable video "
                f"are {', '.join(sorted(labels)) or 'none'}. Replace the broken ones ({name}: {reason})."
            )

    def _example(self, entry: Entry, part: int, video: StoredVideo) -> dict[str, Any]:
        labels = [storable_label(name) for name in entry.labels]
        return {
            "video": video.frames,
            **({"labels": labels} if self.builder_config.several else {"label": labels[0]}),
            "fps": video.fps,
            "source_fps": video.source_fps,
            "height": video.height,
            "width": video.width,
            "name": entry.name,
            "part": part,
        }

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        """Return the Beam pipeline of each split; without Beam, `_download_and_prepare` doesn't call this."""
        splits = self._listing(dl_manager).splits
        return {split: self._generate_examples(split, entries) for split, entries in splits.items()}

    def _generate_examples(self, split: str, entries: Iterable[Entry]) -> Any:
        beam = tfds.core.lazy_imports.apache_beam
        return (
            f"{split}: entries" >> beam.Create(list(entries))
            | f"{split}: to all workers" >> beam.Reshuffle()
            | f"{split}: read" >> beam.FlatMap(functools.partial(self._examples_of, split, str(self._notes)))
        )

    def _examples_of(self, split: str, notes: str, entry: Entry) -> Iterator[tuple[str, dict[str, Any]]]:
        try:
            videos = store_video(entry, self.builder_config.storage)
        except UnreadableVideoError as error:
            _note(notes, split, entry, {"left_out": error.reason})
            return
        if videos[0].num_damaged:
            _note(notes, split, entry, {"damaged": videos[0].num_damaged})
        for part, video in enumerate(videos):
            yield f"{entry.name}#{part}", self._example(entry, part, video)

    @property
    def _notes(self) -> epath.Path:
        """Folder for the notes of Beam's workers, within the unfinished data (the workers see its final path)."""
        return epath.Path(self.data_path) / "notes"

    def _gather_left_out(self) -> None:
        for path in self._notes.iterdir() if self._notes.exists() else ():
            note = read_json(path, remedy="prepare the data again")
            if "damaged" in note:
                self._left_out.damaged[note["name"]] = note["damaged"]
            else:
                self._left_out.videos.setdefault(note["split"], {})[note["name"]] = note["left_out"]
        if self._notes.exists():
            self._notes.rmtree()


def _note(folder: str, split: str, entry: Entry, fact: dict[str, Any]) -> None:
    """Write a fact about a video to a file, since Beam's workers share no memory."""
    path = epath.Path(folder) / f"{hashlib.sha256(ascii((split, entry.name)).encode()).hexdigest()}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"split": split, "name": entry.name, **fact})
