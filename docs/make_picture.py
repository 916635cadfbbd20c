"""Draw the README's image of the predictions of two finished runs.

python -m docs.make_picture runs/demo runs/space_only docs/moving_digits.png
"""

import json
import sys
from pathlib import Path

import matplotlib.pyplot as plt

from input_pipeline.moving_digits import draw_clip

CLIPS = (0, 1, 2, 5)  # in the validation split


def predictions(workdir: str) -> dict[str, dict]:
    rows = [json.loads(line) for line in (Path(workdir) / "predictions.jsonl").read_text().splitlines()]
    return {row["video"]: row for row in rows}


def main(divided: str, space_only: str, output: str) -> None:
    runs = {"divided_space_time": predictions(divided), "space_only": predictions(space_only)}
    figure, axes = plt.subplots(len(CLIPS), 9, figsize=(12, 1.02 * len(CLIPS)), width_ratios=[1] * 8 + [3.1])
    for row, index in zip(axes, CLIPS, strict=True):
        frames, digit, motion = draw_clip("val", index)
        for axis, frame in zip(row, frames, strict=False):
            axis.imshow(frame)
        for axis in row:
            axis.axis("off")
        row[-1].text(0.0, 0.78, f"a {digit}: {motion.replace('_', ' ')}", weight="bold", transform=row[-1].transAxes)
        for place, (name, rows) in zip((0.44, 0.1), runs.items(), strict=True):
            (label, score), (second, other), *_ = rows[f"val-{index:05d}"]["best"]
            also = f" ({second.replace('_', ' ')} {other:.0%})" if other > 0.1 else ""
            text = f"{name}: {label.replace('_', ' ')} {score:.0%}{also}"
            colour = "tab:green" if label == motion and score > 0.9 else "tab:red"
            row[-1].text(0.0, place, text, color=colour, fontsize=8, transform=row[-1].transAxes)
    figure.subplots_adjust(0.005, 0.01, 0.995, 0.99, wspace=0.04, hspace=0.06)
    figure.savefig(output, dpi=110)


if __name__ == "__main__":
    main(*sys.argv[1:])
