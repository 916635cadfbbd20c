"""Scenes of `moving_digits`: a digit in motion, a digit among fragments of others, and a digit that shakes as it moves."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from timesformer_jax.datasets.drawn_digits import (
    DIGIT_SIZE,
    FRAME_SIZE,
    MOTIONS,
    NUM_FRAMES,
    SEEDS,
    choose_image,
    digit_images,
    draw_clip,
    draw_texture,
)

COLOURS = {"warm": (1.0, 0.75, 0.35), "cold": (0.35, 0.75, 1.0)}
"""Maps the colour of a digit in a scene to its red, green and blue."""
SIGNS = tuple(f"{colour} {digit}" for digit in range(10) for colour in COLOURS)
NUM_FRAGMENTS, FRAGMENT_SIZE = 2, 6
DRIFT = 2.0
"""Largest distance of a sign from the centre, in pixels along each axis."""


class _Shaking(NamedTuple):
    """Ranges from which a shaky motion is drawn.

    Attributes:
        reach: Reach of the motion as a share of the room.
        spread: Standard deviation of the displacements in pixels.
    """

    reach: tuple[float, float]
    spread: tuple[float, float]


CALM, WILD, SHARE_CALM = _Shaking((0.6, 0.9), (0.0, 1.0)), _Shaking((0.0, 0.6), (2.0, 8.0)), 0.5
"""A share of the clips shakes little, so that directions can be learned from them, and the others much.

If reach and spread were known, the best guess of the direction from the places would be right in about 89 % of the clips.
"""


def _paint(frame: np.ndarray, opacity: np.ndarray, place: np.ndarray, colour: np.ndarray) -> None:
    """Paint an image `[rows, columns]` of opacities over a frame of floats; `place` is its (top, left)."""
    (top, left), (rows, columns) = place, opacity.shape
    window = frame[top : top + rows, left : left + columns]
    window[:] = (1 - opacity[..., None]) * window + opacity[..., None] * colour


def draw_clutter(split: str, index: int) -> tuple[np.ndarray, dict[str, int]]:
    """Draw clip `index` of the scene "clutter": frames as in `draw_clip`, and its labels `digit` and `sign`."""
    random = np.random.default_rng([SEEDS[split], index, 1])
    (images, labels), which = digit_images(), choose_image(random, split)
    digit, colour = int(labels[which]), index % len(COLOURS)
    background = draw_texture(random)
    for _ in range(NUM_FRAGMENTS):
        top, left = random.integers(DIGIT_SIZE - FRAGMENT_SIZE + 1, size=2)
        fragment = images[choose_image(random, split), top : top + FRAGMENT_SIZE, left : left + FRAGMENT_SIZE]
        tint = np.array(list(COLOURS.values())[random.integers(len(COLOURS))])
        _paint(background, fragment, random.integers(FRAME_SIZE - FRAGMENT_SIZE + 1, size=2), tint * random.uniform(0.7, 1.0))
    begin, end = (FRAME_SIZE - DIGIT_SIZE) / 2 + random.uniform(-DRIFT, DRIFT, (2, 2))
    tint = np.array(list(COLOURS.values())[colour]) * random.uniform(0.8, 1.0)
    frames = np.empty((NUM_FRAMES, FRAME_SIZE, FRAME_SIZE, 3), np.uint8)
    for time, frame in enumerate(frames):
        picture = background.copy()
        place = np.rint(begin + (end - begin) * time / (NUM_FRAMES - 1)).astype(int)
        _paint(picture, images[which], place, tint)
        frame[:] = np.rint(picture.clip(0, 1) * 255)
    return frames, {"digit": digit, "sign": SIGNS.index(f"{list(COLOURS)[colour]} {digit}")}


def draw_shaky(split: str, index: int) -> tuple[np.ndarray, dict[str, int]]:
    """Draw clip `index` of the scene "shaky": frames as in `draw_clip`, and its labels `digit` and `motion`."""
    random = np.random.default_rng([SEEDS[split], index, 2])
    (images, labels), which, background = digit_images(), choose_image(random, split), draw_texture(random)
    axis, backwards = MOTIONS[list(MOTIONS)[index % len(MOTIONS)]]
    colour, room = random.uniform(0.7, 1.0, 3), (FRAME_SIZE - DIGIT_SIZE) / 2
    shaking = CALM if random.random() < SHARE_CALM else WILD
    straight = np.linspace(-1, 1, NUM_FRAMES) * random.uniform(*shaking.reach) * room
    along = straight + random.normal(0, random.uniform(*shaking.spread), NUM_FRAMES)
    frames = np.empty((NUM_FRAMES, FRAME_SIZE, FRAME_SIZE, 3), np.uint8)
    for frame, distance in zip(frames, along.clip(-room, room), strict=True):
        picture = background.copy()
        _paint(picture, images[which], np.rint(room + distance * np.array(axis)).astype(int), colour)
        frame[:] = np.rint(picture * 255)
    order = slice(None, None, -1 if backwards else 1)
    return frames[order], {"digit": int(labels[which]), "motion": index % len(MOTIONS)}


def _draw_motion(split: str, index: int) -> tuple[np.ndarray, dict[str, int]]:
    frames, digit, motion = draw_clip(split, index)
    return frames, {"digit": digit, "motion": list(MOTIONS).index(motion)}


class Scene(NamedTuple):
    """What the clips of a data set show.

    Attributes:
        draw: Function (split, index) -> frames uint8 `[T, H, W, 3]` and class numbers by label; deterministic.
        labels: Maps each label to the names of its classes.
    """

    draw: Callable[[str, int], tuple[np.ndarray, dict[str, int]]]
    labels: Mapping[str, tuple[str, ...]]


_TEN = tuple(map(str, range(10)))
SCENES = {
    "motion": Scene(_draw_motion, {"digit": _TEN, "motion": tuple(MOTIONS)}),
    "clutter": Scene(draw_clutter, {"digit": _TEN, "sign": SIGNS}),
    "shaky": Scene(draw_shaky, {"digit": _TEN, "motion": tuple(MOTIONS)}),
}
"""Maps `data.scene` to its scene."""
