"""Videos of a report: frames, explanations, scores over time, and features of some of the evaluated videos."""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from experiment.architectures import is_cnn
from experiment.setup import Run
from input_pipeline import WINDOW_AXES, EvalViews, VideoDataset, eval_batches, read_frames
from timesformer_jax import evaluation, explain
from timesformer_jax.errors import InputError
from timesformer_jax.explain.drawing import scaled
from timesformer_jax.features import extract
from timesformer_jax.modeling import variables_of
from timesformer_jax.printable import printable
from timesformer_jax.progress import Progress
from timesformer_jax.spacing import evenly
from timesformer_jax.training import OBJECTIVES
from timesformer_jax.video.sampling import TARGET_FPS
from timesformer_jax.video.views import Video, View

Maps = Callable[[jax.Array, np.ndarray], jax.Array]
"""Function (clips, their best labels) -> maps `[B, T, h, w]`."""

AT_ONCE = 8
"""Number of clips to explain at once."""
MOST_WINDOWS = 24
"""Maximum number of windows of a timeline; those of longer videos are spread evenly."""
TOP_OF_TIMELINE = 3
"""Number of labels in a timeline."""


class Features(NamedTuple):
    """Classifier's inputs of some videos, one clip each."""

    values: np.ndarray
    """Features `[N, D]`."""
    labels: np.ndarray
    """Labels `[N]`, or `[N, classes]` for multi-label videos."""
    names: list[str]
    """Names of the videos."""


