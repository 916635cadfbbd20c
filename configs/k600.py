"""Kinetics-600: the paper's three models.

    python main.py --config=configs/k600.py --config.data.root=FOLDER --workdir=runs/k600
    python main.py --config=configs/k600.py:large --config.data.root=FOLDER --workdir=runs/k600_large

For lists, initial weights and batches, see configs/k400.py. The official code has no configuration for this data set; its
author uses the one for Kinetics-400.

Expected accuracy (top-1 / top-5, %, one clip, three crops), with its source; cost: 10^9 multiply-adds per view, FLOPs of
the whole training of 392,000 videos; memory: MiB for each clip of a device's batch in float32 (counted as described in
configs/recipes.py):

| variant | accuracy    | source                             | a view | training | memory |
|---------|-------------|------------------------------------|--------|----------|--------|
| base    | 79.1 / 94.4 | paper, Table 6; released the same  |    196 |  6.6e18  |   2324 |
| hr      | 81.8 / 95.8 | paper, Table 6; released the same  |   1703 |  5.7e19  |   3962 |
| large   | 82.2 / 95.6 | paper, Table 6; released the same  |   2380 |  8.0e19  |   4631 |
| modern  | unknown     | not measured                       |    196 |  2.6e19  |   2355 |
"""

from ml_collections import ConfigDict

from configs.recipes import HR, LARGE, MODERN, OFFICIAL, Table, recipe, videos

VARIANTS: dict[str, Table] = {"base": {}, "hr": HR, "large": LARGE, "modern": MODERN}
"""Maps a variant to its changes of the official recipe. Names can be combined with commas; later ones take precedence."""


def get_config(variant: str = "base") -> ConfigDict:
    """Make the config; `variant` is one or more keys of `VARIANTS`, separated by commas."""
    return recipe("k600", VARIANTS, variant, OFFICIAL, {"data": videos("kinetics600")})
