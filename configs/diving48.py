"""Diving-48, labels of version 2: dives that differ only in their turns, so long clips help.

    python main.py --config=configs/diving48.py --config.data.root=FOLDER --workdir=runs/diving48
    python main.py --config=configs/diving48.py:large --config.data.root=FOLDER --workdir=runs/diving48_large

For lists and batches, see configs/k400.py. The official code has no configuration for this data set; its author uses the one
for Kinetics-400 (issue 62). The paper starts from ImageNet-1K, hence DeiT-B here; `--config.init_from=FILE` starts from other
weights.

Expected accuracy (top-1, %, one clip, three crops), with its source; cost: 10^9 multiply-adds per view, FLOPs of the whole
training of 16,000 videos; memory: MiB for each clip of a device's batch in float32 (counted as described in
configs/recipes.py):

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
"""Maps a variant to its changes of the official recipe. Names can be combined with commas; later ones take precedence."""


def get_config(variant: str = "base") -> ConfigDict:
    """Make the config; `variant` is one or more keys of `VARIANTS`, separated by commas."""
    return recipe("diving48", VARIANTS, variant, OFFICIAL, {"init_from": IMAGENET_1K, "data": videos("diving48")})
