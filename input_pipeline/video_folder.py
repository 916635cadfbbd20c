"""`video_folder`: a folder of video files, one sub-folder a label.

ROOT/train/LABEL/*.mp4  and  ROOT/val/LABEL/*.mp4        (the splits as given)
ROOT/LABEL/*.mp4                                         (a fixed share of every label's files becomes `val`)
"""

import dataclasses
import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from input_pipeline._tensorflow import tf, tfds
from timesformer_jax.errors import InputError
from timesformer_jax.video import UnreadableVideoError, find_videos, open_video

SPLIT_LIKE = frozenset({"train", "training", "val", "valid", "validation", "test", "testing"})
"""If a folder's only labels are among these, they are splits by another name."""

Files = dict[str, list[tuple[Path, str]]]


def scan_folder(root: Path, val_fraction: float) -> Files:
    """Split -> (file, label) pairs, sorted; raises `InputError` where the folder can't be trained on.

    Without `train` and `val` folders, `val_fraction` of each label's files become `val` (at least one, if there are two):
    those with the smallest hash of their path below the label, so the split is the same on every machine and a new file
    moves at most one other.
    """
    if not root.is_dir():
        raise InputError(f"There is no folder {root}: give the folder of your videos as --config.data.root=FOLDER.")
    if not 0 < val_fraction < 1:
        raise InputError(f"val_fraction must be above 0 and below 1, got {val_fraction}.")
    files = {split: _labelled_files(root / split) for split in ("train", "val")}
    if not files["train"] and not files["val"]:
        by_label: dict[str, list[Path]] = {}
        everything = _labelled_files(root)
        if everything and {label.lower() for _, label in everything} <= SPLIT_LIKE:
            found = ", ".join(sorted({label for _, label in everything}))
            raise InputError(f"{root} holds {found}: call the folders of the two splits 'train' and 'val'.")
        for path, label in everything:
            by_label.setdefault(label, []).append(path)
        for label, paths in by_label.items():
            count = min(max(round(val_fraction * len(paths)), 1), len(paths) - 1)
            by_hash = sorted(paths, key=lambda path: _digest(path.relative_to(root / label).as_posix()))
            for rank, path in enumerate(by_hash):
                files["val" if rank < count else "train"].append((path, label))
    for split, pairs in files.items():
        if not pairs:
            raise InputError(
                f"No video file for the split '{split}' in {root}: expected {root}/train/LABEL/*.mp4 and "
                f"{root}/val/LABEL/*.mp4, or {root}/LABEL/*.mp4 with two files or more in each label."
            )
    labels = {label for _, label in files["train"]}
    if len(labels) < 2:
        raise InputError(
            f"Only one label in {root}: {labels.pop()!r}. A classifier needs two or more, each a folder with videos of its own."
        )
    if unknown := sorted({label for _, label in files["val"]} - labels):
        raise InputError(f"{root}/val has labels that {root}/train lacks: {', '.join(unknown)}. Add videos or remove them.")
    return {split: sorted(pairs) for split, pairs in files.items()}


def _labelled_files(folder: Path) -> list[tuple[Path, str]]:
    """(file, label) of every video file in a label's folder or deeper."""
    placed = [(path, path.relative_to(folder).parts) for path in find_videos(folder)]
    return sorted((path, parts[0]) for path, parts in placed if len(parts) > 1)


def _digest(text: str) -> str:
    return hashlib.sha256(os.fsencode(text)).hexdigest()


@dataclasses.dataclass(kw_only=True)
class VideoFolderConfig(tfds.core.BuilderConfig):
    """Which folder, how it is split, and how large its frames are kept.

    The name holds a fingerprint of the settings and of every file's path, size and time, so a folder that changed is
    prepared anew and never taken for the old one.
    """

    name: str = ""  # follows from the others
    root: str
    val_fraction: float = 0.2
    max_short_side: int = 320

    def __post_init__(self) -> None:
        if self.max_short_side < 1:
            raise InputError(f"data.max_short_side must be at least 1 pixel, got {self.max_short_side}.")
        root = Path(self.root).expanduser().resolve()
        self.files = scan_folder(root, self.val_fraction)
        facts = [str((self.val_fraction, self.max_short_side))]
        for split, pairs in self.files.items():
            for path, label in pairs:
                stat = path.stat()
                facts.append(str((split, label, path.relative_to(root).as_posix(), stat.st_size, stat.st_mtime_ns)))
        self.root = str(root)
        self.name = f"{re.sub(r'[^A-Za-z0-9]+', '_', root.name)}_{_digest(chr(10).join(facts))[:12]}"


class VideoFolder(tfds.core.GeneratorBasedBuilder):
    """A folder of videos: `video` (JPEG frames), `label`, `fps`, `name` (the file's path below the root).

    A file that can't be decoded is left out, its name and the reason stand in the metadata's `left_out`; one that is damaged
    in places is kept and stands in `damaged`.
    """

    VERSION = tfds.core.Version("1.1.0")
    RELEASE_NOTES: ClassVar = {"1.1.0": "Videos of phones held sideways stand upright."}
    builder_config: VideoFolderConfig

    def _info(self) -> tfds.core.DatasetInfo:
        labels = sorted({label for _, label in self.builder_config.files["train"]})
        return tfds.core.DatasetInfo(
            builder=self,
            description=__doc__,
            features=tfds.features.FeaturesDict(
                {
                    "video": tfds.features.Video((None, None, None, 3), encoding_format="jpeg"),
                    "label": tfds.features.ClassLabel(names=labels),
                    "fps": np.float32,
                    "name": tfds.features.Text(),
                }
            ),
            metadata=tfds.core.MetadataDict(left_out={}, damaged={}),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
        return {split: self._generate_examples(split) for split in self.builder_config.files}

    def _generate_examples(self, split: str) -> Iterator[tuple[str, dict]]:
        root = Path(self.builder_config.root)
        pairs = self.builder_config.files[split]
        metadata: Any = self.info.metadata
        left_out, damaged = metadata["left_out"], metadata["damaged"]
        labels = set()
        for path, label in pairs:
            name = os.fsencode(path.relative_to(root).as_posix()).decode("utf-8", "backslashreplace")
            try:
                with open_video(path) as video:
                    frames = video.frames(self.builder_config.max_short_side)
                    jpegs = [tf.io.encode_jpeg(frame, quality=95).numpy() for frame in frames]
            except UnreadableVideoError as error:
                left_out[name] = error.reason
                continue
            if video.num_damaged:
                damaged[name] = video.num_damaged
            labels.add(label)
            yield name, {"video": jpegs, "label": label, "fps": video.fps, "name": name}
        if len(labels) < (2 if split == "train" else 1):
            name, reason = next(iter(left_out.items()))
            raise InputError(
                f"Too few of the {len(pairs)} video files of the split '{split}' in {root} can be decoded: labels with a "
                f"readable video are {', '.join(sorted(labels)) or 'none'}. Replace the broken ones ({name}: {reason})."
            )
