"""Drawing of `moving_digits`: handwritten digits that move over textured backgrounds, as labelled frames."""

from functools import cache
from typing import NamedTuple

import numpy as np

from timesformer_jax._typing import Int, ndarray
from timesformer_jax.extras import needs

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

SEEDS = {"train": 0, "val": 1}
"""Maps each split to the beginning of its clips' seeds."""


@cache
def digit_images() -> tuple[np.ndarray, np.ndarray]:
    """Load scikit-learn's digits, enlarged to `[1797, DIGIT_SIZE, DIGIT_SIZE]` opacities in [0, 1], and their labels."""
    from scipy.ndimage import zoom

    with needs("sklearn", "The data set moving_digits"):
        from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    images = np.asarray(pixels).reshape(-1, 8, 8) / 16.0
    factor = DIGIT_SIZE / 8
    enlarged = np.asarray(zoom(images, (1, factor, factor), order=1, grid_mode=True, mode="nearest"))
    return enlarged.clip(0, 1), np.asarray(labels)


def draw_texture(random: np.random.Generator) -> np.ndarray:
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
    random = np.random.default_rng([SEEDS[split], index])
    images, labels = digit_images()
    which = choose_image(random, split)
    motion = list(MOTIONS)[index % len(MOTIONS)]
    axis, backwards = MOTIONS[motion]

    background = draw_texture(random)
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


def choose_image(random: np.random.Generator, split: str) -> int:
    """Draw the number of an image that belongs to a split."""
    images, _ = digit_images()
    first_val = len(images) - NUM_VALIDATION_DIGITS
    return int(random.integers(first_val) if split == "train" else random.integers(first_val, len(images)))