class ReportVideos:
    """Reads and explains videos of the evaluated split.

    Args:
        run: The run.
        params: Weights of its model.
        split: Name of the split.
        progress: Counts the videos.
    """

    def __init__(self, run: Run, params: Any, split: str, progress: Progress):
        self._run, self._params, self._split, self._progress = run, params, split, progress
        self._centre = dataclasses.replace(run.data.clips, placement="centre")

    def find(self, names: Sequence[str]) -> dict[str, list[int]]:
        """Indices of the records of these videos in the split; long videos have several, in order."""
        found: dict[str, list[int]] = {name: [] for name in names}
        for number, name in enumerate(self._run.data.dataset.facts(self._split, "name")):
            if name in found:
                found[name].append(number)
        if missing := [name for name, numbers in found.items() if not numbers]:
            raise InputError(
                f"{len(missing)} evaluated video(s), such as {printable(missing[0])}, are not in the data set of this config: "
                "give the data that were evaluated, or evaluate again (--mode=eval)."
            )
        return found

    def pictures(self, records: Mapping[str, Sequence[int]]) -> dict[str, np.ndarray]:
        """Map videos to the middle frame of each."""
        found = {}
        for name, numbers in records.items():
            found[name] = read_frames(self._run.data.dataset, self._split, numbers[0], self._middle_frame).frames[0]
            self._progress.update()
        return found

    def shown(self, rows: Sequence[evaluation.Row], records: Mapping[str, Sequence[int]]) -> list[evaluation.ShownVideo]:
        """Return the videos of these rows with the frames and maps of a clip from their middle, and their scores over time."""
        if not rows:
            return []
        index = {name: i for i, name in enumerate(self._run.data.label_names)}
        best = np.array([index[row["best"][0][0]] for row in rows], np.int32)
        explained, done = self._explanation(), 0
        maps: list[np.ndarray] = []
        for batch, clips in self._clips([records[row["video"]][0] for row in rows], AT_ONCE):
            labels = np.zeros(len(clips), np.int32)
            real = int(batch["mask"].sum())
            labels[:real] = best[done : done + real]
            maps += [scaled(each) for each in np.asarray(explained(clips, labels), np.float32)[:real]]
            done += real
        found = []
        for row, each in zip(rows, maps, strict=True):
            numbers = records[row["video"]]
            stored = read_frames(self._run.data.dataset, self._split, numbers[0], self._centre_clip)
            found.append(
                evaluation.ShownVideo(
                    name=row["video"],
                    labels=evaluation.labels_of(row),
                    best=[(label, score) for label, score in row["best"]],
                    frames=stored.frames,
                    maps=each,
                    area=stored.area,
                    timeline=self._timeline(numbers, [label for label, _ in row["best"][:TOP_OF_TIMELINE]], index),
                )
            )
            self._progress.update()
        return found

    def features(self, numbers: Sequence[int]) -> Features:
        """Extract the classifier's input of one clip of each of these records."""
        cls = jax.jit(functools.partial(extract, self._run.model.module, kind="cls"))
        values, labels, names = [], [], []
        for batch, clips in self._clips(numbers, self._run.config.eval.batch_size):
            real = int(batch["mask"].sum())
            values.append(np.asarray(cls(self._params, clips), np.float32)[:real])
            labels.append(batch["label"][:real])
            names += [name.decode(errors="replace") for name in batch["name"][:real]]
            self._progress.update(real)
        return Features(np.concatenate(values), np.concatenate(labels), names)

    def _clips(
        self, numbers: Sequence[int], at_once: int, views: EvalViews | None = None, **options: Any
    ) -> Iterator[tuple[dict[str, np.ndarray], jax.Array]]:
        """Yield batches of clips of these records, by default one from the middle of each, and the model's input."""
        run = self._run
        chosen: VideoDataset = dataclasses.replace(run.data.dataset, chosen=(self._split, tuple(numbers)))
        clips = dataclasses.replace(self._centre, **options)
        for batch in eval_batches(chosen, self._split, clips, batch_size=at_once, views=views or EvalViews(), shard=(0, 1)):
            windows = {name: jax.numpy.asarray(batch[name]) for name in WINDOW_AXES}
            yield batch, run.model.prepare_eval(windows)

    def _centre_clip(self, video: Video) -> View:
        return self._centre.eval_views(video, EvalViews())[0]

    def _middle_frame(self, video: Video) -> View:
        view = self._centre_clip(video)
        return view._replace(frames=view.frames[len(view.frames) // 2 :][:1])

    def _explanation(self) -> Maps:
        """Attention rollout, or Grad-CAM of the best label for a convolutional network, which has no attention."""
        module, params = self._run.model.module, self._params
        if is_cnn(self._run.config):
            return lambda clips, labels: explain.grad_cam(module, variables_of(params), clips, labels)
        return lambda clips, labels: explain.attention_rollout(module, params, clips)

    @functools.cached_property
    def _scores(self) -> Callable[[Any, jax.Array], jax.Array]:
        module, scores = self._run.model.module, OBJECTIVES[self._run.model.objective].scores

        def of_clips(params: Any, clips: jax.Array) -> jax.Array:
            logits: Any = module.apply(variables_of(params), clips)
            return scores(logits)

        return jax.jit(of_clips)

    def _timeline(self, numbers: Sequence[int], labels: Sequence[str], index: Mapping[str, int]) -> evaluation.Timeline | None:
        """Score the windows of a video; None if it is no longer than a clip."""
        clips, dataset = self._centre, self._run.data.dataset
        frames, rates = (dataset.facts(self._split, name)[list(numbers)] for name in ("num_frames", "fps"))
        seconds = float((frames / rates).sum())
        windows = num_windows(seconds, clips.num_frames * clips.sampling_rate / TARGET_FPS)
        if clips.sampling != "uniform" or windows < 2:
            return None
        starts, scores = [], []
        many = windows > MOST_WINDOWS
        # Of a video in more parts than that, some are skipped.
        numbers = [numbers[place] for place in evenly(len(numbers), MOST_WINDOWS)]
        per_record = EvalViews(num_clips=math.ceil(MOST_WINDOWS / len(numbers))) if many else EvalViews()
        for batch, prepared in self._clips(numbers, AT_ONCE, per_record, placement="dense" if many else "tiled"):
            real = int(batch["mask"].sum())
            starts += batch["seconds"][:real, 0].tolist()
            scores.append(np.asarray(self._scores(self._params, prepared), np.float32)[:real])
        columns = [index[label] for label in labels]
        return evaluation.Timeline(starts, max(seconds, starts[-1]), labels, np.concatenate(scores)[:, columns])


def num_windows(seconds: float, span: float) -> int:
    """Number of clips that cover a video; a remainder of less than half a clip doesn't count."""
    return max(math.floor(seconds / span + 0.5), 1)
