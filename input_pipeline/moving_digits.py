"""`moving_digits`: handwritten digits that move over textured backgrounds; nothing is downloaded.

Each clip has two labels: the digit, which any frame shows, and one of eight motions. A motion and its reversal have the same
frames in opposite order, so neither a single frame nor the unordered set of frames determines the motion. A model that ignores
the order can distinguish the four axes but not the two directions along each, and is right at most half of the time.
"""

import dataclasses
from collections.abc import Iterator
from functools import cache
from typing import ClassVar, NamedTuple

import numpy as np

from input_pipeline._tensorflow import LocalInfo, tf, tfds
from timesformer_jax._typing import Int, ndarray
from timesformer_jax.extras import MissingPackageError

FRAME_SIZE, DIGIT_SIZE, NUM_FRAMES = 32, 16, 8
VISIBLE = 0.2
"""Opacity above which a pixel belongs to the digit's box."""
NUM_VALIDATION_DIGITS = 360
"""Images reserved for validation clips: the last 360 of scikit-learn's 1,797."""

MOTIONS: dict[str, tuple[tuple[int, int], bool]] = {
    "right": ((0, 1), False),
    "left": ((0, 1), True),
    "down": ((1, 0), False),
    "up": ((1, 0), True),
    "down_right": ((1, 1), False),
    "up_left": ((1, 1), True),
    "down_left": ((1, -1), False),
    "up_right": ((1, -1), True),
}
"""Maps each motion to its axis as (rows, columns), and whether the clip is played backwards."""

_SEEDS = {"train": 0, "val": 1}


@cache
def _digits() -> tuple[np.ndarray, np.ndarray]:
    """Load scikit-learn's digits, enlarged to `[1797, DIGIT_SIZE, DIGIT_SIZE]` opacities in [0, 1], and their labels."""
    from scipy.ndimage import zoom

    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise MissingPackageError("sklearn", "The data set moving_digits") from error

    pixels, labels = load_digits(return_X_y=True)
    images = np.asarray(pixels).reshape(-1, 8, 8) / 16.0
    factor = DIGIT_SIZE / 8
    enlarged = np.asarray(zoom(images, (1, factor, factor), order=1, grid_mode=True, mode="nearest"))
    return enlarged.clip(0, 1), np.asarray(labels)


def _texture(random: np.random.Generator) -> np.ndarray:
    """Draw a coloured background `[FRAME_SIZE, FRAME_SIZE, 3]`, 0 to about 0.6: three waves of random direction and pitch."""
    rows, columns = np.mgrid[:FRAME_SIZE, :FRAME_SIZE] / FRAME_SIZE
    waves = np.zeros((FRAME_SIZE, FRAME_SIZE, 3))
    for _ in range(3):
        angle, pitch, phase = random.uniform(0, 2 * np.pi), random.uniform(2, 8), random.uniform(0, 2 * np.pi)
        wave = np.sin(2 * np.pi * pitch * (np.cos(angle) * rows + np.sin(angle) * columns) + phase)
        waves += wave[..., None] * random.uniform(0.0, 0.08, 3)
    return (random.uniform(0.1, 0.4, 3) + waves).clip(0, 1)


class _Clip(NamedTuple):
    frames: np.ndarray
    digit: int
    motion: str
    boxes: np.ndarray


def draw_clip(split: str, index: int) -> tuple[np.ndarray, int, str]:
    """Draw clip `index` of a split: frames uint8 `[T, H, W, 3]`, digit and motion. Deterministic in its arguments."""
    return _draw(split, index)[:3]


def digit_boxes(split: str, index: int) -> Int[ndarray, "T 4"]:
    """Return the box of the digit in each frame of clip `index`: (top, left, bottom, right) in pixels."""
    return _draw(split, index).boxes


def _draw(split: str, index: int) -> _Clip:
    random = np.random.default_rng([_SEEDS[split], index])
    images, labels = _digits()
    first_val = len(images) - NUM_VALIDATION_DIGITS
    which = random.integers(first_val) if split == "train" else random.integers(first_val, len(images))
    motion = list(MOTIONS)[index % len(MOTIONS)]
    axis, backwards = MOTIONS[motion]

    background = _texture(random)
    colour = random.uniform(0.7, 1.0, 3)
    centre = (FRAME_SIZE - DIGIT_SIZE) / 2 + random.uniform(-1, 1, 2)
    reach = random.uniform(0.75, 0.9) * (FRAME_SIZE - DIGIT_SIZE) / 2
    frames = np.empty((NUM_FRAMES, FRAME_SIZE, FRAME_SIZE, 3), np.uint8)
    rows, columns = (np.flatnonzero(images[which].max(axis=axis) > VISIBLE)[[0, -1]] + [0, 1] for axis in (1, 0))
    boxes = np.empty((NUM_FRAMES, 4), np.int64)
    for time, frame in enumerate(frames):
        place = centre + np.array(axis) * reach * (2 * time / (NUM_FRAMES - 1) - 1)
        top, left = np.rint(place).astype(int).clip(0, FRAME_SIZE - DIGIT_SIZE)
        picture = background.copy()
        opacity = images[which][..., None]
        window = picture[top : top + DIGIT_SIZE, left : left + DIGIT_SIZE]
        window[:] = (1 - opacity) * window + opacity * colour
        frame[:] = np.rint(picture * 255)
        boxes[time] = top + rows[0], left + columns[0], top + rows[1], left + columns[1]
    order = slice(None, None, -1 if backwards else 1)
    return _Clip(frames[order], int(labels[which]), motion, boxes[order])


@dataclasses.dataclass(kw_only=True)
class MovingDigitsConfig(tfds.core.BuilderConfig):
    """Size of the data set.

    Attributes:
        name: Name of the config, derived from the other fields.
        train_clips: Clips of the split "train".
        val_clips: Clips of the split "val".
        num_frames: Frames of each clip, taken from its middle. Must be even, so that a motion and its reversal still have the
            same frames.
    """

    name: str = ""
    train_clips: int = 12_000
    val_clips: int = 1_000
    num_frames: int = NUM_FRAMES

    def __post_init__(self) -> None:
        fewer = "" if self.num_frames == NUM_FRAMES else f"_{self.num_frames}_frames"
        self.name = f"{self.train_clips}_{self.val_clips}{fewer}"

    @property
    def middle(self) -> slice:
        """Frames to keep."""
        first = (NUM_FRAMES - self.num_frames) // 2
        return slice(first, first + self.num_frames)


class MovingDigits(tfds.core.GeneratorBasedBuilder):
    """TFDS builder of `moving_digits`: `video` (JPEG frames), `digit`, `motion`, `fps`, `height`, `width` and `name`."""

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
                    "digit": tfds.features.ClassLabel(num_classes=10),
                    "motion": tfds.features.ClassLabel(names=list(MOTIONS)),
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
            frames, digit, motion = draw_clip(split, index)
            jpegs = [tf.io.encode_jpeg(frame, quality=95).numpy() for frame in frames[middle]]
            yield index, {"video": jpegs, "digit": digit, "motion": motion, "fps": 30.0, **size, "name": f"{split}-{index:05d}"}
