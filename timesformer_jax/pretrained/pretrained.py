"""`Pretrained`: a model with its weights, preprocessing, labels and load report."""

import dataclasses
import functools
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from timesformer_jax._typing import Array, Float
from timesformer_jax.modeling import SCORES, check_objective
from timesformer_jax.pretrained.load_report import Report
from timesformer_jax.pretrained.window_scores import WindowScores, score_windows
from timesformer_jax.video import Clip, Preprocess
from timesformer_jax.video.limits import DEFAULT_LIMITS, Limits


class Prediction(NamedTuple):
    """A predicted label of a video."""

    label: str
    """Name of the class, or `class 17` if names are unknown."""
    probability: float
    """Probability, averaged over the video's views."""


@functools.partial(jax.jit, static_argnums=0)
def _logits(model: Any, variables: Any, video: Array) -> Array:
    logits: Any = model.apply(variables, video)
    return logits


@dataclasses.dataclass(frozen=True, eq=False)
class Pretrained:
    """A loaded model: `pretrained(video)` returns logits, and `pretrained.predict(path)` the best labels of a video file."""

    model: Any
    """The model, a Flax module: a `TimeSformer`, `I3D` or `SlowFast`."""
    params: Any
    """Parameters of the model. `load` returns NumPy arrays, which use no accelerator memory; `variables` are on the device."""
    preprocess: Preprocess
    """Converts a video file, or its frames, to the model's input."""
    labels: tuple[str, ...] | None = None
    """Names of the classes; None if unknown."""
    report: Report | None = None
    """Report of the load; None for models that weren't loaded."""
    objective: str = "softmax"
    """Conversion of logits to probabilities: "softmax" for one label per video, "sigmoid" for multi-label models."""
    batch_stats: Any = None
    """Statistics of BatchNorm, for `I3D` and `SlowFast`; None for models without BatchNorm."""

    def __post_init__(self) -> None:
        check_objective(self.objective)

    @functools.cached_property
    def variables(self) -> dict[str, Any]:
        """`{"params": params}` for `model.apply(variables, video)`, placed on JAX's default device on first use.

        Has `batch_stats` too if there are any. Parameters that are already JAX arrays stay where they are.
        """
        trees = {"params": self.params, "batch_stats": self.batch_stats}
        return {name: jax.tree.map(jax.device_put, tree) for name, tree in trees.items() if tree is not None}

    def __call__(self, video: Float[Array | np.ndarray, "B T H W C"]) -> Float[Array, "B classes"]:
        """Compute the logits of normalised clips; compiled once per shape."""
        return _logits(self.model, self.variables, jnp.asarray(video))

    def scores(
        self,
        video: str | Path | Any,
        *,
        num_clips: int = 1,
        num_crops: int = 3,
        fps: float = 30.0,
        limits: Limits = DEFAULT_LIMITS,
    ) -> Float[np.ndarray, "classes"]:
        """Compute the probabilities of a video, averaged over its views.

        Args:
            video: A video file, or its frames as uint8 `[frames, H, W, 3]`.
            num_clips: Number of clips spread over the video.
            num_crops: Crops per clip: 3 along the long side, or 1 in the centre.
            fps: Frame rate of a video given as frames.
            limits: Largest video to accept.

        Returns:
            One probability per class.
        """
        views = {"num_clips": num_clips, "num_crops": num_crops, "fps": fps, "limits": limits}
        return self.clip_scores(self.preprocess.clips(video, **views))[0]

    def view_scores(self, views: Float[np.ndarray, "views T H W C"]) -> Float[np.ndarray, "classes"]:
        """Compute the probabilities averaged over prepared views, a few views at a time to limit memory."""
        return self.clip_scores(Clip(number, len(views), 0.0, view[None]) for number, view in enumerate(views))[0]

    def clip_scores(self, clips: Iterable[Clip]) -> tuple[Float[np.ndarray, "classes"], int]:
        """Compute the probabilities averaged over the views of a video's clips, and return them with the number of views.

        At most four views are computed at a time, and clips are taken from the iterator as needed.
        """
        found: list[np.ndarray] = []
        waiting: list[np.ndarray] = []
        running: Array | None = None
        for clip in clips:
            if not clip.number:
                found, waiting, running = [], [], None
            num_views = clip.num_clips * len(clip.views)
            at_once = max(count for count in range(1, 5) if num_views % count == 0)
            waiting.extend(clip.views)
            while len(waiting) >= at_once:
                scores = SCORES[self.objective](self(np.stack(waiting[:at_once])))
                waiting = waiting[at_once:]
                if running is not None:
                    found.append(np.asarray(running))
                running = scores
        assert running is not None
        found.append(np.asarray(running))
        scores = np.concatenate(found)
        return scores.mean(axis=0), len(scores)

    def window_scores(
        self,
        video: str | Path,
        *,
        window: float | None = None,
        stride: float | None = None,
        num_crops: int = 1,
        limits: Limits = DEFAULT_LIMITS,
        progress: Callable[[float], object] | None = None,
    ) -> WindowScores:
        """Compute the probabilities of overlapping windows of a video, to see what happens when.

        The video is decoded once. Frames of one window and views of one batch are in memory, however long it is.

        Args:
            video: A video file or a folder of images.
            window: Length of a window in seconds; by default what a clip of the model covers.
            stride: Seconds from one window to the next, half a window by default.
            num_crops: Crops per window: 3 along the long side, or 1 in the centre.
            limits: Largest video to accept.
            progress: Called now and then with the share that is done. An exception that it raises ends the computation.

        Returns:
            Start, end and probabilities of each window.
        """
        windows = self.preprocess.windows(video, window=window, stride=stride, num_crops=num_crops, limits=limits)
        return score_windows(windows, lambda views: SCORES[self.objective](self(views)), progress)

    def predict(
        self,
        video: str | Path | Any,
        *,
        top_k: int = 5,
        num_clips: int = 1,
        num_crops: int = 3,
        fps: float = 30.0,
        limits: Limits = DEFAULT_LIMITS,
    ) -> list[Prediction]:
        """Predict the best labels of a video, best first.

        The video is decoded, sampled, scaled, cropped and normalised as in the model's evaluation. Probabilities are averaged
        over the views, as in the paper.

        Args:
            video: A video file, or its frames as uint8 `[frames, H, W, 3]`.
            top_k: Number of labels to return.
            num_clips: Number of clips spread over the video.
            num_crops: Crops per clip: 3 along the long side, or 1 in the centre.
            fps: Frame rate of a video given as frames.
            limits: Largest video to accept.

        Returns:
            The `top_k` labels with their probabilities.
        """
        return self.best(self.scores(video, num_clips=num_clips, num_crops=num_crops, fps=fps, limits=limits), top_k)

    def best(self, scores: Float[np.ndarray, "classes"], top_k: int = 5) -> list[Prediction]:
        """Return the `top_k` highest scores with their labels (`class 17` if names are unknown)."""
        order = np.argsort(-scores, kind="stable")[:top_k]
        return [Prediction(self.label(int(i)), float(scores[i])) for i in order]

    def label(self, number: int) -> str:
        """Return the name of a class."""
        return f"class {number}" if self.labels is None else self.labels[number]
