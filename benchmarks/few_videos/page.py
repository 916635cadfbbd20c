"""The page of small data, from the file of results and nothing else."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.few_videos.tasks import RECIPES, SEEDS, TASKS
from timesformer_jax.evaluation import proportion_intervals

DOCS = Path(__file__).parent.parent.parent / "docs"
PAGE, RESULTS = DOCS / "small_data.md", DOCS / "small_data" / "results.json"

Results = Mapping[str, Mapping[str, Any]]


def render(results: Results) -> str:
    """The page as Markdown."""
    rows = [["recipe", *(f"{task.title}: top-1 (95 %)" for task in TASKS.values()), "steps", "seconds"], ["---"] * 6]
    for name, recipe in RECIPES.items():
        cells = [[results[key] for seed in SEEDS if (key := f"{name} {task} {seed}") in results] for task in TASKS]
        flat = [cell for of_task in cells for cell in of_task]
        steps, seconds = ([cell[field] for cell in flat if field in cell] for field in ("steps", "seconds"))
        rows.append([recipe.title, *map(_accuracy, cells), _between(steps), _between(seconds)])
    return TEXT.format(table="\n".join(f"| {' | '.join(row)} |" for row in rows), seeds=len(SEEDS))


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
# Few videos

From a handful to a few hundred videos, start with

```
python main.py --config=configs/folder.py:video_folder,finetune,small --config.data.root=FOLDER \\
    --config.init_from=SOURCE --workdir=runs/few
```

from an image model or a video model alike. What it does, and why:

- **Steps.** Batches of 8 clips for 30 epochs: 24 videos make 90 steps. `finetune`, with the batch of 64 and the 15 epochs of
  Kinetics, makes 6. More than about a thousand videos need fewer epochs.
- **Rates.** AdamW at 2e-4, a warm-up of 3 epochs, a cosine to 0, layer-wise decay of 0.75, gradients clipped at 1. 2e-4 is for
  width 768; for others set `--config.optimizer.learning_rate` in inverse proportion (4e-4 for 384, 1.5e-4 for 1024).
- **Clips.** One clip per video and epoch, with one random frame of each of `num_frames` equal segments of the video
  (`clips.sampling=segments`), so that videos of any length are seen whole. `finetune` spans 256 frames, and repeats the last
  frame of a shorter video.
- **Augmentation.** Crops, flips (if no label mentions a side), drop path and label smoothing of 0.1. No mixing, and no moving
  average of the parameters: one over 10,000 steps is of no use in 100.

Probe the frozen features first: `--mode=probe` takes the same flags and is enough if the weights know the labels already.

## Figures

Written by `python benchmarks/small_data.py --clips=FOLDER` from `docs/small_data/results.json`, on 2 CPU cores that other work
shared. These are **tiny models**: width 128, 4 blocks, 64 px, 8 frames, 1.2 million parameters. Each column is another task:

- new digits: 5 labels x 8 clips of the digits 5 to 9; the image model learned to name the digits 0 to 4 and the colour behind
  them in single frames, and is tested on 500 clips;
- new motions: 4 labels x 10 clips that move diagonally, tested on 500; the video model has only seen straight motions, of other
  digits;
- real clips: half of 32 clips of 5 scenes, tested on the other 16; the image model has only seen digits.

{seeds} seed(s): the same training videos for every recipe. The 95 % interval is Wilson's for the number of validation videos
and does not include what other training videos or seeds would change. A probe's best head is chosen on the videos that it is
judged by, which flatters it. Seconds are of a whole run with compiling and testing, and vary with what else the machine did. On
new digits all rows but the first were run by hand, with the same fields.

{table}

The rate for width 128 is 1.2e-3. In trials with the same models outside main.py, a batch of 8, 60 steps and no crops or flips,
1e-4, 5e-4 and 2e-3 reached 69, 81 and 97 % on real clips (4 splits of 24 and 8), 30, 60 and 69 % on new digits and 80, 99 and
100 % on new motions (one seed each, 250 clips). On real clips a span of 256 frames in place of whole videos reached 66, 75 and
91 %. Rates for wider models, and real pretrained weights, were not measured.
"""
