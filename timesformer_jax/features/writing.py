"""Writing of features: a folder with `features.json` and shards of whole videos, each written atomically.

A shard, KKKKK-of-NNNNN.npz, holds these arrays:

- per video: `names`, and `labels` if known (a class index, or zeros and ones over the classes);
- per row, which is a view: `values` `[rows, ...]`, `video` (index into `names`), `clip` (numbered within the shard), `crop` and
  `seconds` (start of the clip);
- per video that couldn't be read: `unreadable` (its name) and `reasons`.

`features.json` holds `complete`, `num_videos`, `num_rows`, `unreadable` and the `description`.
"""

import bisect
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from flax import linen as nn
from jax.experimental import multihost_utils

from timesformer_jax._typing import Float, ndarray
from timesformer_jax.atomic_write import replacing
from timesformer_jax.checks import check_choice
from timesformer_jax.errors import InputError
from timesformer_jax.extras import needs
from timesformer_jax.features.kinds import KINDS, value_shape
from timesformer_jax.modeling import describe_model, flatten_params
from timesformer_jax.state_files import read_arrays, read_json, write_json
from timesformer_jax.video import Preprocess

ABOUT = "features.json"
"""File that describes the features. Shards belong together if they have the same `description`."""

LOCK = ".features.lock"
"""Lock file, in the folder while `timesformer features` writes to it."""

DTYPES = ("float32", "float16")
"""Dtypes that features can be stored in."""
SHARD_BYTES = 256 * 2**20
MOST_VIDEOS = 1000
"""Maximum number of videos per shard, however small their features, because an interrupted run loses its current shard."""

TILED_CLIPS = 16
"""Assumed number of clips per video if the number depends on the video's length."""


def check_options(kind: str, dtype: str, videos_per_shard: int | None) -> None:
    """Raise `InputError` if the kind, dtype or shard size is invalid."""
    for name, value, choices in (("kind", kind, tuple(KINDS)), ("dtype", dtype, DTYPES)):
        check_choice(f"features.{name}", value, choices)
    if videos_per_shard is not None and videos_per_shard < 1:
        raise InputError(f"features.videos_per_shard must be at least 1, got {videos_per_shard}.")


