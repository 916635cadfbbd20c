"""Videos on your disk: a folder with one sub-folder per label, your own lists, or a published data set.

Without a variant, this config is a toy: a model of 1.2 million parameters at 64 px, trained from scratch, to check whether a
data set can be read and learned at all. 32 short clips take about a minute on 2 CPU cores. It overfits small data sets and is
not meant for accuracy. For that, use `finetune`, which starts from published weights and is meant for an accelerator.
`finetune,small` is for few videos.

    python main.py --config=configs/folder.py:video_folder,finetune --config.data.root=FOLDER --workdir=runs/mine
    python main.py --config=configs/folder.py:video_folder,finetune,small --config.data.root=FOLDER --workdir=runs/few
    python main.py --config=configs/folder.py:ucf101,finetune --config.data.root=FOLDER --workdir=runs/ucf101
    python main.py --config=configs/folder.py --config.data.root=FOLDER --workdir=runs/toy
    python main.py --config=configs/folder.py:video_list --config.data.train=A.csv --config.data.val=B.csv --workdir=runs/toy

FOLDER contains LABEL/*.mp4 (a fifth of each label becomes the validation split), or train/LABEL/*.mp4 and val/LABEL/*.mp4. For
the other data sets, see docs/data.md.

`finetune` starts from the released Kinetics-400 model on the Hugging Face Hub. `--config.init_from=SOURCE` starts from other
weights, of video models or image transformers: a file, a folder, a run's workdir, a name listed by `timesformer zoo`, or
hf:ORGANISATION/MODEL. Width, depth, heads, patches, frames, image size, sampling and normalisation follow the weights. Image
size, frames and attention can be changed (`--config.model.image_size=112`); fields that the weights fix can't. The log lists
the differences in a table.

`finetune,modern` changes the augmentation and the optimizer.

`finetune,small` (or `small`) is for a few to a few hundred videos, for which `finetune` would take only a handful of steps:
AdamW, batches of 8 clips, 30 epochs, a warm-up, and clips that span the whole video. docs/small_data.md compares it with
probes. Its learning rate is for width 768; for other widths, set `--config.optimizer.learning_rate` in inverse proportion. The
log suggests it if fine-tuning takes fewer than 50 steps.

Expected accuracy: unknown for your data. Source of the figures: the toy was run on 2 CPU cores; the others were not measured at
this size. Cost, with weights of base width at 8 x 224: FLOPs of training for a thousand videos; memory: MiB for each clip of a
device's batch (counted as described in configs/recipes.py):

| variant         | training clips | training | memory |
|-----------------|----------------|----------|--------|
| (the toy)       | overfitted     |  5.0e13  |      9 |
| finetune        | -              |  1.7e16  |   2324 |
| finetune,modern | -              |  6.7e16  |   2355 |
| finetune,small  | -              |  3.4e16  |   2324 |
"""

from typing import Any

from ml_collections import ConfigDict, config_dict

from configs.common import UNSET
from configs.recipes import FINETUNED, MODERN, OFFICIAL, SMALL_DATA, Table, merge, recipe, videos
from timesformer_jax.errors import InputError

FIELDS = {
    "kinetics400": {},
    "kinetics600": {},
    "kinetics700": {},
    "something_something_v2": {},
    "diving48": {},
    "howto100m": {"min_videos": 100, "val_fraction": 0.29, "part_seconds": 60.0},
    "ucf101": {"fold": 1},
    "hmdb51": {"fold": 1},
    "video_folder": {"val_fraction": 0.2},
    "video_list": {"train": None, "val": None, "labels": None},
}
"""Maps a data set to the fields of `data` that only it has, with default values; None is an unset string."""

TOY = (
    "A toy: this small model learns from random weights, to try out a data set and not for accuracy; "
    "--config=configs/folder.py:{dataset},finetune fine-tunes published weights."
)
"""Note of the toy for the log and results.json."""

SMALL: Table = {
    "model": {
        "attention_type": "divided_space_time",
        "image_size": 64,
        "embed_dim": 128,
        "depth": 4,
        "num_heads": 4,
        "initialization": "from_scratch",
        "scan_layers": False,
    },
    "clips": {"sampling_rate": 8.0, "short_side": (72, 96)},
    "train": {
        "batch_size": 8,
        "num_epochs": 60.0,
        "log_every_steps": 20,
        "evaluate_every_epochs": 20.0,
        "checkpoint_every_epochs": 20.0,
    },
    "optimizer": {
        "name": "adamw",
        "learning_rate": 1e-3,
        "schedule": "cosine",
        "warmup_epochs": 5.0,
        "weight_decay": 0.05,
        "decay_pattern": ".*/kernel",
        "clip_norm": 1.0,
    },
    "eval": {"batch_size": 8, "num_clips": 2},
}

FINETUNE = merge(
    {
        "note": None,
        "model": {"initialization": "official", "scan_layers": True},
        "data": {"short_side": UNSET},
        "train": {"log_every_steps": 50, "evaluate_every_epochs": 1.0, "checkpoint_every_epochs": 1.0},
    },
    OFFICIAL,
    {"optimizer": {"clip_norm": 0.0}, "eval": {"batch_size": 64}},
    FINETUNED,
)

VARIANTS: dict[str, Table] = {
    "finetune": FINETUNE,
    "modern": merge(MODERN, {"optimizer": {"learning_rate": 1e-4}}),
    "small": merge(FINETUNE, SMALL_DATA),
}
"""Maps a variant, which may follow the data set after a comma, to its changes of the toy."""


def get_config(name: str = "video_folder") -> ConfigDict:
    """Make the config; `name` is a key of `FIELDS`, optionally followed by keys of `VARIANTS`, separated by commas."""
    dataset, *changes = name.split(",")
    if dataset not in FIELDS:
        raise InputError(
            f"configs/folder.py:NAME must be one of {', '.join(FIELDS)}, got {dataset!r}; {' and '.join(VARIANTS)} may follow "
            "it, after commas."
        )
    fields: dict[str, Any] = {
        key: config_dict.placeholder(str) if value is None else value for key, value in FIELDS[dataset].items()
    }
    data = {"data": videos(dataset, storage="jpeg", short_side=96, **fields), "note": TOY.format(dataset=dataset)}
    return recipe("folder", VARIANTS, ",".join(changes), SMALL, data)
