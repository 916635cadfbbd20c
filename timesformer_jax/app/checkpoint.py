"""A loaded checkpoint, and what the page asks of it: from a video file to labels, frames, maps and a timeline."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from timesformer_jax._typing import Float, UInt8, ndarray
from timesformer_jax.cnn3d import ConvNet
from timesformer_jax.errors import InputError
from timesformer_jax.explain import MappedClip, attention_rollout, class_relevance, grad_cam
from timesformer_jax.pretrained import Prediction, Pretrained, WindowScores
from timesformer_jax.video import Clip, Limits, clip_at, open_video

MOST_WINDOWS = 60
"""Maximum number of windows of a timeline: in longer videos they are further apart."""
LONGER = 1.25
"""A video has several moments to look at if it is more than this many times as long as a clip."""
METHODS = {"relevance": "Relevance for a label", "rollout": "Attention rollout"}
"""Maps a method of explanation to its title."""


@dataclasses.dataclass(frozen=True, eq=False)
class Seen:
    """The clip of a video that a model saw, and what it made of it.

    Attributes:
        clip: The clip, with its times and its only crop.
        scores: One probability per class.
        moment: Second at which the clip was asked to begin; None for that of the model's evaluation.
    """

    clip: Clip
    scores: Float[ndarray, "classes"]
    moment: float | None = None


class Moments(NamedTuple):
    """Where in a long video a model can look.

    Attributes:
        window: Seconds that a clip covers.
        stride: Seconds between windows of the timeline.
        latest: Latest second at which a clip can begin.
    """

    window: float
    stride: float
    latest: float


@dataclasses.dataclass(frozen=True, eq=False)
class Checkpoint:
    """A model with its weights under the name that the page shows.

    Attributes:
        name: Name of the checkpoint, unique on the page.
        pretrained: The loaded model; it has a classifier.
    """

    name: str
    pretrained: Pretrained

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of all classes, in order."""
        return tuple(self.pretrained.label(number) for number in range(self.pretrained.model.num_classes))

    @property
    def about(self) -> str:
        """The model in a few words."""
        model, sizes = self.pretrained.model, self.pretrained.preprocess
        kind = type(model).__name__
        if not isinstance(model, ConvNet):
            kind += f", {model.attention_type.replace('_', ' ')}"
        return f"{kind}, {sizes.num_frames} frames of {sizes.crop_size} pixels, {model.num_classes} labels"

    @property
    def methods(self) -> Sequence[str]:
        """Methods of explanation that the model supports."""
        return ("relevance",) if isinstance(self.pretrained.model, ConvNet) else tuple(METHODS)

    def see(self, video: Path, limits: Limits, moment: float | None = None) -> Seen:
        """Predict the labels of one clip of a video, cropped at the centre.

        Args:
            video: The video.
            limits: Largest video to accept.
            moment: Second at which the clip begins; None for the clip of the model's evaluation.

        Raises:
            InputError: If `moment` is after the end of the video.
            UnreadableVideoError: If no frame of the file can be decoded, or if it exceeds the limits.
        """
        preprocess = self.pretrained.preprocess
        if preprocess.placement == "tiled":  # whose clips cover the video
            preprocess = dataclasses.replace(preprocess, placement="official")
        if moment is None:
            # The last one counts: an earlier one was chosen before the number of frames was known.
            *_, clip = preprocess.clips(video, num_clips=1, num_crops=1, limits=limits)
        else:
            clip = clip_at(preprocess, video, moment, limits=limits)
        return Seen(clip, self.pretrained.view_scores(clip.views), moment)

    def best(self, seen: Seen, count: int) -> list[Prediction]:
        """Return the best labels, best first."""
        return self.pretrained.best(seen.scores, count)

    def number(self, label: str | None, seen: Seen) -> int:
        """Return the number of a label, or of the best one if `label` is None; raises `InputError` for an unknown label."""
        if label is None:
            return int(seen.scores.argmax())
        if label not in self.labels:
            raise InputError(f"{self.name} doesn't know the label {label!r}: choose one that it knows.")
        return self.labels.index(label)

    def frames(self, seen: Seen) -> UInt8[ndarray, "T S S 3"]:
        """Return the frames that the model saw, as RGB images."""
        return self.pretrained.preprocess.pictures(seen.clip.views[0])

    def maps(self, seen: Seen, number: int, method: str) -> MappedClip:
        """Compute how much each place of each frame matters for class `number`; "rollout" is the same for all.

        Raises:
            InputError: If the model doesn't support the method.
        """
        model, variables, clip = self.pretrained.model, self.pretrained.variables, jnp.asarray(seen.clip.views)
        if method not in self.methods:
            raise InputError(f"{self.name} has no attention to roll out: choose {METHODS['relevance'].lower()}.")
        if method == "rollout":
            found = attention_rollout(model, variables["params"], clip)
        elif isinstance(model, ConvNet):
            found = grad_cam(model, variables, clip, np.array([number]))
        else:
            found = class_relevance(model, variables["params"], clip, np.array([number]))
        return MappedClip(seen.clip.times, np.asarray(found[0]), seen.clip.boxes[0])

    def moments(self, video: Path, limits: Limits) -> Moments | None:
        """Return where in a video the model can look; None for a video that is hardly longer than a clip."""
        window = self.pretrained.preprocess.window_seconds
        with open_video(video, limits=limits) as source:
            seconds = source.seconds or source.count_packets() / source.fps
        if seconds <= LONGER * window:
            return None
        return Moments(window, max(window / 2, seconds / MOST_WINDOWS), seconds - window)

    def follow(self, video: Path, stride: float, limits: Limits, progress: Callable[[float], None]) -> WindowScores:
        """Predict the labels of windows of a video, cropped at the centre, that begin `stride` seconds apart."""
        return self.pretrained.window_scores(video, stride=stride, limits=limits, progress=progress)


def distinct_names(sources: Sequence[str]) -> list[str]:
    """Return a short name for each source of weights: as many of its last parts as the others differ in."""
    parts = [Path(source).parts or (source,) for source in sources]
    names = []
    for number, those in enumerate(parts):
        for count in range(1, len(those) + 1):
            name = "/".join(those[-count:])
            if all(other == number or others[-count:] != those[-count:] for other, others in enumerate(parts)):
                break
        else:
            name = f"{sources[number]} ({number + 1})"
        names.append(name)
    return names
