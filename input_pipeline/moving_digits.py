"""`moving_digits`: handwritten digits that move over textured backgrounds; nothing is downloaded.

Each clip has two labels: the digit, which any frame shows, and one of eight motions. A motion and its reversal have the same
frames in opposite order, so neither a single frame nor the unordered set of frames determines the motion. A model that ignores
the order can distinguish the four axes but not the two directions along each, and is right at most half of the time.

Two other scenes are harder, so that models differ. "clutter" shows a digit among static fragments of others, and its label
`sign` is the digit with its colour, which any frame shows. "shaky" shows the motions above, at various speeds and with random
displacements along the axis, so that the direction shows only in several frames together.
"""

import dataclasses
from collections.abc import Iterator
from typing import ClassVar

import numpy as np

from input_pipeline._tensorflow import LocalInfo, tf, tfds
from timesformer_jax.datasets.digit_scenes import SCENES
from timesformer_jax.datasets.drawn_digits import FRAME_SIZE, MOTIONS, NUM_FRAMES, digit_boxes, draw_clip

__all__ = [
    "FRAME_SIZE",
    "MOTIONS",
    "NUM_FRAMES",
    "SCENES",
    "MovingDigits",
    "MovingDigitsConfig",
    "clip_name",
    "digit_boxes",
    "draw_clip",
]

FPS = 30.0


def clip_name(split: str, index: int) -> str:
    """Return the name of clip `index` of a split."""
    return f"{split}-{index:05d}"


@dataclasses.dataclass(kw_only=True)
class MovingDigitsConfig(tfds.core.BuilderConfig):
    """Size of the data set.

    Attributes:
        name: Name of the config, derived from the other fields.
        train_clips: Clips of the split "train".
        val_clips: Clips of the split "val".
        num_frames: Frames of each clip, taken from its middle. Must be even, so that a motion and its reversal still have the
            same frames.
        scene: What the clips show, a key of `SCENES`.
    """

    name: str = ""
    scene: str = "motion"
    train_clips: int = 12_000
    val_clips: int = 1_000
    num_frames: int = NUM_FRAMES

    def __post_init__(self) -> None:
        fewer = "" if self.num_frames == NUM_FRAMES else f"_{self.num_frames}_frames"
        scene = "" if self.scene == "motion" else f"{self.scene}_"
        self.name = f"{scene}{self.train_clips}_{self.val_clips}{fewer}"

    @property
    def middle(self) -> slice:
        """Frames to keep."""
        first = (NUM_FRAMES - self.num_frames) // 2
        return slice(first, first + self.num_frames)


class MovingDigits(tfds.core.GeneratorBasedBuilder):
    """TFDS builder of `moving_digits`: `video` (JPEG frames), the scene's labels, `fps`, `height`, `width` and `name`."""

    VERSION = tfds.core.Version("1.1.0")
    RELEASE_NOTES: ClassVar = {"1.1.0": "Sizes are features."}
    builder_config: MovingDigitsConfig
    BUILDER_CONFIGS = [MovingDigitsConfig()]  # noqa: RUF012  (TFDS's own convention)

    def _info(self) -> tfds.core.DatasetInfo:
        return LocalInfo(
            builder=self,
            description=__doc__,
            features=tfds.features.FeaturesDict(
                {
                    "video": tfds.features.Video(
                        (self.builder_config.num_frames, FRAME_SIZE, FRAME_SIZE, 3), encoding_format="jpeg"
                    ),
                    **{
                        label: tfds.features.ClassLabel(names=list(names))
                        for label, names in SCENES[self.builder_config.scene].labels.items()
                    },
                    "fps": np.float32,
                    "height": np.int32,
                    "width": np.int32,
                    "name": tfds.features.Text(),
                }
            ),
            homepage="https://scikit-learn.org/stable/datasets/toy_dataset.html#digits-dataset",
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
        config = self.builder_config
        return {
            "train": self._generate_examples("train", config.train_clips, config.middle),
            "val": self._generate_examples("val", config.val_clips, config.middle),
        }

    def _generate_examples(self, split: str, num_clips: int, middle: slice) -> Iterator[tuple[int, dict]]:
        size = {"height": FRAME_SIZE, "width": FRAME_SIZE}
        for index in range(num_clips):
            frames, labels = SCENES[self.builder_config.scene].draw(split, index)
            jpegs = [tf.io.encode_jpeg(frame, quality=95).numpy() for frame in frames[middle]]
            yield index, {"video": jpegs, **labels, "fps": FPS, **size, "name": clip_name(split, index)}
