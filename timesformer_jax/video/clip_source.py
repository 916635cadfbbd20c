"""Random access to clips of video files for any data loader, without TensorFlow or prepared data."""

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

from timesformer_jax.checks import check_whole
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

    * `video`: uint8 `[T, R, R, 3]`, a window of the frames that contains the crop;
    * `rows`, `columns`: float32 `[S]`, the positions of the crop's pixels in the window;
    * `label`: int32 `[]`, or float32 `[classes]` of zeros and ones if `multi_label`;
    * `seconds`: float32 `[]`, the time at which the clip begins in its video;
    * `identity`: int64 `[]`, a hash of the name;
    * `name`: `str`.

    `timesformer_jax.augment.prepare_training` and `prepare_eval` crop, augment and normalize a batch of clips on the device.
    With `cropped`, `video` is the crop itself, rounded to uint8 `[T, S, S, 3]`, which those functions accept as well. In
    evaluation (`views`), and in training with `clips_per_video` above 1, an item holds several clips: `video`, `rows`,
    `columns` and `seconds` then have a leading axis over them. In evaluation the crops of each clip are adjacent on that axis.

    A training clip is a function of (seed, epoch, video name) and depends neither on the number of workers nor on the reading
    order. `source` is epoch 0, `source.epoch(3)` is epoch 3, and `source.shuffled(num_epochs=30)` has the clips of 30 epochs,
    each in its own order. An index out of range raises `IndexError` instead of continuing with the next epoch.

    The trainer (`input_pipeline`) produces the same clips for the same names, seed, epoch and settings: the same frames,
    windows and positions, and the same pixels up to JPEG or H.264 compression loss. There are two differences. The trainer
    splits videos longer than `data.part_seconds`, and it excludes every damaged frame of a video, whereas a source excludes
    damaged frames only from clips whose decoding encounters them.

    A source can be pickled and shared between threads. Each access opens one file.

    Args:
        videos: A folder with a subfolder per label, or a sequence of (path, label) pairs or of `Entry`s, such as a split of
            `timesformer_jax.datasets.read_video_folder`, which uses the trainer's names. A label is a class name or a class
            number. A video is named by its path relative to the folder, or, in a pair, by its path as given.
        options: Sampling and cropping of the clips.
        seed: Seed of the training clips and of the order of epochs, at least 0.
        views: Views of each video in evaluation; None for training clips.
        label_names: Class names in order; by default the sorted labels of the videos (numbers in a list sort by value).
        multi_label: Whether a video may have any number of labels; pairs are then (path, labels).
        short_side: First shrink frames whose short side exceeds this many pixels; `options.short_side[0]` by default, as in the
            trainer (`data.short_side`).
        max_fps: Thin out videos with a higher frame rate to this rate (`data.max_fps`).
        even_sides: Round the frames' sides down to even numbers, as the trainer does for its "h264" storage.
        cropped: Crop and scale on the host.
        limits: Largest frame, duration and file size to accept.

    Attributes:
        label_names: Class names in order.
        entries: The videos in order.

    Raises:
        InputError: If the videos or labels can't be used.
        UnreadableVideoError: On access, naming the file, if none of its frames can be decoded. `find_unreadable` lists all
            such files.
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
            check_whole(name, value, least=least)
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
        """Describe the source; equal sources have equal text in all processes, which Grain compares on restoring a loader."""
        names = [(entry.name, entry.labels, entry.start, entry.end) for entry in self.entries]
        digest = hashlib.blake2b(repr((names, self._settings)).encode(), digest_size=8).hexdigest()
        epochs = f"first_epoch={self._first_epoch}, num_epochs={self._num_epochs}, shuffled={self._is_shuffled}"
        return f"ClipSource(num_videos={len(self.entries)}, seed={self._seed}, {epochs}, digest={digest})"

    def epoch(self, epoch: int) -> "ClipSource":
        """Return a source of one epoch's clips, in the order of the videos; `source` itself is epoch 0.

        Raises:
            InputError: If `epoch` is negative.
        """
        return self._of_epochs(epoch, 1, shuffled=False)

    def shuffled(self, num_epochs: int, *, first_epoch: int = 0) -> "ClipSource":
        """Return a source of `num_epochs` consecutive epochs, each with every video once, in an order given by (seed, epoch).

        A loader reads it from the first index to the last. Item k is always the same clip, so training can resume at any k.

        Raises:
            InputError: If `num_epochs` is less than 1 or `first_epoch` is negative.
        """
        return self._of_epochs(first_epoch, num_epochs, shuffled=True)

    def _of_epochs(self, first: int, count: int, *, shuffled: bool) -> "ClipSource":
        if first < 0 or count < 1:
            raise InputError(f"Epochs begin with 0, and there must be at least one: got {count} starting at epoch {first}.")
        other = copy.copy(self)
        other._first_epoch, other._num_epochs, other._is_shuffled = operator.index(first), operator.index(count), shuffled
        return other

    def find_unreadable(self, num_threads: int | None = None) -> dict[str, str]:
        """Decode every video to its end to find those without a usable frame.

        Damaged videos with some decodable frames remain usable and are logged. Unreadable videos are not skipped automatically:
        pass the result to `without` to exclude them.

        Args:
            num_threads: Number of videos to decode at once; one per core by default.

        Returns:
            A dict from the name of each unreadable video to the reason.
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
        """Return the same source without the videos of these names; the labels keep their numbers.

        Raises:
            InputError: If a name is unknown, or no video is left.
        """
        if unknown := set(names) - {entry.name for entry in self.entries}:
            raise InputError(f"There is no video named {sorted(unknown)[0]!r} to exclude.")
        kept = [number for number, entry in enumerate(self.entries) if entry.name not in names]
        if not kept:
            raise InputError(f"Excluding the {len(names)} given videos leaves none.")
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
            size = self._options.crop_size if self._views is None else self._options.eval_crop
            whole = np.arange(size, dtype=np.float32)
            arrays["rows"] = arrays["columns"] = np.tile(whole, (len(seconds), 1))
        if self._views is None and self._options.clips_per_video == 1:
            arrays = {name: np.asarray(array[0]) for name, array in arrays.items()}
        label = encode_label(self._labels[number], len(self.label_names), multi_label=self._multi_label)
        return {**arrays, "label": label, "identity": np.array(identity_of(entry.name)), "name": entry.name}


def _read(
    videos: str | os.PathLike[str] | Sequence[Any], label_names: tuple[str, ...] | None
) -> tuple[list[Entry], tuple[str, ...]]:
    """Return the videos, which have distinct names, and the class names: `label_names` if given, else those of the videos."""
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
    """Replace the class numbers in the entries' labels with class names."""
    for entry in entries:
        if wrong := [label for label in entry.labels if int(label) >= len(label_names)]:
            raise InputError(f"{entry.name} has the label {wrong[0]}, but there are {len(label_names)} label_names.")
    return [dataclasses.replace(entry, labels=tuple(label_names[int(label)] for label in entry.labels)) for entry in entries]


def _numbers(entries: Sequence[Entry], label_names: Sequence[str], *, multi_label: bool) -> list[tuple[int, ...]]:
    """Convert each video's labels to class numbers."""
    numbers = {name: number for number, name in enumerate(label_names)}
    if len(numbers) < len(label_names):
        raise InputError(f"label_names must be unique, got {', '.join(label_names)}.")
    for entry in entries:
        if unknown := [label for label in entry.labels if label not in numbers]:
            raise InputError(f"{entry.name} has the label {unknown[0]!r}, which is not in label_names.")
        if not multi_label and len(entry.labels) != 1:
            raise InputError(f"{entry.name} has {len(entry.labels)} labels instead of one: pass multi_label=True.")
    return [tuple(numbers[label] for label in entry.labels) for entry in entries]
