"""Scores of every clip, collected batch by batch on each host, then gathered on all hosts and averaged per video."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils

from timesformer_jax._typing import Array, Float, Int, Shaped, ndarray
from timesformer_jax.checks import check_choice
from timesformer_jax.training.objective import OBJECTIVES

GATHERED_BYTES = 2**26
"""Maximum number of bytes on the devices at a time while scores are gathered from all hosts."""


def _softmax(logits: np.ndarray) -> np.ndarray:
    odds = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return odds / odds.sum(axis=-1, keepdims=True)


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logits))


class Average(NamedTuple):
    """Averaging of a video's views into its scores."""

    of_view: Callable[[Array], Array]
    """Maps a view's logits to what it adds to the video's sum, on the device."""
    of_video: Callable[[np.ndarray], np.ndarray]
    """Maps the mean over views to the video's scores."""


AVERAGES: dict[str, dict[str, Average]] = {
    "softmax": {
        "probabilities": Average(OBJECTIVES["softmax"].scores, lambda mean: mean),
        "logits": Average(lambda logits: logits, _softmax),
    },
    "sigmoid": {
        "probabilities": Average(OBJECTIVES["sigmoid"].scores, lambda mean: mean),
        "logits": Average(lambda logits: logits, _sigmoid),
    },
}
"""Maps an objective and the name of an average to its functions. Scores of single-label videos sum to 1.

The paper averages the views' probabilities, whereas the official code sums their logits. Here, the sum of logits is divided by
the number of views, which changes no ranking, and passed through a softmax. A softmax of the sum over thirty views would
saturate at 0 and 1.
"""

AVERAGE_NAMES = tuple(AVERAGES["softmax"])
"""Names of the averages over views."""


def check_average(name: str) -> None:
    """Raise `InputError` if `name` is not one of `AVERAGE_NAMES`."""
    check_choice("average", name, AVERAGE_NAMES)


class Predictions(NamedTuple):
    """Scores of videos, one row per video, sorted by name; identical on every host."""

    names: list[str]
    """Names of the videos."""
    labels: Shaped[ndarray, "videos ..."]
    """Class indices, or zeros and ones `[videos, classes]` for multi-label data."""
    scores: Float[ndarray, "videos classes"]
    """Scores of the classes, averaged over views."""
    num_views: Int[ndarray, "videos"]
    """Number of views that were averaged."""


class ClipScores(NamedTuple):
    """Scores of every clip, ordered by video and clip; identical on every host."""

    names: list[str]
    """Names of the videos, sorted."""
    labels: Shaped[ndarray, "videos ..."]
    """Class indices, or zeros and ones `[videos, classes]` for multi-label data."""
    num_clips: Int[ndarray, "videos"]
    """Number of clips of each video."""
    sums: Float[ndarray, "clips averages classes"]
    """Sums of each clip's scores over its crops."""
    num_crops: int
    """Number of crops per clip."""
    averages: Sequence[str]
    """Names of the entries along the middle axis of `sums`."""
    objective: str
    """A key of `AVERAGES`."""

    @property
    def clips_per_video(self) -> int | None:
        """Number of clips of every video; None if it differs between videos."""
        counts = np.unique(self.num_clips)
        return int(counts[0]) if len(counts) == 1 else None

    def predictions(self, average: str, clips: Sequence[int] | None = None) -> Predictions:
        """Average each video's clips, or those with the given indices within each video, by one of the `averages`."""
        check_average(average)
        which, starts = self.averages.index(average), np.cumsum(self.num_clips) - self.num_clips
        total = np.zeros((len(self.names), self.sums.shape[-1]), np.float32)
        # Clips are added in a fixed order, so that sums don't depend on the batches.
        for clip in range(max(self.num_clips, default=0)) if clips is None else clips:
            there = np.flatnonzero(self.num_clips > clip)
            total[there] += self.sums[starts[there] + clip, which]
        counts = self.num_clips if clips is None else np.full_like(self.num_clips, len(clips))
        num_views = counts * self.num_crops
        mean = total / num_views[:, None].astype(np.float32)
        return Predictions(self.names, self.labels, AVERAGES[self.objective][average].of_video(mean), num_views)


