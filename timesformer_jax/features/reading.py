"""Reading of features: all shards of a folder, checked and merged into one set."""

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
    """Features of a set of videos, one row per view (a crop of a clip), sorted by video, clip and crop."""

    names: list[str]
    """Names of the videos, sorted."""
    labels: Shaped[ndarray, "videos ..."] | None
    """Class indices, or zeros and ones `[videos, classes]` for multi-label data; None if unknown."""
    label_names: list[str] | None
    """Names of the classes; None if unknown."""
    values: Float[ndarray, "rows ..."]
    """Features in float32 or float16, `[rows, D]`, `[rows, T, D]` or `[rows, T, h, w, D]`, depending on `about["kind"]`."""
    video: Int[ndarray, "rows"]
    """Index into `names` of each row's video."""
    clips: Int[ndarray, "rows"]
    """Number of each row's clip in its video."""
    crops: Int[ndarray, "rows"]
    """Number of each row's crop in its clip."""
    seconds: Float[ndarray, "rows"]
    """Start of each row's clip in seconds."""
    about: dict[str, Any]
    """Description of the features: `kind`, `model`, `weights`, `preprocess`, ..."""
    unreadable: dict[str, str]
    """Maps each video that couldn't be read to the reason."""

    def per_video(self) -> Float[ndarray, "videos ..."]:
        """Average each video's rows, in float32, in the order of `names`."""
        firsts = np.flatnonzero(np.diff(self.video, prepend=-1))
        counts = np.diff(firsts, append=len(self.video)).reshape(-1, *(1,) * (self.values.ndim - 1))
        return np.add.reduceat(self.values, firsts, axis=0, dtype=np.float32) / counts.astype(np.float32)

    def vectors(self) -> Float[ndarray, "videos D"]:
        """Average each video into one vector, over its rows and, if the kind has them, over frames and patches."""
        means = self.per_video()
        return means.reshape(len(means), -1, means.shape[-1]).mean(axis=1)


def read_features(folder: str | Path) -> FeatureSet:
    """Read a folder of features (`features.json` and its shards), or the only such folder in a run's workdir.

    Raises `InputError` if the features are incomplete, a file is damaged, or a value is not finite.
    """
    place = _find(folder_at(folder))
    about = read_about(place)
    described = about["description"]
    num_shards = described["num_shards"]
    paths = [shard_path(place, shard, num_shards) for shard in range(num_shards)]
    lacking = sum(not path.exists() for path in paths)
    if lacking or not about.get("complete"):
        raise InputError(
            f"{place} is not complete ({lacking} of {num_shards} shards are missing): rerun the command that writes it."
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
    # A long video may be stored in several segments, possibly in different shards.
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
    below = [folder / "features", folder]  # `folder` may be a run's workdir, or hold one folder per split
    found = sorted({path.parent for where in below if where.is_dir() for path in where.glob(f"*/{ABOUT}")})
    if len(found) > 1:
        raise InputError(f"{folder} holds several sets of features: give one of {', '.join(map(str, found))}.")
    if not found:
        raise InputError(f"There are no features in {folder}: it has no {ABOUT}.")
    return found[0]


def _checked(path: Path, shard: dict[str, np.ndarray], described: dict[str, Any]) -> dict[str, np.ndarray]:
    """Return the arrays of a shard. Raises `InputError` if they are inconsistent."""
    wanted = {"names", "values", "video", "clip", "crop", "seconds"}
    if lacking := sorted(wanted - shard.keys()):
        raise InputError(f"{path} is not a shard of features: it has no {', '.join(lacking)}.")
    values, rows = shard["values"], len(shard["video"])
    if not rows and not len(shard["names"]):
        return shard
    axes, width = len(KINDS[described["kind"]].axes), described["model"].get("embed_dim", values.shape[-1])
    if values.ndim != 1 + axes or values.shape[-1] != width or any(len(shard[name]) != rows for name in wanted - {"names"}):
        raise InputError(
            f"{path} should hold {rows} rows of {axes} axes, the last of {width}, got values of {list(values.shape)}."
        )
    if not np.array_equal(np.unique(shard["video"]), np.arange(len(shard["names"]))):
        raise InputError(f"{path} should have rows for each of its {len(shard['names'])} videos and for no others.")
    if not np.isfinite(values).all():
        raise InputError(f"{path} holds features that are not finite.")
    return shard


def _count_clips(video: Int[ndarray, "rows"], crop: Int[ndarray, "rows"]) -> Int[ndarray, "rows"]:
    """Number each row's clip within its video; rows must be sorted, and a clip begins with crop 0."""
    begins = np.cumsum(crop == 0) - 1
    first = np.maximum.accumulate(np.where(np.diff(video, prepend=-1) != 0, begins, 0))
    return begins - first
