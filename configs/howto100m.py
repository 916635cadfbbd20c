"""HowTo100M: classify videos of several minutes by their task, one of 1,059.

    python main.py --config=configs/howto100m.py --config.data.root=FOLDER --workdir=runs/howto100m
    python main.py --config=configs/howto100m.py:frames_96 --config.data.root=FOLDER --workdir=runs/howto100m_96

For lists and batches, see configs/k400.py. Training starts from the 8-frame Kinetics-400 model, whose time embedding is
interpolated; `--config.init_from=FILE` starts from other weights. The hyper-parameters are those of Kinetics (the author,
issue 9). Evaluation covers a video with adjacent clips.

Expected accuracy (top-1, %), with its source, and seconds that a clip covers; cost: 10^9 multiply-adds per view, FLOPs of
the whole training of 85,000 videos, one clip of each per epoch; memory: MiB for each clip of a device's batch in float32
(counted as described in configs/recipes.py):

| variant   | covers | accuracy | source                            | a view | training | memory |
|-----------|--------|----------|-----------------------------------|--------|----------|--------|
| frames_8  |    8.5 | 56.8     | paper, Table 8; released the same |    196 |  1.4e18  |   2324 |
| frames_32 |   34.1 | 61.2     | paper, Table 8; released the same |    786 |  5.7e18  |   1490 |
| frames_64 |   68.3 | 62.2     | paper, Table 8; released the same |   1579 |  1.1e19  |   3032 |
| frames_96 |  102.4 | 62.6     | paper, Table 8; released the same |   2380 |  1.7e19  |   4631 |
| modern    |    8.5 | unknown  | not measured                      |    196 |  5.7e18  |   2355 |

The paper's test videos were never published; the split is ours (docs/data.md), so these figures are a rough guide.
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
"""Maps a variant to its changes of the official recipe. Names can be combined with commas; later ones take precedence."""


def get_config(variant: str = "frames_8") -> ConfigDict:
    """Make the config; `variant` is one or more keys of `VARIANTS`, separated by commas."""
    # Whole videos, since a clip of 96 frames is longer than the one-minute parts of `tfds build`. Clips of rate 32 use 0.94
    # frames per second: storing 2 per second takes about 0.5 TB, storing all of them 15 times as much.
    whole = config_dict.placeholder(float)
    data = videos("howto100m", max_fps=2.0, min_videos=100, val_fraction=0.29, part_seconds=whole)
    return recipe("howto100m", VARIANTS, variant, OFFICIAL, HOWTO, {"data": data})
