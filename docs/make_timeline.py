"""Draw the timeline in the docs: a finished run of the demo on a long video of moving digits.

python -m docs.make_timeline runs/demo docs/timeline.png
"""

import io
import itertools
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from input_pipeline.moving_digits import draw_clip
from timesformer_jax.__main__ import main as timesformer
from timesformer_jax.explain.drawing import mp4_bytes

TURNS = [(0, 9), (5, 5), (2, 12), (7, 4), (0, 6), (3, 10)]
"""Motions (of `input_pipeline.moving_digits.MOTIONS`) and the number of clips for which each lasts."""


def main(run: str, output: str) -> None:
    kinds: dict[str, list[np.ndarray]] = {}
    for number in range(400):
        frames, _, motion = draw_clip("val", number)
        kinds.setdefault(motion, []).append(frames)
    names = sorted(kinds)
    supply = {name: itertools.cycle(clips) for name, clips in kinds.items()}
    # Every 8 frames another digit begins, and so does a window.
    clips = [next(supply[names[motion]]) for motion, count in TURNS for _ in range(count)]
    with tempfile.TemporaryDirectory() as folder:
        video, plot = Path(folder) / "digits.mp4", Path(folder) / "timeline.png"
        video.write_bytes(mp4_bytes(np.concatenate(clips), 30))
        timesformer(["predict", str(video), f"--checkpoint={run}", f"--plot={plot}", f"--stride={8 / 30}"])
        picture = Image.open(io.BytesIO(plot.read_bytes()))
    picture.convert("RGB").quantize(128).save(Path(output), optimize=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
