"""Tasks with few videos, recipes to learn them, and the flags of main.py for each combination."""

from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.few_videos.clips import DIAGONAL, KNOWN_DIGITS, STRAIGHT, choose, draw_clips, halves, write_list

NEW_DIGITS = range(5, 10)
WIDTH = 128
RATE = 2e-4 * 768 / WIDTH
"""Learning rate of `small`, scaled to this width as configs/folder.py describes."""
SEEDS = (0,)

PRETRAINING: dict[str, dict[str, Any]] = {
    "image": {
        "model.attention_type": "space_only",
        "model.num_frames": 1,
        "train.num_epochs": 10.0,
        "optimizer.warmup_epochs": 1.0,
    },
    "video": {"train.num_epochs": 5.0, "optimizer.warmup_epochs": 0.5},
}
"""Maps each pretrained model to its changes to the toy of configs/folder.py, whose shape both models have."""

PLAIN = {"pixels.flip": "off", "clips.sampling_rate": 1.0, "data.short_side": 64, "clips.short_side": (64, 72)}
"""Fields for moving digits, where a flip changes the digit or the motion, and a clip is the whole video."""


class Task(NamedTuple):
    """A small data set.

    Attributes:
      title: Name on the page.
      source: Pretrained model, a key of `PRETRAINING`.
      per_label: Number of training videos per label; None for half of them.
      label: Field of `Drawn` to predict; None for the labels of folders.
      fields: Fields of the config.
    """

    title: str
    source: str
    per_label: int | None
    label: str | None
    fields: dict[str, Any]


TASKS = {
    "digit": Task("new digits, from an image model", "image", 8, "digit", PLAIN),
    "motion": Task("new motions, from a video model", "video", 10, "motion", PLAIN),
    "real": Task("real clips, from an image model", "image", None, None, {"clips.sampling_rate": 32.0, "data.short_side": 73}),
}


class Recipe(NamedTuple):
    """A method to learn a task, and a row of the table."""

    title: str
    variant: str
    mode: str
    fields: dict[str, Any]


RECIPES = {
    "small": Recipe("`finetune,small`", "small", "train", {"optimizer.learning_rate": RATE}),
    "finetune": Recipe("`finetune`", "finetune", "train", {}),
    "modern": Recipe("`finetune,modern`", "finetune,modern", "train", {}),
    "centroid": Recipe("nearest centroid, frozen", "finetune", "features", {"features.splits": ("train", "val")}),
    "probe": Recipe("linear probe, frozen (`--mode=probe`)", "finetune", "probe", {}),
}


def pretraining_flags(name: str, folder: Path) -> list[str]:
    """Return the flags of main.py that pretrain a model on 4,000 clips of the digits 0 to 4 in straight motion."""
    label = {"image": lambda clip: f"{clip.digit} {clip.ground}", "video": lambda clip: f"{clip.digit} {clip.motion}"}[name]
    lists = {}
    for split, own, count in (("train", "train", 4000), ("val", "val", 200)):
        clips = draw_clips(folder / "videos", own, KNOWN_DIGITS, STRAIGHT, count)
        lists[split] = write_list(folder / f"{name}-{split}.csv", [(clip.path, label(clip)) for clip in clips])
    fields = {
        "data.data_dir": folder / "data",
        **{f"data.{split}": path for split, path in lists.items()},
        **PLAIN,
        "train.batch_size": 32,
        "train.evaluate_every_epochs": 4.0,
        "eval.batch_size": 50,
        "eval.num_clips": 1,
        "eval.num_crops": 1,
        **PRETRAINING[name],
    }
    return ["--config=configs/folder.py:video_list", f"--workdir={folder / name}", *as_flags(fields)]


def task_flags(name: str, recipe: str, seed: int, *, folder: Path, real: Path) -> list[str]:
    """Return the flags of main.py for one row, task and seed; all recipes use the same videos."""
    task, how = TASKS[name], RECIPES[recipe]
    if task.label is None:
        train, val = halves(real, seed)
    else:
        pool: dict[str, list[Path]] = {}
        for clip in draw_clips(folder / "videos", "train", NEW_DIGITS, DIAGONAL, 600):
            pool.setdefault(str(getattr(clip, task.label)), []).append(clip.path)
        train = choose(pool, task.per_label or 0, seed)
        clips = draw_clips(folder / "videos", "val", NEW_DIGITS, DIAGONAL, 500)
        val = [(clip.path, str(getattr(clip, task.label))) for clip in clips]
    lists = {
        split: write_list(folder / "lists" / f"{name}-{seed}-{split}.csv", rows)
        for split, rows in (("train", train), ("val", val))
    }
    fields = {
        "data.data_dir": folder / "data",
        **{f"data.{split}": path for split, path in lists.items()},
        "init_from": folder / task.source,
        "seed": seed,
        "model.num_frames": 8,
        "model.attention_type": "divided_space_time",
        **task.fields,
        "train.evaluate_every_epochs": 1e4,
        "train.checkpoint_every_epochs": 1e4,
        "eval.batch_size": 50,
        "eval.num_crops": 1,
        **how.fields,
    }
    workdir = folder / "runs" / f"{name}-{recipe}-{seed}"
    return [
        f"--config=configs/folder.py:video_list,{how.variant}",
        f"--mode={how.mode}",
        f"--workdir={workdir}",
        *as_flags(fields),
    ]


def as_flags(fields: dict[str, Any]) -> list[str]:
    """Format fields as flags of main.py."""
    return [f"--config.{name}={value}" for name, value in fields.items()]
