"""Features on disk: a folder with `features.json` and shards of whole videos, each written whole or not at all.

A shard, KKKKK-of-NNNNN.npz, holds the arrays `names` `[videos]`, `labels` (of each video its number, or a one or zero for each
class; where they are known), and for each row, a view, `values` `[rows, ...]`, `video` (its number in `names`), `clip` (counted
within this shard), `crop` and `seconds` (where the clip begins); then `unreadable` and `reasons`. `features.json` holds
`complete`, `num_videos`, `num_rows`, `unreadable` and the `description`.
"""

import bisect
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from jax.experimental import multihost_utils

from timesformer_jax._typing import Float, ndarray
from timesformer_jax.atomic_write import replacing
from timesformer_jax.errors import InputError
from timesformer_jax.extras import MissingPackageError
from timesformer_jax.features.kinds import KINDS, value_shape
from timesformer_jax.modeling import TimeSformer, describe_model, flatten_params
from timesformer_jax.state_files import read_arrays, read_json, write_json
from timesformer_jax.video import Preprocess

ABOUT = "features.json"
"""What the features are of; `description` decides whether shards belong together."""

LOCK = ".features.lock"
"""In the folder, while `timesformer features` writes to it."""

DTYPES = ("float32", "float16")
"""Dtypes that features can be stored in."""
SHARD_BYTES = 256 * 2**20
MOST_VIDEOS = 1000
"""As many videos make a shard as fill it, and no more than that: a shard is what a run that ends too early loses."""

TILED_CLIPS = 16
"""How many clips a video is taken to have where its length decides."""


def check_options(kind: str, dtype: str, videos_per_shard: int | None) -> None:
    """Raises `InputError` for a kind, dtype or size of shards that can't be."""
    for name, value, choices in (("kind", kind, tuple(KINDS)), ("dtype", dtype, DTYPES)):
        if value not in choices:
            raise InputError(f"features.{name} must be one of {', '.join(choices)}, got {value!r}.")
    if videos_per_shard is not None and videos_per_shard < 1:
        raise InputError(f"features.videos_per_shard must be at least 1, got {videos_per_shard}.")


