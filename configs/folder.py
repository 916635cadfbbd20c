"""Videos on your disk: a folder with one sub-folder for each label, lists of your own, or a published data set.

    python main.py --config=configs/folder.py --config.data.root=FOLDER --workdir=runs/mine
    python main.py --config=configs/folder.py:video_list --config.data.train=A.csv --config.data.val=B.csv --workdir=runs/mine
    python main.py --config=configs/folder.py:ucf101 --config.data.root=FOLDER --workdir=runs/ucf101

FOLDER holds LABEL/*.mp4 (a fifth of each label becomes the validation split), or train/LABEL/*.mp4 and val/LABEL/*.mp4; for the
others see docs/data.md.

A small model (1.2 million parameters) at 64 px, made to try a data set on a laptop: 32 short clips take about a minute on 2
CPU cores. Without pretrained weights and with few videos it learns its training clips by heart; it's no recipe for accuracy.
"""

from ml_collections import ConfigDict, config_dict

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


def get_config(name: str = "video_folder") -> ConfigDict:
    """`name`: a key of `FIELDS`."""
    if name not in FIELDS:
        raise InputError(f"configs/folder.py:NAME must be one of {', '.join(FIELDS)}, got {name!r}.")
    return ConfigDict(
        {
            "seed": 0,
            "model": {
                "attention_type": "divided_space_time",
                "attention_order": "time_then_space",
                "temporal_cls_key": False,
                "position_embedding": "space_time",
                "resize": "nearest",
                "activation": "gelu",
                "layer_norm_epsilon": 1e-6,
                "pre_norm": False,
                "image_size": 64,
                "patch_size": 16,
                "num_frames": 8,
                "embed_dim": 128,
                "depth": 4,
                "num_heads": 4,
                "mlp_ratio": 4.0,
                "drop_path_rate": 0.0,
                "dropout_rate": 0.0,
                "attention_dropout_rate": 0.0,
                "initialization": "from_scratch",
                "scan_layers": False,
                "remat": "none",
                "attention_implementation": "xla",
                "dtype": "float32",
            },
            "data": {
                "name": name,
                "root": config_dict.placeholder(str),
                **{key: config_dict.placeholder(str) if value is None else value for key, value in FIELDS[name].items()},
                "storage": "jpeg",
                "short_side": 96,
                "max_fps": config_dict.placeholder(float),
                "num_workers": 0,
                "data_dir": config_dict.placeholder(str),
            },
            "clips": {
                "sampling": "uniform",
                "sampling_rate": 8.0,
                "short_side": (72, 96),
                "placement": "official",
                "jitter": "uniform",
                "area": (0.08, 1.0),
                "aspect": (3 / 4, 4 / 3),
                "clips_per_video": 1,
            },
            "pixels": {
                "flip": "auto",
                "mean": (0.45, 0.45, 0.45),
                "std": (0.225, 0.225, 0.225),
                "brightness": 0.0,
                "contrast": 0.0,
                "saturation": 0.0,
                "hue": 0.0,
                "grey": 0.0,
                "blur": 0.0,
                "erase": 0.0,
                "rand_augment": (0, 0.0),
            },
            "mixing": {"mixup": 0.0, "cutmix": 0.0},
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
                "warmup_steps": 20,
                "weight_decay": 0.05,
                "decay_pattern": ".*/kernel",
                "clip_norm": 1.0,
            },
            "eval": {"split": "val", "batch_size": 8, "num_clips": 2, "num_crops": 3, "average": "probabilities"},
        }
    )
