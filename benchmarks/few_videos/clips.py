"""Lists of clips for pretraining and for fine-tuning on few videos."""

import csv
from collections.abc import Iterable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from input_pipeline.moving_digits import MOTIONS, draw_clip
from timesformer_jax.atomic_write import replacing

KNOWN_DIGITS = range(5)
"""Digits seen in pretraining; the others are new."""
STRAIGHT = ("right", "left", "down", "up")
DIAGONAL = tuple(motion for motion in MOTIONS if motion not in STRAIGHT)
CHANNELS = ("red", "green", "blue")
FPS = 30


class Drawn(NamedTuple):
    """A clip of moving digits as a video file."""

    path: Path
    digit: int
    motion: str
    ground: str
    """The brightest channel of the background."""


def draw_clips(folder: Path, split: str, digits: Iterable[int], motions: Iterable[str], count: int) -> list[Drawn]:
    """Write the first `count` clips of these digits and motions as videos in `folder`, keeping existing files."""
    found, index = [], 0
    digits, motions = set(digits), set(motions)
    while len(found) < count:
        if list(MOTIONS)[index % len(MOTIONS)] in motions:
            frames, digit, motion = draw_clip(split, index)
            if digit in digits:
                ground = CHANNELS[int(np.median(frames, axis=(0, 1, 2)).argmax())]
                found.append(Drawn(folder / f"{split}-{index:05d}.mp4", digit, motion, ground))
                if not found[-1].path.exists():
                    _write_video(found[-1].path, frames)
        index += 1
    return found


def _write_video(path: Path, frames: np.ndarray) -> None:
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path, ".part.mp4") as part, av.open(str(part), "w") as container:
        stream: Any = container.add_stream("libx264", rate=Fraction(FPS), options={"crf": "12", "preset": "veryfast"})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def write_list(path: Path, rows: Iterable[tuple[Path, str]]) -> Path:
    """Write a list of videos in the format of `video_list`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(("path", "label"))
        table.writerows((str(video), label) for video, label in rows)
    return path


def choose(clips: Mapping[str, list[Path]], per_label: int, seed: int) -> list[tuple[Path, str]]:
    """Draw `per_label` clips of each label."""
    random = np.random.default_rng(seed)
    return [(paths[i], label) for label, paths in clips.items() for i in random.permutation(len(paths))[:per_label]]


def halves(folder: Path, seed: int) -> tuple[list[tuple[Path, str]], list[tuple[Path, str]]]:
    """Split a folder with one sub-folder per label into two halves; seed 1 swaps those of seed 0."""
    parts: tuple[list[tuple[Path, str]], list[tuple[Path, str]]] = [], []
    for label in sorted(path for path in folder.iterdir() if path.is_dir()):
        paths = sorted(label.glob("*.mp4"))
        for number, chosen in enumerate(np.random.default_rng(0).permutation(len(paths))):
            parts[(number + seed) % 2].append((paths[chosen], label.name))
    return parts
