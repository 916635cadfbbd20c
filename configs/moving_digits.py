"""Moving handwritten digits: classify eight motions (or the ten digits), trained from scratch.

    python main.py --config=configs/moving_digits.py --workdir=runs/moving_digits
    python main.py --config=configs/moving_digits.py:digit --workdir=runs/digits

Cost: about 2 minutes on 2 CPU cores: 3.5e12 FLOPs, 6 for each of the 25 x 10^6 multiply-adds of a clip's logits, and 4 MiB of
memory for each clip of a device's batch (counted as described in configs/recipes.py).

Expected accuracy: 100 % on 1,000 validation motions; about half of that with `--config.model.attention_type=space_only`, which
ignores the order of frames. Source: this recipe, run on 2 CPU cores.

There is no variant `modern`, which would need far more than two epochs.
"""

from ml_collections import ConfigDict, config_dict

from configs.recipes import NO_TIMESFORMER, Table, recipe

DIGITS: Table = {
    "model": {
        "attention_type": "divided_space_time",
        "image_size": 32,
        "patch_size": 8,
        "num_frames": 8,
        "embed_dim": 64,
        "depth": 3,
        "num_heads": 4,
        "initialization": "from_scratch",
        "scan_layers": False,
    },
    "clips": {"sampling_rate": 1.0, "short_side": (32, 32)},
    # A flip would turn one motion into another, and a digit into no digit at all.
    "pixels": {"flip": "off"},
    "train": {"batch_size": 32, "num_epochs": 2.0},
    "optimizer": {
        "name": "adamw",
        "learning_rate": 2e-3,
        "schedule": "cosine",
        "warmup_epochs": 50 / 375,
        "weight_decay": 0.05,
        "decay_pattern": ".*/kernel",
        "clip_norm": 1.0,
    },
    "eval": {"batch_size": 100, "num_crops": 1},
}

VARIANTS: dict[str, Table] = {
    "motion": {"data": {"label": "motion"}},
    "digit": {"data": {"label": "digit"}},
    # Two harder tasks: a digit in clutter with its colour, and motions that only several frames together reveal.
    "clutter": {"data": {"scene": "clutter", "label": "sign"}, "model": {"depth": 2}},
    "shaky": {"data": {"scene": "shaky", "label": "motion"}, "model": {"depth": 2}},
    # Narrow copies, to try the training of a convolutional network.
    "slowfast": {
        **NO_TIMESFORMER,
        "architecture": "slowfast",
        "cnn": {"image_size": 32, "num_frames": 8, "width": 16, "depths": (1, 1, 1, 1), "dropout_rate": 0.0},
    },
    "i3d": {
        **NO_TIMESFORMER,
        "architecture": "i3d",
        "cnn": {"image_size": 32, "num_frames": 8, "width": 8, "depths": (1, 1, 1, 1), "dropout_rate": 0.0},
    },
}
"""Maps a classification task, or another model, to its changes. Names can be combined with commas."""


def get_config(variant: str = "motion") -> ConfigDict:
    """Make the config; `variant` is one or more keys of `VARIANTS`, separated by commas."""
    data = {
        "name": "moving_digits",
        "scene": "motion",
        "label": "motion",
        "train_clips": 12_000,
        "val_clips": 1_000,
        "num_frames": 8,  # frames kept of each clip, from its middle: 2, 4, 6 or all 8
        "data_dir": config_dict.placeholder(str),
    }
    return recipe("moving_digits", VARIANTS, variant, DIGITS, {"data": data})
