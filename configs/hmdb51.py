"""HMDB-51: 51 actions, fine-tuned from Kinetics-400.

    python main.py --config=configs/hmdb51.py --config.data.root=FOLDER --workdir=runs/hmdb51
    python main.py --config=configs/hmdb51.py:head --config.data.root=FOLDER --workdir=runs/hmdb51_head

FOLDER has the videos and the official lists (docs/data.md); `--config.data.fold=2` takes another of the three splits. It
begins with the released model of Kinetics-400, from the Hugging Face Hub; `--config.init_from=SOURCE` begins with any other
weights, a run's workdir for one, and the model follows them (configs/folder.py says how). Batches are as in configs/k400.py.

Expected accuracy: unknown. Neither the paper nor the official code has this data set, and this recipe was not measured: the
source of its schedule is the official one, at a tenth of the rate.

The cost: 10^9 multiply-adds a view, FLOPs of the whole training of 3,570 videos; memory: MiB for each clip of a device's batch
in float32 (configs/recipes.py says how these are counted):

| variant | what is trained               | a view | training | memory |
|---------|-------------------------------|--------|----------|--------|
| base    | all of it                     |    196 |  6.0e16  |   2324 |
| head    | the classifier alone          |    196 |  2.0e16  |     41 |
| modern  | all of it, lower layers less  |    196 |  2.4e17  |   2355 |
"""

from ml_collections import ConfigDict

from configs.recipes import FINETUNED, FINETUNED_VARIANTS, OFFICIAL, Table, recipe, videos

HMDB: Table = {
    # Videos take 3 seconds: of Kinetics' span of 256 frames more than half would be the last one.
    "clips": {"span": 96.0},
}

VARIANTS = FINETUNED_VARIANTS
"""Several can be named, with commas between: the later one wins."""


def get_config(variant: str = "base") -> ConfigDict:
    """`variant`: keys of `VARIANTS`, with commas between."""
    return recipe(
        "hmdb51",
        VARIANTS,
        variant,
        OFFICIAL,
        FINETUNED,
        HMDB,
        {"data": videos("hmdb51", storage="jpeg", short_side=None, fold=1)},
    )
