"""Diving-48: dives that differ in their turns alone, so it takes long looks; labels of version 2.

    python main.py --config=configs/diving48.py --config.data.root=FOLDER --workdir=runs/diving48
    python main.py --config=configs/diving48.py:large --config.data.root=FOLDER --workdir=runs/diving48_large

Lists and batches are as in configs/k400.py. The official code has no configuration for this data set; its author says that
it is Kinetics-400's (issue 62). The paper's figures begin with ImageNet-1K, hence with DeiT-B here;
`--config.init_from=FILE` begins with other weights.

Expected accuracy (top-1, %, one clip, three crops), with its source; the cost: 10^9 multiply-adds a view, FLOPs of the whole
training of 16,000 videos; memory: MiB for each clip of a device's batch in float32 (configs/recipes.py says how these are
counted):

| variant | accuracy | source         | a view | training | memory |
|---------|----------|----------------|--------|----------|--------|
| base    | 74.9     | paper, Table 7 |    196 |  2.7e17  |   2324 |
| hr      | 78.0     | paper, Table 7 |   1703 |  2.3e18  |   3962 |
| large   | 81.0     | paper, Table 7 |   2380 |  3.3e18  |   4631 |
| modern  | unknown  | not measured   |    196 |  1.1e18  |   2355 |
"""

from ml_collections import ConfigDict

from configs.recipes import HR, IMAGENET_1K, LARGE, MODERN, OFFICIAL, Table, recipe, videos

VARIANTS: dict[str, Table] = {"base": {}, "hr": HR, "large": LARGE, "modern": MODERN}
"""Name -> what it changes of the official recipe. Several can be named, with commas between: the later one wins."""


def get_config(variant: str = "base") -> ConfigDict:
    """`variant`: keys of `VARIANTS`, with commas between."""
    return recipe("diving48", VARIANTS, variant, OFFICIAL, {"init_from": IMAGENET_1K, "data": videos("diving48")})
