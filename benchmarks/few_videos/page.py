"""Render the page on few videos from the results file alone."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.few_videos.tasks import RECIPES, SEEDS, TASKS
from timesformer_jax.evaluation import proportion_intervals

DOCS = Path(__file__).parent.parent.parent / "docs"
PAGE, RESULTS = DOCS / "small_data.md", DOCS / "small_data" / "results.json"

Results = Mapping[str, Mapping[str, Any]]


def render(results: Results) -> str:
    """Render the page as Markdown."""
    rows = [["recipe", *(f"{task.title}: top-1 (95 %)" for task in TASKS.values()), "steps", "seconds"], ["---"] * 6]
    for name, recipe in RECIPES.items():
        cells = [[results[key] for seed in SEEDS if (key := f"{name} {task} {seed}") in results] for task in TASKS]
        flat = [cell for of_task in cells for cell in of_task]
        steps, seconds = ([cell[field] for cell in flat if field in cell] for field in ("steps", "seconds"))
        rows.append([recipe.title, *map(_accuracy, cells), _between(steps), _between(seconds)])
    return TEXT.format(
        table="\n".join(f"| {' | '.join(row)} |" for row in rows),
        seeds="One seed" if len(SEEDS) == 1 else f"{len(SEEDS)} seeds",
    )


def _accuracy(cells: list[Mapping[str, Any]]) -> str:
    """Top-1 over the videos of all seeds, and its 95 % interval."""
    if not cells:
        return "not run"
    count = sum(cell["num_videos"] for cell in cells)
    top1 = sum(cell["top1"] * cell["num_videos"] for cell in cells) / count
    low, high = proportion_intervals({"top1": top1}, count)["top1"]
    return f"{100 * top1:.1f} % ({100 * low:.0f} to {100 * high:.0f})"


def _between(values: list[int]) -> str:
    return "" if not values else f"{min(values)} to {max(values)}" if min(values) < max(values) else str(values[0])


TEXT = """\
# Fine-tune on few videos

For a handful to a few hundred videos, start with `finetune,small`, from an image model or a video model:

```
python main.py --config=configs/folder.py:video_folder,finetune,small --config.data.root=FOLDER \\
    --config.init_from=SOURCE --workdir=runs/few
```

Probe the frozen features first: `--mode=probe` takes the same flags, and is enough if the features already separate the
labels.

## The recipe

- **Steps.** Batches of 8 clips for 30 epochs, so 24 videos give 90 steps. `finetune` uses the batch size (64) and the number
  of epochs (15) of Kinetics, which give 6; the log of such a run suggests `small`. Above about a thousand videos, use fewer
  epochs.
- **Optimizer.** AdamW with a learning rate of 2e-4, 3 warm-up epochs, cosine decay to 0, layer-wise decay of 0.75 and
  gradients clipped to norm 1.
- **Sampling.** One clip per video and epoch. `clips.sampling=segments` splits the video into `num_frames` equal segments and
  draws a random frame from each, so a clip covers the whole video whatever its length. `finetune` spans 256 frames, and pads a
  shorter video by repeating its last frame.
- **Regularisation.** Random crops, flips (unless a label mentions a side), drop path of 0.1 and label smoothing of 0.1. No
  mixup, no CutMix and no moving average of the parameters, all of which `finetune,modern` has. The figures below don't isolate
  these choices.

The learning rate of 2e-4 is for models of width 768 (ViT-B). For other widths, scale it in inverse proportion with
`--config.optimizer.learning_rate`: 4e-4 for width 384, 1.5e-4 for width 1024.

## Figures

`python benchmarks/small_data.py --clips=FOLDER` runs every cell of the table as a job of `main.py`, stores its figures in
`docs/small_data/results.json` and writes this page. The models are **tiny**: width 128, 4 blocks, 64 px, 8 frames, 1.2 million
parameters. The tasks:

- **New digits**: 5 labels with 8 training clips each, the digits 5 to 9. The image model was trained to name the digits 0 to 4
  and their background colour in single frames. 500 validation clips.
- **New motions**: 4 labels with 10 training clips each, diagonal motions of the digits 5 to 9. The video model was trained on
  straight motions of the digits 0 to 4. 500 validation clips.
- **Real clips**: 5 scenes, 32 clips, half of each scene for training and the other half for validation. The image model is
  that of the new digits, and has never seen a real image.

{table}

Each cell shows top-1 accuracy on the validation clips, with its 95 % interval. Steps and seconds are ranges over the tasks.
The time is that of the whole job, with compilation and evaluation, on 2 CPU cores shared with other work, so it is a rough
guide.

## Limits of these figures

- **`small` is flattered.** Its learning rate and sampling were chosen in trials on the same validation clips that it is scored
  on here. On clips that played no part in the choice, expect less.
- **The other rows are not tuned.** `small` runs at 1.2e-3 here, scaled to width 128. `finetune` and `finetune,modern` keep the
  rates that they have at width 768.
- **Probes are flattered too.** The best of a probe's heads is selected on the clips that it is scored on. Nearest centroid
  selects nothing.
- **2e-4 at width 768 is an assumption.** It extrapolates from width 128 by the rule that Adam's best rate is proportional to
  1/width. No wider model and no published weights were tested, so if you can, also try a third and three times this rate.
- **{seeds}.** A seed is one draw of the training videos (for real clips, one split into halves), one initialisation of the
  classifier and one order of batches; all rows of a seed share its videos. The interval (Wilson's, over the validation videos)
  covers none of this variation, so a difference between rows that is about as wide as their intervals may vanish or change
  sign with another seed. On real clips, 16 validation videos make each one worth 6 points.

The trials of rate and sampling were run by hand with the same tiny models, outside `main.py`, and the benchmark does not
repeat them. They used batches of 8 clips, 60 steps, no crops or flips, and one seed.

| learning rate at width 128 | 1e-4 | 5e-4 | 2e-3 |
| --- | --- | --- | --- |
| real clips (4 splits into 24 and 8), clips that cover the whole video | 69 % | 81 % | 97 % |
| real clips (4 splits into 24 and 8), clips of 256 frames | 66 % | 75 % | 91 % |
| new digits (250 clips) | 30 % | 60 % | 69 % |
| new motions (250 clips) | 80 % | 99 % | 100 % |

The highest rate was the best in every row, and higher ones were not tried. The rate of the recipe at this width, 1.2e-3, lies
between the two highest and was not part of the trials.
"""
