"""Eight motions of handwritten digits (or the ten digits), learned from nothing.

    python main.py --config=configs/moving_digits.py --workdir=runs/moving_digits
    python main.py --config=configs/moving_digits.py:digit --workdir=runs/digits

Cost: about 2 minutes on 2 CPU cores. Result: all of 1,000 validation motions; with
`--config.model.attention_type=space_only`, which can't tell the order of frames, about half of them.
"""

from ml_collections import ConfigDict, config_dict


def get_config(label: str = "motion") -> ConfigDict:
    """`label`: what is to be named, "motion" or "digit"."""
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
                "image_size": 32,
                "patch_size": 8,
                "num_frames": 8,
                "embed_dim": 64,
                "depth": 3,
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
                "name": "moving_digits",
                "label": label,
                "train_clips": 12_000,
                "val_clips": 1_000,
                "data_dir": config_dict.placeholder(str),
            },
            "clips": {
                "sampling": "uniform",
                "sampling_rate": 1.0,
                "short_side": (32, 32),
                "placement": "official",
                "jitter": "uniform",
                "area": (0.08, 1.0),
                "aspect": (3 / 4, 4 / 3),
                "clips_per_video": 1,
            },
            # No flips: they would turn one motion into another, and a digit into none.
            "pixels": {
                "flip": "off",
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
                "batch_size": 32,
                "num_epochs": 2.0,
                "log_every_steps": 50,
                "evaluate_every_epochs": 1.0,
                "checkpoint_every_epochs": 1.0,
            },
            "optimizer": {
                "name": "adamw",
                "learning_rate": 2e-3,
                "schedule": "cosine",
                "warmup_steps": 50,
                "weight_decay": 0.05,
                "decay_pattern": ".*/kernel",
                "clip_norm": 1.0,
            },
            "eval": {"split": "val", "batch_size": 100, "num_clips": 1, "num_crops": 1, "average": "probabilities"},
        }
    )
