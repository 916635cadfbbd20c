"""UCF-101: 101 actions, fine-tuned from Kinetics-400.

    python main.py --config=configs/ucf101.py --config.data.root=FOLDER --workdir=runs/ucf101
    python main.py --config=configs/ucf101.py:head --config.data.root=FOLDER --workdir=runs/ucf101_head

FOLDER has the videos and the official lists (docs/data.md); `--config.data.fold=2` selects another of the three splits.
Fine-tuning starts from the released Kinetics-400 model on the Hugging Face Hub; `--config.init_from=SOURCE` starts from other
weights, such as a run's workdir, and the model follows them (see configs/folder.py). For batches, see configs/k400.py.

Expected accuracy: unknown. Neither the paper nor the official code covers this data set, and this recipe was not measured.
Source of the schedule: the official one, at a tenth of the rate. A user of the official code reached 42.9 % from ImageNet
alone, at a rate of 0.05 (its issue 19).

Cost: 10^9 multiply-adds per view, FLOPs of the whole training of 9,537 videos; memory: MiB for each clip of a device's batch
in float32 (counted as described in configs/recipes.py):

| variant | what is trained               | a view | training | memory |
|---------|-------------------------------|--------|----------|--------|
| base    | all parameters                |    196 |  1.6e17  |   2324 |
| head    | only the classifier           |    196 |  5.3e16  |     41 |
| modern  | all, lower layers more slowly |    196 |  6.4e17  |   2355 |
"""

from ml_collections import ConfigDict

from configs.recipes import FINETUNED, FINETUNED_VARIANTS, OFFICIAL, Table, recipe, videos

UCF: Table = {
    # Videos last 7 seconds, not 10 as in Kinetics, so a span of 256 frames would repeat the last frame.
    "clips": {"span": 192.0},
}

VARIANTS = FINETUNED_VARIANTS
"""Names can be combined with commas; later ones take precedence."""


def get_config(variant: str = "base") -> ConfigDict:
    """Make the config; `variant` is one or more keys of `VARIANTS`, separated by commas."""
    return recipe(
        "ucf101",
        VARIANTS,
        variant,
        OFFICIAL,
        FINETUNED,
        UCF,
        {"data": videos("ucf101", storage="jpeg", short_side=None, fold=1)},
    )
