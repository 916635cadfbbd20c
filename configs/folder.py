"""Videos on your disk: a folder with one sub-folder per label, lists of your own, or a published data set.

By itself this config is a toy: a model of 1.2 million parameters at 64 px, trained from scratch, to try whether a data set
can be read and learned at all. 32 short clips take about a minute on 2 CPU cores. It overfits few videos and is no recipe for
accuracy. `finetune` is: it starts from published weights, and wants an accelerator. `finetune,small` is for few videos.

    python main.py --config=configs/folder.py:video_folder,finetune --config.data.root=FOLDER --workdir=runs/mine
    python main.py --config=configs/folder.py:video_folder,finetune,small --config.data.root=FOLDER --workdir=runs/few
    python main.py --config=configs/folder.py:ucf101,finetune --config.data.root=FOLDER --workdir=runs/ucf101
    python main.py --config=configs/folder.py --config.data.root=FOLDER --workdir=runs/toy
    python main.py --config=configs/folder.py:video_list --config.data.train=A.csv --config.data.val=B.csv --workdir=runs/toy

FOLDER holds LABEL/*.mp4 (a fifth of each label becomes the validation split), or train/LABEL/*.mp4 and val/LABEL/*.mp4; for
the other data sets see docs/data.md.

`finetune` begins with the released model of Kinetics-400, from the Hugging Face Hub. `--config.init_from=SOURCE` begins with
any other weights: a file, a folder, a run's workdir, a name listed by `timesformer zoo` or hf:ORGANISATION/MODEL, video models
and image transformers alike. Width, depth, heads, patches, frames, image size, sampling and normalisation follow the weights.
Image size, frames and attention can be set otherwise (`--config.model.image_size=112`); a field that the weights fix can't.
The log has a table of what differs.
`finetune,modern` changes the augmentation and the optimizer.

`finetune,small` (or `small`) is for a few to a few hundred videos, of which `finetune` makes a handful of steps: AdamW, batches
of 8 clips, 30 epochs, a warm-up, and clips that span the whole video. docs/small_data.md compares it with probes. Its learning
rate is meant for width 768; for other widths set `--config.optimizer.learning_rate` in inverse proportion. Fine-tuning
in fewer than 50 steps suggests it in the log.

Expected accuracy: that of your data is unknown. Source of the figures here: the toy was run on 2 CPU cores, the others were
not measured at this size. The cost, with weights of base width at 8 x 224: FLOPs of training for a thousand videos;
memory: MiB for each clip of a device's batch (configs/recipes.py says how these are counted):

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
"""Data set -> the fields of `data` that only it has, with their usual values; None is a text that isn't given."""

TOY = (
    "A toy: this small model learns from random weights, to try out a data set and not for accuracy; "
    "--config=configs/folder.py:{dataset},finetune fine-tunes published weights."
)
"""Goes into the log and results.json."""

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
"""What may follow the data set, after commas -> what it changes of the small model's recipe."""


def get_config(name: str = "video_folder") -> ConfigDict:
    """`name`: a key of `FIELDS`, then perhaps keys of `VARIANTS`, with commas between."""
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
