"""Draw the README's image that explains a finished run's prediction for a validation clip.

python -m docs.make_explained runs/demo docs/explained.png
"""

import io
import sys
from pathlib import Path

import numpy as np
from PIL import Image

import timesformer_jax as tsf
from input_pipeline.moving_digits import draw_clip
from timesformer_jax import explain
from timesformer_jax.explain.drawing import Panel, png_bytes, sheet

CLIP = 36  # in the validation split


def main(run: str, output: str) -> None:
    trained, (frames, digit, _) = tsf.load(run), draw_clip("val", CLIP)
    video = trained.preprocess(frames, num_crops=1)
    scores = trained.view_scores(video)
    best = int(scores.argmax())
    shown = trained.preprocess.pictures(video[0])
    params = trained.variables["params"]
    relevance = explain.class_relevance(trained.model, params, video, np.array([best]))
    rollout = explain.attention_rollout(trained.model, params, video)
    panels = [
        Panel(f"a moving {digit}", shown),
        Panel(f"relevance of {trained.label(best)} ({scores[best]:.1%})", explain.overlay(shown, relevance[0])),
        Panel("attention rollout", explain.overlay(shown, rollout[0])),
    ]
    picture = Image.open(io.BytesIO(png_bytes(sheet(panels))))
    smaller = picture.resize((picture.width * 3 // 5, picture.height * 3 // 5))
    smaller.quantize(256).save(Path(output), optimize=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
