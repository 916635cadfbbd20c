"""Clips of video files by their numbers, for any data loader: no TensorFlow and no prepared data."""

import concurrent.futures
import copy
import dataclasses
import hashlib
import logging
import math
import operator
import os
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from timesformer_jax.errors import InputError
from timesformer_jax.labels import encode_label
from timesformer_jax.printable import as_utf8
from timesformer_jax.video.clip_seeds import clip_generator, epoch_order, identity_of
from timesformer_jax.video.entry import Entry, entries_of_folder, entries_of_list
from timesformer_jax.video.frame_reader import FrameReader
from timesformer_jax.video.limits import DEFAULT_LIMITS, Limits, UnreadableVideoError
from timesformer_jax.video.pixels import crop_on_host
from timesformer_jax.video.views import ClipOptions, EvalViews, Video, Windows, cut_windows, plan_windows

log = logging.getLogger("timesformer_jax")


class ClipSource:
    """Random access to the clips of videos: `len(source)`, and `source[i]` as a dict of NumPy arrays.

    `source[i]` has

    * `video`: uint8 `[T, R, R, 3]`, a window of the frames that holds the crop;
    * `rows`, `columns`: float32 `[S]`, the positions of the crop's pixels in the window;
    * `label`: int32 `[]`, or float32 `[classes]` of zeros and ones if `multi_label`;
    * `seconds`: float32 `[]`, where the clip begins in its video;
    * `identity`: int64 `[]`, a number for the name; and `name`, a `str`.

    `timesformer_jax.augment.prepare_training` and `prepare_eval` crop, change and normalise a batch of them on the device. With
    `cropped`, `video` is the crop itself, rounded to uint8 `[T, S, S, 3]`, which those functions take as well. Evaluation
    (`views`), and training with `clips_per_video` above 1, have several clips of a video: `video`, `rows`, `columns` and
    `seconds` then begin with an axis for these, in evaluation with the crops of each clip together.

    A training clip is a function of (seed, epoch, the video's name): neither workers nor order change it. `source` is epoch 0,
    `source.epoch(3)` is another one, `source.shuffled(num_epochs=30)` has all clips of 30 epochs, each in its own order. An
    index that is out of range raises `IndexError`; none means a later epoch.

    The trainer (`input_pipeline`) gives the same clips for the same names, seed, epoch and settings: the same frames, windows
    and positions, and the same pixels but for the loss of its JPEG or H.264. Two things differ. It cuts videos longer than
    `data.part_seconds` into several, and it excludes all damaged frames of a video, while a source excludes them only from
    clips whose decoding meets the damage.

    A source can be pickled and read by several threads; each access opens one file.

    Args:
        videos: A folder with a subfolder per label, or a sequence of (path, label) pairs or of `Entry`s, such as a split of
            `timesformer_jax.datasets.read_video_folder`, whose names are the trainer's. A label is a name or the number of a
            class. A video's name is its path relative to the folder, or of a pair its path as given.
        options: How clips are cut out of the videos.
        seed: Of the training clips and of the order of epochs, at least 0.
        views: The views of each video in evaluation; None for training clips.
        label_names: Names of the classes in their order; by default those of the videos, sorted (of a list, numbers by value).
        multi_label: A video may have any number of labels: pairs are (path, labels).
        short_side: Frames with a longer short side are shrunk to this many pixels first; `options.short_side[0]` by default,
            as in the trainer (`data.short_side`).
        max_fps: Of videos with more frames a second only this many are kept (`data.max_fps`).
        even_sides: Round the frames' sides down to even numbers, as the trainer's storage "h264" does.
        cropped: Crop and scale on the host.
        limits: What a video may have at most.

    Attributes:
        label_names: Names of the classes.
        entries: The videos, in order.

    Raises:
        InputError: If the videos or labels can't be used. An access raises `UnreadableVideoError`, which names the file, if not
            one of its frames can be decoded; `find_unreadable` looks for all such files.
    """

    def __init__(
        self,
        videos: str | os.PathLike[str] | Sequence[Any],
        options: ClipOptions,
        *,
        seed: int = 0,
        views: EvalViews | None = None,
        label_names: Sequence[str] | None = None,
        multi_label: bool = False,
        short_side: int | None = None,
        max_fps: float = math.inf,
        even_sides: bool = False,
        cropped: bool = False,
        limits: Limits = DEFAULT_LIMITS,
    ):
        side = options.short_side[0] if short_side is None else short_side
        for name, value, least in (("seed", seed, 0), ("short_side", side, 1)):
            if not isinstance(value, int | np.integer) or value < least:
                raise InputError(f"{name} must be a whole number, at least {least}, got {value!r}.")
        if not max_fps > 0:
            raise InputError(f"max_fps must be above 0, got {max_fps}.")
        names = None if label_names is None else tuple(map(as_utf8, label_names))
        self.entries, self.label_names = _read(videos, names)
        self._labels = _numbers(self.entries, self.label_names, multi_label=multi_label)
        self._options, self._views, self._seed = options, views, int(seed)
        self._cropped, self._multi_label = cropped, multi_label
        self._window = options.training_window(side) if views is None else options.eval_window(side, views.num_crops)
        self._reader = FrameReader(short_side=int(side), max_fps=max_fps, even_sides=even_sides, limits=limits)
        self._settings = repr((options, views, self.label_names, multi_label, side, max_fps, even_sides, cropped, limits))
        self._first_epoch, self._num_epochs, self._is_shuffled = 0, 1, False

    def __len__(self) -> int:
        return len(self.entries) * self._num_epochs

    def __getitem__(self, index: Any) -> dict[str, Any]:
        given, index = index, operator.index(index)
        index += len(self) if index < 0 else 0
        if not 0 <= index < len(self):
            raise IndexError(f"clip {given} of {len(self)}: use epoch() or shuffled() for the clips of more epochs")
        epochs, place = divmod(index, len(self.entries))
        epoch = self._first_epoch + epochs
        number = int(epoch_order(self._seed, epoch, len(self.entries))[place]) if self._is_shuffled else place
        return self._clip(epoch, number)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return map(self.__getitem__, range(len(self)))

    def __repr__(self) -> str:
        """The same for equal sources in all processes, since Grain compares it when a loader is restored."""
        names = [(entry.name, entry.labels, entry.start, entry.end) for entry in self.entries]
        digest = hashlib.blake2b(repr((names, self._settings)).encode(), digest_size=8).hexdigest()
        epochs = f"first_epoch={self._first_epoch}, num_epochs={self._num_epochs}, shuffled={self._is_shuffled}"
        return f"ClipSource(num_videos={len(self.entries)}, seed={self._seed}, {epochs}, digest={digest})"

    def epoch(self, epoch: int) -> "ClipSource":
        """The clips of one epoch, in the order of the videos; `source` itself is epoch 0.

        Raises:
            InputError: If `epoch` is negative.
        """
        return self._of_epochs(epoch, 1, shuffled=False)

    def shuffled(self, num_epochs: int, *, first_epoch: int = 0) -> "ClipSource":
        """The clips of `num_epochs` epochs one after the other, each with every video once, in an order from (seed, epoch).

        A loader reads it from the first index to the last. Clip k is always the same one, so training resumes at any k.

        Raises:
            InputError: If `num_epochs` is less than 1 or `first_epoch` is negative.
        """
        return self._of_epochs(first_epoch, num_epochs, shuffled=True)

    def _of_epochs(self, first: int, count: int, *, shuffled: bool) -> "ClipSource":
        if first < 0 or count < 1:
            raise InputError(f"Epochs begin with 0, and there must be at least one: got {count} from epoch {first} on.")
        other = copy.copy(self)
        other._first_epoch, other._num_epochs, other._is_shuffled = operator.index(first), operator.index(count), shuffled
        return other

    def find_unreadable(self, num_threads: int | None = None) -> dict[str, str]:
        """Decode every video to its end; returns name -> reason for those of which no frame can be used.

        Damaged videos of which some frames can be decoded are used, and logged. Nothing is skipped by itself:
        `source.without(source.find_unreadable())` does that.

        Args:
            num_threads: Videos that are decoded at once; one per core by default.
        """

        def reason(entry: Entry) -> str | None:
            try:
                self._reader.inspect(entry)
            except UnreadableVideoError as error:
                return error.reason
            return None

        with concurrent.futures.ThreadPoolExecutor(num_threads or os.cpu_count()) as pool:
            reasons = list(pool.map(reason, self.entries))
        found = zip(self.entries, reasons, strict=True)
        return {entry.name: reason for entry, reason in found if reason is not None}

    def without(self, names: Collection[str]) -> "ClipSource":
        """The same source without the videos of these names; the labels keep their numbers.

        Raises:
            InputError: If a name is unknown, or no video is left.
        """
        if unknown := set(names) - {entry.name for entry in self.entries}:
            raise InputError(f"There is no video named {sorted(unknown)[0]!r} to leave out.")
        kept = [number for number, entry in enumerate(self.entries) if entry.name not in names]
        if not kept:
            raise InputError(f"No video is left without the {len(names)} given.")
        other = copy.copy(self)
        other.entries, other._labels = [self.entries[number] for number in kept], [self._labels[number] for number in kept]
        return other

    def _clip(self, epoch: int, number: int) -> dict[str, Any]:
        entry = self.entries[number]

        def plan(video: Video) -> Windows:
            if self._views is None:
                random = clip_generator(self._seed, epoch, identity_of(entry.name, part=0))
                views = self._options.training_views(random, video, self._window - 2)
            else:
                views = self._options.eval_views(video, self._views)
            return plan_windows(views, video, self._window)

        video, windows, pixels = self._reader.read(entry, plan)
        seconds = np.array(windows.frames)[windows.which[:, 0]] / video.fps
        arrays = {
            "video": cut_windows(pixels, windows, self._window),
            "rows": windows.rows,
            "columns": windows.columns,
            "seconds": seconds.astype(np.float32),
        }
        if self._cropped:
            arrays["video"] = crop_on_host(arrays["video"], windows.rows, windows.columns)
            whole = np.arange(self._options.crop_size, dtype=np.float32)
            arrays["rows"] = arrays["columns"] = np.tile(whole, (len(seconds), 1))
        if self._views is None and self._options.clips_per_video == 1:
            arrays = {name: np.asarray(array[0]) for name, array in arrays.items()}
        label = encode_label(self._labels[number], len(self.label_names), multi_label=self._multi_label)
        return {**arrays, "label": label, "identity": np.array(identity_of(entry.name)), "name": entry.name}


