"""HowTo100M: which of 1,059 tasks a video of minutes is about.

    python main.py --config=configs/howto100m.py --config.data.root=FOLDER --workdir=runs/howto100m
    python main.py --config=configs/howto100m.py:frames_96 --config.data.root=FOLDER --workdir=runs/howto100m_96

Lists and batches are as in configs/k400.py. Training begins with the 8-frame model of Kinetics-400, whose time
embedding is stretched; `--config.init_from=FILE` begins with other weights. Its hyper-parameters are Kinetics' (the author,
issue 9). A video is tested by as many clips as cover it, side by side.

Expected accuracy (top-1, %), with its source, by clips that cover so many seconds; the cost: 10^9 multiply-adds a view, FLOPs
of the whole training of 85,000 videos, one clip of each an epoch; memory: MiB for each clip of a device's batch in float32
(configs/recipes.py says how these are counted):

| variant   | covers | accuracy | source                            | a view | training | memory |
|-----------|--------|----------|-----------------------------------|--------|----------|--------|
| frames_8  |    8.5 | 56.8     | paper, Table 8; released the same |    196 |  1.4e18  |   2324 |
| frames_32 |   34.1 | 61.2     | paper, Table 8; released the same |    786 |  5.7e18  |   1490 |
| frames_64 |   68.3 | 62.2     | paper, Table 8; released the same |   1579 |  1.1e19  |   3032 |
| frames_96 |  102.4 | 62.6     | paper, Table 8; released the same |   2380 |  1.7e19  |   4631 |
| modern    |    8.5 | unknown  | not measured                      |    196 |  5.7e18  |   2355 |

Which videos the paper tested on was never published: the split is ours (docs/data.md), so these figures are a rough guide.
"""

from ml_collections import ConfigDict, config_dict

from configs.recipes import KINETICS, MODERN, OFFICIAL, Table, recipe, videos

HOWTO: Table = {
    "init_from": KINETICS,
    "clips": {"placement": "tiled"},
    "eval": {"average": "probabilities"},  # "the mean of the clips' predictions"
}

VARIANTS: dict[str, Table] = {
    "frames_8": {},
    "frames_32": {"model": {"num_frames": 32, "remat": "full"}},
    "frames_64": {"model": {"num_frames": 64, "remat": "full"}},
    "frames_96": {"model": {"num_frames": 96, "remat": "full"}},
    "modern": MODERN,
}
"""Name -> what it changes of the official recipe. Several can be named, with commas between: the later one wins."""


def get_config(variant: str = "frames_8") -> ConfigDict:
    """`variant`: keys of `VARIANTS`, with commas between."""
    # Whole videos, since a clip of 96 frames is longer than the minute that `tfds build` cuts them into. Clips of rate 32 take
    # 0.94 frames a second: keeping 2 needs about 0.5 TB, and keeping all of them 15 times as much.
    whole = config_dict.placeholder(float)
    data = videos("howto100m", max_fps=2.0, min_videos=100, val_fraction=0.29, part_seconds=whole)
    return recipe("howto100m", VARIANTS, variant, OFFICIAL, HOWTO, {"data": data})
