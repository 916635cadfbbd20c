"""What every clip of every video adds to its video's scores: kept batch by batch on each host, then the same on all."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils

from timesformer_jax._typing import Array, Float, Int, Shaped, ndarray
from timesformer_jax.errors import InputError
from timesformer_jax.training.objective import OBJECTIVES

GATHERED_BYTES = 2**26
"""At most so much of all hosts' scores is on the devices at a time, where hosts tell each other theirs."""


def _softmax(logits: np.ndarray) -> np.ndarray:
    odds = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return odds / odds.sum(axis=-1, keepdims=True)


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logits))


class Average(NamedTuple):
    """How a video's views become its scores: what each view adds (on the device), and what is made of their mean."""

    of_view: Callable[[Array], Array]
    of_video: Callable[[np.ndarray], np.ndarray]


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
"""Objective -> `eval.average` -> how. Scores sum to 1 where a video has one label.

The paper averages the views' probabilities, the official code adds up their logits. Here the sum is divided by their number,
which changes no ranking, and then goes through a softmax: that of the sum of thirty views' would be 0 and 1 to the last digit.
"""

AVERAGE_NAMES = tuple(AVERAGES["softmax"])
"""Names of the averages over views."""


def check_average(name: str) -> None:
    """Raises `InputError` for a name that is no average's."""
    if name not in AVERAGE_NAMES:
        raise InputError(f"eval.average must be one of {', '.join(AVERAGE_NAMES)}, got {name!r}.")


class Predictions(NamedTuple):
    """One row a video, sorted by name; on every host the same rows."""

    names: list[str]
    labels: Shaped[ndarray, "videos ..."]
    """Numbers, or zeros and ones `[videos, classes]` where a video has any number of labels."""
    scores: Float[ndarray, "videos classes"]
    num_views: Int[ndarray, "videos"]


class ClipScores(NamedTuple):
    """Every clip's scores, summed over its crops, video after video; on every host the same."""

    names: list[str]
    """Of the videos, sorted."""
    labels: Shaped[ndarray, "videos ..."]
    num_clips: Int[ndarray, "videos"]
    sums: Float[ndarray, "clips averages classes"]
    num_crops: int
    averages: Sequence[str]
    """The names of the sums' middle axis."""
    objective: str

    @property
    def clips_per_video(self) -> int | None:
        """How many clips every video has; None where they have different numbers of them."""
        counts = np.unique(self.num_clips)
        return int(counts[0]) if len(counts) == 1 else None

    def predictions(self, average: str, clips: Sequence[int] | None = None) -> Predictions:
        """The videos' scores by one of the `averages`, of all clips or of those with the given numbers in each video."""
        check_average(average)
        which, starts = self.averages.index(average), np.cumsum(self.num_clips) - self.num_clips
        total = np.zeros((len(self.names), self.sums.shape[-1]), np.float32)
        # Clip by clip, always in the same order: sums don't depend on how the clips were put into batches.
        for clip in range(max(self.num_clips, default=0)) if clips is None else clips:
            there = np.flatnonzero(self.num_clips > clip)
            total[there] += self.sums[starts[there] + clip, which]
        counts = self.num_clips if clips is None else np.full_like(self.num_clips, len(clips))
        num_views = counts * self.num_crops
        mean = total / num_views[:, None].astype(np.float32)
        return Predictions(self.names, self.labels, AVERAGES[self.objective][average].of_video(mean), num_views)


class ClipRows:
    """This host's clips so far, batch by batch."""

    def __init__(self) -> None:
        self._batches: list[dict[str, np.ndarray]] = []
        self._no_labels = np.zeros(0)
        self._videos: dict[int, tuple[bytes, np.ndarray]] = {}
        """Identity -> name and label, each kept once however many clips there are."""

    def __len__(self) -> int:
        return len(self._batches)

    def add(self, batch: Mapping[str, np.ndarray], sums: Float[ndarray, "B averages classes"]) -> None:
        """A batch's `mask`, `identity`, `clip`, `name` and `label`, and its clips' scores."""
        self._no_labels = np.array(batch["label"][:0])
        for i in np.flatnonzero(batch["mask"]):
            identity = int(batch["identity"][i])
            if identity not in self._videos:
                self._videos[identity] = bytes(batch["name"][i]), np.array(batch["label"][i])
        # Last, and at once: who is interrupted has whole batches.
        self._batches.append({"sums": sums, **{name: np.array(batch[name]) for name in ("mask", "identity", "clip")}})

    def part(self, first: int, end: int) -> dict[str, np.ndarray]:
        """The batches from `first` to before `end` as a few arrays, for `add_part`."""
        batches = self._batches[first:end]
        columns = {name: np.stack([batch[name] for batch in batches]) for name in ("sums", "mask", "identity", "clip")}
        known = np.unique(columns["identity"][columns["mask"]])
        names, labels = self._names_and_labels(known)
        return {**columns, "videos": known, "names": names, "labels": labels}

    def add_part(self, part: Mapping[str, np.ndarray], first: int) -> None:
        """Its batches, from its `first` on."""
        for i in range(first, len(part["mask"])):
            self._batches.append({name: part[name][i] for name in ("sums", "mask", "identity", "clip")})
        self._no_labels = part["labels"][:0]
        for identity, name, label in zip(part["videos"], part["names"], part["labels"], strict=True):
            self._videos[int(identity)] = _from_row(name), label

    def keep(self, count: int) -> None:
        """Leaves only the first `count` batches."""
        del self._batches[count:]

    def _names_and_labels(self, identities: np.ndarray, length: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """One row a video: uint8 names, filled up with zeros to the longest one's length, or to `length`; and labels."""
        known = [self._videos[int(identity)] for identity in identities]
        length = max([length, *(len(name) for name, _ in known)])
        names = [np.frombuffer(name.ljust(length, b"\0"), np.uint8) for name, _ in known]
        labels = np.concatenate([self._no_labels, *(label[None] for _, label in known)])
        return np.array(names, np.uint8).reshape(len(known), length), labels

    def gather(self, *, leads: bool, num_crops: int, averages: Sequence[str], objective: str) -> ClipScores:
        """All hosts' clips, on every host; the rows here are gone then.

        Every host has equally many batches of one size. `leads` is False where another host has the same clips.
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
        places = np.empty(len(mask), np.int64)  # of each row among the sorted clips
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
        """Every host's videos once, by identity: identities, names, labels."""
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
        """All hosts' sums, `[clips, averages, classes]`, each clip's in its place. Takes the batches away as it goes."""
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
    """Every host's rows, one host's after the other's."""
    if jax.process_count() == 1:
        return rows
    # As bytes: JAX would make 32 bits of 64.
    width = rows.dtype.itemsize * int(np.prod(rows.shape[1:]))
    flat = np.frombuffer(np.ascontiguousarray(rows).tobytes(), np.uint8).reshape(len(rows), width)
    gathered = np.ascontiguousarray(multihost_utils.process_allgather(flat, tiled=True))
    return np.frombuffer(gathered.tobytes(), rows.dtype).reshape(-1, *rows.shape[1:])
