"""A model with its weights and everything that goes with them."""

import dataclasses
import functools
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from timesformer_jax._typing import Array, Float
from timesformer_jax.modeling import SCORES, TimeSformer, check_objective
from timesformer_jax.pretrained.load_report import Report
from timesformer_jax.video import Clip, Preprocess
from timesformer_jax.video.limits import DEFAULT_LIMITS, Limits


class Prediction(NamedTuple):
    """One of a video's best labels."""

    label: str
    probability: float


@functools.partial(jax.jit, static_argnums=0)
def _logits(model: TimeSformer, variables: Any, video: Array) -> Array:
    logits: Any = model.apply(variables, video)
    return logits


@dataclasses.dataclass(frozen=True, eq=False)
class Pretrained:
    """`load`'s result: `pretrained(video)` gives logits, `pretrained.predict(path)` the best labels of a video file."""

    model: TimeSformer
    params: Any
    """The model's parameters. `load` gives NumPy arrays, which take no accelerator's memory; `variables` has them placed."""
    preprocess: Preprocess
    """Video file or frames -> what the model expects."""
    labels: tuple[str, ...] | None = None
    """The classes' names, if they are known."""
    report: Report | None = None
    """What became of every tensor when it was loaded."""
    objective: str = "softmax"
    """How logits become probabilities: "softmax" if a video has one label, "sigmoid" if it may have any number."""

    def __post_init__(self) -> None:
        check_objective(self.objective)

    @functools.cached_property
    def variables(self) -> dict[str, Any]:
        """`{"params": params}` for `model.apply(variables, video)`, on JAX's default device from the first use on.

        Parameters that are JAX arrays already stay where they are.
        """
        return {"params": jax.tree.map(jax.device_put, self.params)}

    def __call__(self, video: Float[Array | np.ndarray, "B T H W C"]) -> Float[Array, "B classes"]:
        """Logits of normalised clips; compiled once for every shape."""
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
        """A video's probabilities, averaged over its views (see `Preprocess` for what `video` may be)."""
        views = {"num_clips": num_clips, "num_crops": num_crops, "fps": fps, "limits": limits}
        return self.clip_scores(self.preprocess.clips(video, **views))[0]

    def view_scores(self, views: Float[np.ndarray, "views T H W C"]) -> Float[np.ndarray, "classes"]:
        """Probabilities averaged over views that are prepared already; a few at a time, to need no more memory than those."""
        return self.clip_scores(Clip(number, len(views), 0.0, view[None]) for number, view in enumerate(views))[0]

    def clip_scores(self, clips: Iterable[Clip]) -> tuple[Float[np.ndarray, "classes"], int]:
        """Probabilities averaged over the views of a video's clips, and the number of views.

        Four views at most are computed at a time, and clips taken from the iterator as they are needed.
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
        """The `top_k` best labels of a video file (or of frames uint8 `[frames, H, W, 3]`), best first.

        Decoded, sampled, scaled, cut and normalised as the model was tested; probabilities are averaged over the views, as in
        the paper.
        """
        return self.best(self.scores(video, num_clips=num_clips, num_crops=num_crops, fps=fps, limits=limits), top_k)

    def best(self, scores: Float[np.ndarray, "classes"], top_k: int = 5) -> list[Prediction]:
        """The `top_k` highest scores with their labels (`class 17` where no names are known)."""
        order = np.argsort(-scores, kind="stable")[:top_k]
        return [Prediction(self.label(int(i)), float(scores[i])) for i in order]

    def label(self, number: int) -> str:
        """A class's name."""
        return f"class {number}" if self.labels is None else self.labels[number]