def count_shards(
    num_videos: int, model: nn.Module, *, kind: str, dtype: str, rows_per_video: int, videos_per_shard: int | None = None
) -> int:
    """Return the number of shards.

    Args:
        num_videos: Number of videos.
        model: The model whose features are written.
        kind: A key of `KINDS`.
        dtype: One of `DTYPES`.
        rows_per_video: Number of views per video.
        videos_per_shard: Videos per shard. By default, as many as make about `SHARD_BYTES`, but at most `MOST_VIDEOS`.

    Returns:
        The number of shards, at least 1.
    """
    size = math.prod(value_shape(model, kind)) * np.dtype(dtype).itemsize * rows_per_video
    return max(-(-num_videos // (videos_per_shard or min(max(SHARD_BYTES // size, 1), MOST_VIDEOS))), 1)


def weights_digest(params: Any) -> str:
    """Compute a digest that identifies the parameters; it is equal on every process and independent of the sharding."""
    digest = hashlib.blake2b(digest_size=8)
    for path, leaf in flatten_params(params).items():
        whole = isinstance(leaf, np.ndarray) or leaf.is_fully_addressable
        array = np.asarray(leaf if whole else multihost_utils.process_allgather(leaf, tiled=True))
        digest.update(f"{path} {array.dtype} {array.shape} ".encode() + np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def describe_features(
    model: nn.Module,
    params: Any,
    *,
    kind: str,
    dtype: str,
    source: str,
    step: int | None,
    preprocess: Preprocess,
    num_clips: int,
    num_crops: int,
    label_names: Sequence[str] | None,
    videos: Mapping[str, Any],
) -> dict[str, Any]:
    """Describe features as JSON values. Features with equal descriptions have equal values.

    Args:
        model: The model.
        params: Its weights, identified by their digest.
        kind: A key of `KINDS`.
        dtype: One of `DTYPES`.
        source: Origin of the weights. For information only, since the weights may be moved.
        step: Training step of the weights, for information only; None if unknown.
        preprocess: Preprocessing of the clips.
        num_clips: Number of clips per video.
        num_crops: Number of crops per clip.
        label_names: Names of the classes; None if unknown.
        videos: Identity of the set of videos.

    Returns:
        The description.
    """
    return {
        "kind": kind,
        "dtype": dtype,
        "axes": list(KINDS[kind].axes),
        "weights": {"source": source, "step": step, "digest": weights_digest(params)},
        "model": describe_model(model),
        "preprocess": preprocess.as_dict(),
        "num_clips": num_clips,
        "num_crops": num_crops,
        "label_names": None if label_names is None else list(label_names),
        "videos": dict(videos),
    }


class ShardRows:
    """Rows of a future shard, one per view (a crop of a clip), with a video's views next to each other.

    Holds all features in memory, converted to `dtype`.
    """

    def __init__(self, dtype: str):
        self._dtype = dtype
        self._names: dict[str, int] = {}
        self._labels: list[Any] = []
        self._clips: list[int] = []
        self._columns: dict[str, list[Any]] = {name: [] for name in ("values", "video", "clip", "crop", "seconds")}
        self.unreadable: dict[str, str] = {}

    def add_clip(self, name: str, values: Float[ndarray, "crops *axes"], *, seconds: float, label: Any = None) -> None:
        """Append the next clip of a video, with all of its crops.

        Args:
            name: Name of the video.
            values: Features of the clip's crops.
            seconds: Start of the clip.
            label: Label of the video; None if unknown.

        Raises:
            InputError: If the features are not finite, or overflow the dtype.
        """
        with np.errstate(over="ignore"):  # overflow of float16 is reported below
            kept = np.asarray(values).astype(self._dtype)
        if not np.isfinite(kept).all():
            fits = np.isfinite(np.asarray(values, np.float32)).all()
            reason = f"don't fit into {self._dtype}: use float32" if fits else "are not finite: the parameters have diverged"
            raise InputError(f"The features of {name} {reason}.")
        video = self._names.setdefault(name, len(self._names))
        if video == len(self._clips):
            self._clips.append(0)
            self._labels.append(label)
        for crop, row in enumerate(kept):
            for column, value in (
                ("values", row),
                ("video", video),
                ("clip", self._clips[video]),
                ("crop", crop),
                ("seconds", seconds),
            ):
                self._columns[column].append(value)
        self._clips[video] += 1

    def drop_video(self, name: str) -> None:
        """Remove the clips of the video that was added last; do nothing if `name` has no clips."""
        if name not in self._names:
            return
        video = self._names.pop(name)
        del self._labels[video:], self._clips[video:]
        start = bisect.bisect_left(self._columns["video"], video)
        for values in self._columns.values():
            del values[start:]

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the arrays of the shard's file."""
        types = {"video": np.int64, "clip": np.int32, "crop": np.int32, "seconds": np.float64, "values": self._dtype}
        columns = {name: np.array(values, types[name]) for name, values in self._columns.items()}
        columns["names"] = np.array(list(self._names), np.str_)
        if self._labels and self._labels[0] is not None:
            columns["labels"] = np.array(self._labels)
        columns["unreadable"] = np.array(list(self.unreadable), np.str_)
        columns["reasons"] = np.array(list(self.unreadable.values()), np.str_)
        return columns


class FeatureWriter:
    """Writer of a folder of shards, which resumes an earlier run of the same description.

    The constructor writes nothing.

    Args:
        folder: Local folder or bucket path.
        description: JSON values that describe the features; see `describe_features`.
        num_shards: Number of shards.

    Raises:
        InputError: If the folder holds features of another description, or anything else.
    """

    def __init__(self, folder: str | Path, description: Mapping[str, Any], *, num_shards: int):
        self.folder, self.num_shards = folder_at(folder), num_shards
        self._description: dict[str, Any] = json.loads(json.dumps({**description, "num_shards": num_shards}))
        check_folder(self.folder, self._description, whole=True)

    def begin(self) -> None:
        """Create the folder and its `features.json`, marked as incomplete; to be called by one process."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{self.folder} can't be used as a folder: {error.strerror}.") from error
        if not (self.folder / ABOUT).exists():
            self._say({"complete": False, "description": self._description})

    def missing(self) -> list[int]:
        """Return the indices of the shards that have not been written yet."""
        return [shard for shard in range(self.num_shards) if not self._path(shard).exists()]

    def write(self, shard: int, rows: ShardRows) -> None:
        """Write one shard atomically."""
        path = self._path(shard)
        with replacing(path) as part, part.open("wb") as file:
            np.savez(cast(Any, file), allow_pickle=False, **rows.arrays())

    def finish(self, unreadable: Mapping[str, str] | None = None) -> dict[str, Any]:
        """Mark `features.json` as complete, with the numbers of videos and rows and the unreadable videos.

        To be called by one process, once every shard has been written. Returns the new entries.
        """
        lost, names, rows = dict(unreadable or {}), set(), 0
        for shard in range(self.num_shards):
            held = read_shard(self._path(shard), ("names", "video", "unreadable", "reasons"))
            names.update(held["names"].tolist())
            rows += len(held["video"])
            lost.update(zip(held["unreadable"].tolist(), held["reasons"].tolist(), strict=True))
        about = {"complete": True, "num_videos": len(names), "num_rows": rows, "unreadable": lost}
        self._say({**about, "description": self._description})
        return about

    def _path(self, shard: int) -> Path:
        return shard_path(self.folder, shard, self.num_shards)

    def _say(self, about: Mapping[str, Any]) -> None:
        write_json(self.folder / ABOUT, about)


def check_folder(folder: Path, description: Mapping[str, Any], *, whole: bool = False) -> None:
    """Raise `InputError` if `folder` holds anything but features of this description.

    Unless `whole`, entries missing from `description` are not compared, because they may not be known yet.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise InputError(f"{folder} is a file, but features need a folder.")
    if not (folder / ABOUT).exists():
        if any(path.name not in (f"{ABOUT}.part", LOCK) for path in folder.iterdir()):
            raise InputError(f"{folder} holds something other than features: move it away, or write the features elsewhere.")
        return
    theirs = read_about(folder)["description"]
    if differing := _differences(theirs if whole else _common(theirs, description), description):
        raise InputError(f"{folder} holds other features ({'; '.join(differing)}): move them away, or write these elsewhere.")


def _common(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> dict[str, Any]:
    """Restrict a description to the entries that another one has as well."""
    return {
        name: _common(value, ours[name]) if isinstance(value, Mapping) and isinstance(ours[name], Mapping) else value
        for name, value in theirs.items()
        if name in ours
    }


ADDED_LATER = ("records",)
"""Entries that features of older versions lack, and which then aren't compared."""


def _differences(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> list[str]:
    """Describe the differences between two descriptions."""
    differences = []
    for name in sorted({*theirs, *ours}):
        one, other = theirs.get(name), ours.get(name)
        if name == "weights" and one and other:
            if one["digest"] != other["digest"]:
                differences.append(f"weights are from {_named(one)} there and from {_named(other)} here")
        elif isinstance(one, Mapping) and isinstance(other, Mapping):
            differences += [f"{name}.{difference}" for difference in _differences(one, other)]
        elif one != other and not (one is None and name in ADDED_LATER):
            long = len(f"{one}{other}") > 100
            differences.append(f"{name} differ" if long else f"{name} is {one!r} there and {other!r} here")
    return differences


def _named(weights: Mapping[str, Any]) -> str:
    step = weights.get("step")
    return f"{weights['source']}" + (f", step {step}," if step is not None else "")


def shard_path(folder: Path, shard: int, num_shards: int) -> Path:
    return folder / f"{shard:05d}-of-{num_shards:05d}.npz"


def folder_at(path: str | Path) -> Path:
    """Return the path of a local folder, or of a folder in a bucket.

    Raises `InputError` if the path has a scheme (`gs://`) and etils is not installed.
    """
    if "://" not in str(path):
        return Path(path)
    with needs("etils", f"The folder {path}"):
        from etils import epath
    return cast(Path, epath.Path(str(path)))


def read_about(folder: Path) -> dict[str, Any]:
    """Read `features.json`. Raises `InputError` if it is damaged, or not a description of features."""
    remedy = f"delete {folder} and extract the features again"
    about = read_json(folder / ABOUT, remedy=remedy)
    described = about.get("description")
    needed = {"kind", "model", "num_shards"}
    if not isinstance(described, Mapping) or not described.keys() >= needed or described["kind"] not in KINDS:
        raise InputError(f"{folder / ABOUT} doesn't describe features of timesformer_jax.")
    return dict(about)


def read_shard(path: Path, names: Sequence[str] | None = None) -> dict[str, np.ndarray]:
    """Read a shard's arrays, or those named. Raises `InputError` if the file is damaged."""
    return read_arrays(path, names=names, remedy="delete it and rerun the command that wrote it")
