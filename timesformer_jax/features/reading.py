"""Features from disk: all shards of a folder as one set, checked."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from timesformer_jax._typing import Float, Int, Shaped, ndarray
from timesformer_jax.errors import InputError
from timesformer_jax.features.kinds import KINDS
from timesformer_jax.features.writing import ABOUT, folder_at, read_about, read_shard, shard_path


@dataclasses.dataclass(frozen=True, eq=False)
class FeatureSet:
    """Features of videos, sorted by name; one row a view (a crop of a clip), a video's rows together, by clip and crop.

    `values[i]` belongs to the video `names[video[i]]`, its clip number `clips[i]`, which begins at `seconds[i]`, and its crop
    number `crops[i]`.
    """

    names: list[str]
    labels: Shaped[ndarray, "videos ..."] | None
    """Numbers, or zeros and ones `[videos, classes]` where a video has any number of labels; None where none are known."""
    label_names: list[str] | None
    values: Float[ndarray, "rows ..."]
    """float32 or float16, `[rows, D]`, `[rows, T, D]` or `[rows, T, h, w, D]`, by the description's `kind`."""
    video: Int[ndarray, "rows"]
    clips: Int[ndarray, "rows"]
    crops: Int[ndarray, "rows"]
    seconds: Float[ndarray, "rows"]
    about: dict[str, Any]
    """The description: `kind`, `model`, `weights`, `preprocess`, ..."""
    unreadable: dict[str, str]
    """Videos that couldn't be read, and why."""

    def per_video(self) -> Float[ndarray, "videos ..."]:
        """The mean of each video's rows, in float32, in the order of `names`."""
        firsts = np.flatnonzero(np.diff(self.video, prepend=-1))
        counts = np.diff(firsts, append=len(self.video)).reshape(-1, *(1,) * (self.values.ndim - 1))
        return np.add.reduceat(self.values, firsts, axis=0, dtype=np.float32) / counts.astype(np.float32)

    def vectors(self) -> Float[ndarray, "videos D"]:
        """One vector a video: the mean over its rows, and over frames and places where the kind has them."""
        means = self.per_video()
        return means.reshape(len(means), -1, means.shape[-1]).mean(axis=1)


def read_features(folder: str | Path) -> FeatureSet:
    """Everything in a folder of features (`features.json` and its shards), or in the only such folder in it.

    Raises `InputError` for features that are not complete, damaged files, and values that are not finite.
    """
    place = _find(folder_at(folder))
    about = read_about(place)
    described = about["description"]
    num_shards = described["num_shards"]
    paths = [shard_path(place, shard, num_shards) for shard in range(num_shards)]
    lacking = sum(not path.exists() for path in paths)
    if lacking or not about.get("complete"):
        raise InputError(
            f"{place} is not complete ({lacking} of {num_shards} shards are missing): start the command that writes it again."
        )
    shards = [_checked(path, read_shard(path), described) for path in paths]
    shards = [shard for shard in shards if len(shard["names"])]
    if not shards:
        raise InputError(f"{place} holds no features: none of its videos could be read.")
    if len(shapes := {shard["values"].shape[1:] for shard in shards}) > 1:
        raise InputError(f"The shards of {place} hold features of several shapes: {', '.join(map(str, sorted(shapes)))}.")
    names = np.concatenate([shard["names"] for shard in shards])
    offsets = np.cumsum([0, *(len(shard["names"]) for shard in shards[:-1])])
    columns = {name: np.concatenate([shard[name] for shard in shards]) for name in ("values", "clip", "crop", "seconds")}
    # The parts of a long video are stored apart, and may lie in several shards.
    unique, first, number = np.unique(names, return_index=True, return_inverse=True)
    video = number[np.concatenate([shard["video"] + offset for shard, offset in zip(shards, offsets, strict=True)])]
    order = np.lexsort((columns["crop"], columns["clip"], columns["seconds"], video))
    video, columns = video[order], {name: column[order] for name, column in columns.items()}
    labels = None
    if all("labels" in shard for shard in shards):
        labels = np.concatenate([shard["labels"] for shard in shards])[first]
    return FeatureSet(
        names=unique.tolist(),
        labels=labels,
        label_names=described.get("label_names"),
        values=columns["values"],
        video=video,
        clips=_count_clips(video, columns["crop"]),
        crops=columns["crop"],
        seconds=columns["seconds"],
        about=dict(described),
        unreadable=about.get("unreadable", {}),
    )


def _find(folder: Path) -> Path:
    if (folder / ABOUT).exists():
        return folder
    below = [folder / "features", folder]  # a run's workdir, or the folder of its splits
    found = sorted({path.parent for where in below if where.is_dir() for path in where.glob(f"*/{ABOUT}")})
    if len(found) > 1:
        raise InputError(f"{folder} holds several features: give one of {', '.join(map(str, found))}.")
    if not found:
        raise InputError(f"There are no features in {folder}: it has no {ABOUT}.")
    return found[0]


def _checked(path: Path, shard: dict[str, np.ndarray], described: dict[str, Any]) -> dict[str, np.ndarray]:
    """The arrays of a shard, if they fit together."""
    wanted = {"names", "values", "video", "clip", "crop", "seconds"}
    if lacking := sorted(wanted - shard.keys()):
        raise InputError(f"{path} is no shard of features: it has no {', '.join(lacking)}.")
    values, rows = shard["values"], len(shard["video"])
    if not rows and not len(shard["names"]):
        return shard
    axes, width = len(KINDS[described["kind"]].axes), described["model"]["embed_dim"]
    if values.ndim != 1 + axes or values.shape[-1] != width or any(len(shard[name]) != rows for name in wanted - {"names"}):
        raise InputError(
            f"{path} should hold {rows} rows of {axes} axes, the last of {width}, got values of {list(values.shape)}."
        )
    if not np.array_equal(np.unique(shard["video"]), np.arange(len(shard["names"]))):
        raise InputError(f"{path} should have rows of each of its {len(shard['names'])} videos, and of no others.")
    if not np.isfinite(values).all():
        raise InputError(f"{path} holds features that are not finite.")
    return shard


def _count_clips(video: Int[ndarray, "rows"], crop: Int[ndarray, "rows"]) -> Int[ndarray, "rows"]:
    """The number of each row's clip in its whole video; rows are in order, and a clip begins with crop 0."""
    begins = np.cumsum(crop == 0) - 1
    first = np.maximum.accumulate(np.where(np.diff(video, prepend=-1) != 0, begins, 0))
    return begins - first