def count_shards(
    num_videos: int, model: TimeSformer, *, kind: str, dtype: str, rows_per_video: int, videos_per_shard: int | None = None
) -> int:
    """How many shards: of `videos_per_shard` videos, or of as many as make about `SHARD_BYTES`, at most `MOST_VIDEOS`."""
    size = math.prod(value_shape(model, kind)) * np.dtype(dtype).itemsize * rows_per_video
    return max(-(-num_videos // (videos_per_shard or min(max(SHARD_BYTES // size, 1), MOST_VIDEOS))), 1)


def weights_digest(params: Any) -> str:
    """A short text that other parameters don't have; the same on every process, however the parameters are split."""
    digest = hashlib.blake2b(digest_size=8)
    for path, leaf in flatten_params(params).items():
        whole = isinstance(leaf, np.ndarray) or leaf.is_fully_addressable
        array = np.asarray(leaf if whole else multihost_utils.process_allgather(leaf, tiled=True))
        digest.update(f"{path} {array.dtype} {array.shape} ".encode() + np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def describe_features(
    model: TimeSformer,
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
    """What features are of, as JSON: what has the same description has the same numbers.

    `source` and `step`: where the weights came from, which may move; their digest decides. `videos`: which ones, of what.
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
    """What a shard will hold, one row a view (a crop of a clip), a video's views one after the other.

    Its memory is that of the features of its videos. Rows become `dtype`.
    """

    def __init__(self, dtype: str):
        self._dtype = dtype
        self._names: dict[str, int] = {}
        self._labels: list[Any] = []
        self._clips: list[int] = []
        self._columns: dict[str, list[Any]] = {name: [] for name in ("values", "video", "clip", "crop", "seconds")}
        self.unreadable: dict[str, str] = {}

    def add_clip(self, name: str, values: Float[ndarray, "crops *axes"], *, seconds: float, label: Any = None) -> None:
        """The next clip of a video, which begins at `seconds`, with all its crops.

        Raises `InputError` for features that are not finite.
        """
        with np.errstate(over="ignore"):  # what float16 can't hold is told below
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
        """Take back the clips of `name`, if it is the video that was added last or has none."""
        if name not in self._names:
            return
        video = self._names.pop(name)
        del self._labels[video:], self._clips[video:]
        start = bisect.bisect_left(self._columns["video"], video)
        for values in self._columns.values():
            del values[start:]

    def arrays(self) -> dict[str, np.ndarray]:
        """As the file holds them."""
        types = {"video": np.int64, "clip": np.int32, "crop": np.int32, "seconds": np.float64, "values": self._dtype}
        columns = {name: np.array(values, types[name]) for name, values in self._columns.items()}
        columns["names"] = np.array(list(self._names), np.str_)
        if self._labels and self._labels[0] is not None:
            columns["labels"] = np.array(self._labels)
        columns["unreadable"] = np.array(list(self.unreadable), np.str_)
        columns["reasons"] = np.array(list(self.unreadable.values()), np.str_)
        return columns


class FeatureWriter:
    """Writes the shards of one folder, going on where an earlier run of the same description has ended.

    `description`, JSON, says what the features are: of which model and weights, of which videos, how they were prepared and
    which kind is kept. Making one writes nothing.

    Raises `InputError` where the folder holds features of another description, or something else.
    """

    def __init__(self, folder: str | Path, description: Mapping[str, Any], *, num_shards: int):
        self.folder, self.num_shards = folder_at(folder), num_shards
        self._description: dict[str, Any] = json.loads(json.dumps({**description, "num_shards": num_shards}))
        check_folder(self.folder, self._description, whole=True)

    def begin(self) -> None:
        """Makes the folder and says what it is going to hold; for one process."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{self.folder} can't be used as a folder: {error.strerror}.") from error
        if not (self.folder / ABOUT).exists():
            self._say({"complete": False, "description": self._description})

    def missing(self) -> list[int]:
        """The shards that aren't there yet."""
        return [shard for shard in range(self.num_shards) if not self._path(shard).exists()]

    def write(self, shard: int, rows: ShardRows) -> None:
        """Writes one shard, whole or not at all."""
        path = self._path(shard)
        with replacing(path) as part, part.open("wb") as file:
            np.savez(cast(Any, file), allow_pickle=False, **rows.arrays())

    def finish(self, unreadable: Mapping[str, str] | None = None) -> dict[str, Any]:
        """Completes `features.json` by how much there is, and by what couldn't be read; for one process, once every shard is
        there. Returns what it says."""
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
    """Raise `InputError` if features of this description can't be written here, because the folder holds something else.

    Without `whole`, entries that the description lacks are not compared: they may not be known yet.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise InputError(f"{folder} is a file, and the features need a folder.")
    if not (folder / ABOUT).exists():
        if any(path.name not in (f"{ABOUT}.part", LOCK) for path in folder.iterdir()):
            raise InputError(f"{folder} holds something else than features: move it away, or write them elsewhere.")
        return
    theirs = read_about(folder)["description"]
    if differing := _differences(theirs if whole else _common(theirs, description), description):
        raise InputError(f"{folder} holds other features ({'; '.join(differing)}): move them away, or write these elsewhere.")


def _common(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of a description that the other one has, too."""
    return {
        name: _common(value, ours[name]) if isinstance(value, Mapping) and isinstance(ours[name], Mapping) else value
        for name, value in theirs.items()
        if name in ours
    }


def _differences(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> list[str]:
    """What two descriptions disagree about, in words."""
    told = []
    for name in sorted({*theirs, *ours}):
        one, other = theirs.get(name), ours.get(name)
        if name == "weights" and one and other:
            if one["digest"] != other["digest"]:
                told.append(f"weights are of {_named(one)} there and of {_named(other)} here")
        elif isinstance(one, Mapping) and isinstance(other, Mapping):
            told += [f"{name}.{difference}" for difference in _differences(one, other)]
        elif one != other:
            long = len(f"{one}{other}") > 100
            told.append(f"{name} differ" if long else f"{name} is {one!r} there and {other!r} here")
    return told


def _named(weights: Mapping[str, Any]) -> str:
    step = weights.get("step")
    return f"{weights['source']}" + (f", step {step}," if step is not None else "")


def shard_path(folder: Path, shard: int, num_shards: int) -> Path:
    return folder / f"{shard:05d}-of-{num_shards:05d}.npz"


def folder_at(path: str | Path) -> Path:
    """A folder of this machine, or in a bucket."""
    if "://" not in str(path):
        return Path(path)
    try:
        from etils import epath
    except ImportError as error:
        raise MissingPackageError("etils", f"The folder {path}") from error
    return cast(Path, epath.Path(str(path)))


def read_about(folder: Path) -> dict[str, Any]:
    """What `features.json` says; raises `InputError` where it is none of ours."""
    remedy = f"delete {folder} and extract the features again"
    about = read_json(folder / ABOUT, remedy=remedy)
    described = about.get("description")
    needed = {"kind", "model", "num_shards"}
    if not isinstance(described, Mapping) or not described.keys() >= needed or described["kind"] not in KINDS:
        raise InputError(f"{folder / ABOUT} doesn't describe features of timesformer_jax.")
    return dict(about)


def read_shard(path: Path, names: Sequence[str] | None = None) -> dict[str, np.ndarray]:
    """A shard's arrays, or some of them; raises `InputError` for a damaged file."""
    return read_arrays(path, names=names, remedy="delete it, and the command that wrote it makes it again")