def _read(
    videos: str | os.PathLike[str] | Sequence[Any], label_names: tuple[str, ...] | None
) -> tuple[list[Entry], tuple[str, ...]]:
    """The videos, each with its own name, and the names of the classes, which may be given."""
    if isinstance(videos, str | os.PathLike):
        entries, notes = entries_of_folder(Path(videos).expanduser())
        if not entries:
            raise InputError(f"No video in {videos}: expected a subfolder per label with its videos. {' '.join(notes)}".strip())
        for note in notes:
            log.warning("%s", note)
        names = tuple(sorted({label for entry in entries for label in entry.labels}))
    else:
        entries, num_classes = entries_of_list(videos)
        if not entries:
            raise InputError("The list of videos is empty.")
        labels = sorted({label for entry in entries for label in entry.labels})
        are_numbers = all(label.isdecimal() for label in labels)
        names = tuple(map(str, range(num_classes)) if num_classes else sorted(labels, key=int) if are_numbers else labels)
        if num_classes and label_names is not None:
            entries = _named(entries, label_names)
    seen: dict[str, Entry] = {}
    for entry in entries:
        if seen.setdefault(entry.name, entry) is not entry:
            raise InputError(f"{entry.name} is listed twice: remove one of the two, or give them names, as Entry(name=...).")
    return entries, names if label_names is None else label_names


def _named(entries: Sequence[Entry], label_names: Sequence[str]) -> list[Entry]:
    """Entries whose labels are numbers, with the names of these."""
    for entry in entries:
        if wrong := [label for label in entry.labels if int(label) >= len(label_names)]:
            raise InputError(f"{entry.name} has the label {wrong[0]}, but there are {len(label_names)} label_names.")
    return [dataclasses.replace(entry, labels=tuple(label_names[int(label)] for label in entry.labels)) for entry in entries]


def _numbers(entries: Sequence[Entry], label_names: Sequence[str], *, multi_label: bool) -> list[tuple[int, ...]]:
    """Each video's classes by their numbers."""
    numbers = {name: number for number, name in enumerate(label_names)}
    if len(numbers) < len(label_names):
        raise InputError(f"label_names must differ from each other, got {', '.join(label_names)}.")
    for entry in entries:
        if unknown := [label for label in entry.labels if label not in numbers]:
            raise InputError(f"{entry.name} has the label {unknown[0]!r}, which label_names lacks.")
        if not multi_label and len(entry.labels) != 1:
            raise InputError(f"{entry.name} must have one label, it has {len(entry.labels)}: pass multi_label=True.")
    return [tuple(numbers[label] for label in entry.labels) for entry in entries]