class ClipRows:
    """Scores of this host's clips so far, batch by batch."""

    def __init__(self) -> None:
        self._batches: list[dict[str, np.ndarray]] = []
        self._no_labels = np.zeros(0)
        self._videos: dict[int, tuple[bytes, np.ndarray]] = {}
        """Maps a video's identity to its name and label, which are stored once per video."""

    def __len__(self) -> int:
        return len(self._batches)

    def add(self, batch: Mapping[str, np.ndarray], sums: Float[ndarray, "B averages classes"]) -> None:
        """Append a batch (`mask`, `identity`, `clip`, `name` and `label`) and its clips' scores."""
        self._no_labels = np.array(batch["label"][:0])
        for i in np.flatnonzero(batch["mask"]):
            identity = int(batch["identity"][i])
            if identity not in self._videos:
                self._videos[identity] = bytes(batch["name"][i]), np.array(batch["label"][i])
        # Last and in one step, so that an interruption leaves only whole batches.
        self._batches.append({"sums": sums, **{name: np.array(batch[name]) for name in ("mask", "identity", "clip")}})

    def part(self, first: int, end: int) -> dict[str, np.ndarray]:
        """Return the batches from `first` up to `end`, exclusive, as a few arrays for `add_part`."""
        batches = self._batches[first:end]
        columns = {name: np.stack([batch[name] for batch in batches]) for name in ("sums", "mask", "identity", "clip")}
        known = np.unique(columns["identity"][columns["mask"]])
        names, labels = self._names_and_labels(known)
        return {**columns, "videos": known, "names": names, "labels": labels}

    def add_part(self, part: Mapping[str, np.ndarray], first: int) -> None:
        """Append the batches in a result of `part`, starting with its batch `first`."""
        for i in range(first, len(part["mask"])):
            self._batches.append({name: part[name][i] for name in ("sums", "mask", "identity", "clip")})
        self._no_labels = part["labels"][:0]
        for identity, name, label in zip(part["videos"], part["names"], part["labels"], strict=True):
            self._videos[int(identity)] = _from_row(name), label

    def keep(self, count: int) -> None:
        """Discard all but the first `count` batches."""
        del self._batches[count:]

    def _names_and_labels(self, identities: np.ndarray, length: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Return one row per video: names as uint8, zero-padded to the longest name or to `length`, and labels."""
        known = [self._videos[int(identity)] for identity in identities]
        length = max([length, *(len(name) for name, _ in known)])
        names = [np.frombuffer(name.ljust(length, b"\0"), np.uint8) for name, _ in known]
        labels = np.concatenate([self._no_labels, *(label[None] for _, label in known)])
        return np.array(names, np.uint8).reshape(len(known), length), labels

    def gather(self, *, leads: bool, num_crops: int, averages: Sequence[str], objective: str) -> ClipScores:
        """Gather all hosts' clips on every host, and discard the batches held here.

        Every host must have the same number of batches, all of one size.

        Args:
            leads: Whether this host contributes its clips; False if another host has the same ones.
            num_crops: Number of crops per clip.
            averages: Names of the entries along the middle axis of the scores.
            objective: A key of `AVERAGES`.

        Returns:
            The scores of all clips.
        """
        columns = [np.concatenate([batch[name] for batch in self._batches]) for name in ("mask", "identity", "clip")]
        mask, identity, clip = columns[0] & leads, columns[1], columns[2]
        videos, names, labels = self._gather_videos(np.unique(identity[mask]))
        mask, identity, clip = (_all_hosts(column) for column in (mask, identity, clip))
        order = sorted(range(len(names)), key=names.__getitem__)
        place_of_video = np.empty(len(order), np.int64)
        place_of_video[order] = np.arange(len(order))
        real = np.flatnonzero(mask)
        video = place_of_video[np.searchsorted(videos, identity[real])]
        places = np.empty(len(mask), np.int64)  # position of each row among the sorted clips
        places[real[np.lexsort((clip[real, 1], clip[real, 0], video))]] = np.arange(len(real))
        rows = self._scores(mask, places)
        return ClipScores(
            names=[names[i] for i in order],
            labels=labels[order],
            num_clips=np.bincount(video, minlength=len(order)),
            sums=rows,
            num_crops=num_crops,
            averages=tuple(averages),
            objective=objective,
        )

    def _gather_videos(self, identities: np.ndarray) -> tuple[np.ndarray, list[str], np.ndarray]:
        """Gather every host's videos, without duplicates: identities, names and labels, sorted by identity."""
        own = np.array([len(identities), max([0, *(len(self._videos[int(i)][0]) for i in identities)])])
        count, length = _all_hosts(own[None]).max(axis=0)  # arrays of one shape on every host
        names, labels = self._names_and_labels(identities, int(length))
        missing = int(count) - len(identities)
        columns = []
        for column in (identities, names, labels, np.ones(len(identities), bool)):
            columns.append(_all_hosts(np.concatenate([column, np.zeros((missing, *column.shape[1:]), column.dtype)])))
        known, first = np.unique(columns[0][columns[3]], return_index=True)
        names, labels = columns[1][columns[3]][first], columns[2][columns[3]][first]
        return known, [_from_row(name).decode(errors="replace") for name in names], labels

    def _scores(self, mask: np.ndarray, places: np.ndarray) -> np.ndarray:
        """Gather all hosts' sums, `[clips, averages, classes]`, in the order of `places`. Frees batches along the way."""
        hosts, size = jax.process_count(), len(self._batches[0]["mask"])
        shape = self._batches[0]["sums"].shape[1:]
        sums = np.empty((int(mask.sum()), *shape), np.float32)
        at_a_time = max(GATHERED_BYTES // (hosts * size * int(np.prod(shape)) * 4), 1)
        begin, rows_of_host = 0, len(mask) // hosts
        while self._batches:
            batches, self._batches = self._batches[:at_a_time], self._batches[at_a_time:]
            part = _all_hosts(np.concatenate([batch["sums"] for batch in batches]))
            end = begin + len(part) // hosts
            rows = (np.arange(hosts)[:, None] * rows_of_host + np.arange(begin, end)).reshape(-1)
            sums[places[rows[mask[rows]]]] = part[mask[rows]]
            begin = end
        return sums


def _from_row(name: np.ndarray) -> bytes:
    return name.tobytes().rstrip(b"\0")


def _all_hosts(rows: np.ndarray) -> np.ndarray:
    """Concatenate the rows of all hosts, in order of process index."""
    if jax.process_count() == 1:
        return rows
    # Sent as bytes, because JAX would truncate 64-bit types to 32 bits.
    width = rows.dtype.itemsize * int(np.prod(rows.shape[1:]))
    flat = np.frombuffer(np.ascontiguousarray(rows).tobytes(), np.uint8).reshape(len(rows), width)
    gathered = np.ascontiguousarray(multihost_utils.process_allgather(flat, tiled=True))
    return np.frombuffer(gathered.tobytes(), rows.dtype).reshape(-1, *rows.shape[1:])
