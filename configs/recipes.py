"""Tables shared by the recipes: official and modern hyper-parameters, larger inputs, and composition of variants.

Sources: the official `configs/` and `config/defaults.py`, and the paper's appendix (15 epochs, the same for every data set).

Costs in the recipes' tables:

- A view: 10^9 multiply-adds, counted as in the paper's tables (`timesformer cost`; FLOPs as counted by others are twice as
  many). Evaluation takes three views per clip.
- Training: 6 FLOPs per multiply-add of the logits, 2 for the forward pass and 4 for the backward pass; 2 if only the classifier
  is trained. The logits need 5 % fewer multiply-adds than a view (`count_multiply_adds(model, for_logits=True)`), since the
  last block computes only what the CLS token needs.
- Memory: what one more clip in the batch adds to the compiled training step, according to XLA's analysis of the step for a CPU.
  Memory layouts differ between devices, so this is an estimate. Parameters and optimizer state come on top: 0.9 GiB with SGD,
  1.8 GiB with `modern` (two moments, and the average).
"""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict, config_dict

from configs.common import FOLLOWING, UNSET, change, defaults, new_config
from timesformer_jax.errors import InputError

Table = Mapping[str, Any]
"""Maps a section to the fields that differ, or a field outside the sections to its value."""

IMAGENET_21K = "hf:google/vit-base-patch16-224"
"""The paper's "ImageNet-21K": ViT-B/16 pretrained on it and fine-tuned on ImageNet-1K.

The official code takes the same weights from timm.
"""
IMAGENET_1K = "hf:facebook/deit-base-patch16-224"
"""The paper's "ImageNet-1K": DeiT-B."""
KINETICS = "timesformer-base-k400"

OFFICIAL: Table = {
    "init_from": IMAGENET_21K,
    # Width, depth and patch size follow the weights; the fields here are the same in all of the paper's runs.
    "model": {
        "attention_type": "divided_space_time",
        "num_frames": 8,
        "image_size": 224,
        "drop_path_rate": 0.1,  # hard-coded in the official model; no configuration mentions it
    },
    "clips": {
        "sampling": "uniform",
        "sampling_rate": 32.0,
        "placement": "official",
        "short_side": (256, 320),
        "jitter": "uniform",
    },
    # From the official data loaders, which the released models expect; the ImageNet ViT was trained with 0.5 and 0.5.
    "pixels": {"mean": (0.45, 0.45, 0.45), "std": (0.225, 0.225, 0.225), "channel_order": "rgb"},
    # The official files say 8 clips, but gradients are accumulated up to `GLOBAL_BATCH_SIZE`, 64 by default, and the learning
    # rate of 0.005 is meant for that size.
    "train": {"batch_size": 64, "num_epochs": 15.0},
    "optimizer": {
        "name": "sgd",
        "learning_rate": 0.005,
        "schedule": "steps",
        "steps": ((0, 1.0), ("11/15", 0.1), ("14/15", 0.01)),  # at epochs 11 and 14 of 15
        "warmup_epochs": 0.0,
        "momentum": 0.9,
        # For all parameters, biases, LayerNorms and embeddings included: the official list of exceptions is never used.
        "weight_decay": 1e-4,
        "decay_pattern": ".*",
    },
    # One clip, three crops. The paper averages probabilities; the code behind the released figures adds up logits.
    "eval": {"num_clips": 1, "num_crops": 3, "average": "logits"},
}

FINETUNED: Table = {
    "init_from": KINETICS,
    # The model, its clips and its pixels follow the weights that `init_from` names.
    **{section: dict.fromkeys(fields, UNSET) for section, fields in FOLLOWING.items()},
    # A tenth of the official rate, since small data sets are quickly overfitted. With ten times the official rate and from
    # ImageNet, a user of the official code reached 42.9 % on UCF-101.
    "optimizer": {"learning_rate": 5e-4},
}
SMALL_DATA: Table = {
    "model": {"drop_path_rate": 0.1},
    # Frames from the whole video: a span longer than the video would repeat its last frame.
    "clips": {"sampling": "segments", "jitter": "uniform", "clips_per_video": 1},
    # Small batches, for more steps: 24 videos make 90 steps.
    "train": {
        "batch_size": 8,
        "num_epochs": 30.0,
        "label_smoothing": 0.1,
        "ema_decay": 0.0,
        "log_every_steps": 10,
        "evaluate_every_epochs": 5.0,
        "checkpoint_every_epochs": 10.0,
    },
    "optimizer": {
        "name": "adamw",
        # For width 768. The best rate decreases with the width: narrower models need more, 1.2e-3 at width 128.
        "learning_rate": 2e-4,
        "schedule": "cosine",
        "steps": (),
        "warmup_epochs": 3.0,
        "momentum": 0.9,
        "b2": 0.999,
        "weight_decay": 0.05,
        "decay_pattern": ".*/kernel",
        "clip_norm": 1.0,
        "layer_decay": 0.75,
    },
    "eval": {"average": "probabilities"},
}
"""Fine-tuning of an image or video model on a few to a few hundred videos; tuned by experiment (docs/small_data.md)."""
HEAD_ONLY: Table = {"optimizer": {"learning_rate": 0.05, "weight_decay": 0.0, "rates": (("head/.*", 1.0), (".*", None))}}
"""Train only the classifier, on frozen features, at a third of the computation."""

HR: Table = {
    "model": {"image_size": 448, "num_frames": 16, "remat": "full"},
    "clips": {"sampling_rate": 16.0, "short_side": (448, 512)},
    "data": {"short_side": 448},
}
LARGE: Table = {"model": {"num_frames": 96, "remat": "full"}, "clips": {"sampling_rate": 4.0}}

TPU: Table = {"model": {"dtype": "bfloat16", "remat": "full", "scan_layers": True}}
"""What a TPU wants, to combine with any variant, such as `configs/k400.py:base,tpu` (docs/scale.md).

Its matrix units compute in bfloat16. Without remat, a scan saves the activations of all blocks in memory, which fills the
chip and takes as long as computing them again.
"""

NO_TIMESFORMER: Table = {"model": {**defaults("model"), **dict.fromkeys(FOLLOWING["model"], UNSET)}}
"""Resets `model`, for an architecture whose fields are in `cnn`."""

CONVOLUTIONAL: Table = {
    **NO_TIMESFORMER,
    "init_from": None,
    "cnn": {"image_size": 224, "dropout_rate": 0.5},
    "clips": {"eval_crop_size": 256},
    "train": {"batch_size": 64, "num_epochs": 196.0},
    "optimizer": {
        "learning_rate": 0.1,  # for 64 clips
        "schedule": "cosine",
        "steps": (),
        "warmup_epochs": 34.0,
        "weight_decay": 1e-4,
        "decay_pattern": ".*/kernel|head/.*",  # all but the scales and biases of BatchNorm
    },
    "eval": {"num_clips": 10, "num_crops": 3, "average": "probabilities"},
}
"""Training of the paper's convolutional networks from random weights, as published with SlowFast.

Source: PySlowFast, `configs/Kinetics/{I3D,SLOWFAST}_8x8_R50.yaml`. Three differences: there, the warm-up starts from a tenth of
the rate, the cosine starts with the run instead of after the warm-up (a peak of 0.093), and before each evaluation the running
statistics are computed again from 200 batches.
"""
MODERN: Table = {
    "model": {"drop_path_rate": 0.1, "dtype": "bfloat16"},
    "clips": {"jitter": "resized_crop", "area": (0.08, 1.0), "aspect": (3 / 4, 4 / 3), "clips_per_video": 2},
    "pixels": {"rand_augment": (4, 7.0), "erase": 0.25},
    # `cutmix` on clips is VideoMix.
    "mixing": {"mixup": 0.8, "cutmix": 1.0},
    "train": {"num_epochs": 30.0, "label_smoothing": 0.1, "ema_decay": 0.9999},
    "optimizer": {
        "name": "adamw",
        "learning_rate": 2.5e-4,  # 1e-3 per 256 clips of the batch
        "schedule": "cosine",
        "steps": (),
        "warmup_epochs": 5.0,
        "momentum": 0.9,
        "b2": 0.999,
        "weight_decay": 0.05,
        "decay_pattern": ".*/kernel",
        "clip_norm": 1.0,
        "layer_decay": 0.75,
    },
}
"""Fine-tuning of a ViT-B on Kinetics-400 as in VideoMAE and its successors, but shorter.

They train for 75 to 100 epochs after pretraining on videos. With two clips per video, 30 epochs see each video 60 times, at 4
times the official cost. The gain for a TimeSformer has not been measured; PP-TimeSformer gained 1.3 points from part of these
changes (20 epochs, VideoMix, smoothing, averaging).
"""


def merge(*tables: Table) -> Table:
    """Merge tables; later ones take precedence."""
    merged: dict[str, Any] = {}
    for table in tables:
        for section, values in table.items():
            merged[section] = {**merged.get(section, {}), **values} if isinstance(values, Mapping) else values
    return merged


I3D: Table = merge(CONVOLUTIONAL, {"architecture": "i3d", "cnn": {"num_frames": 8}, "clips": {"sampling_rate": 8.0}})
SLOWFAST: Table = merge(CONVOLUTIONAL, {"architecture": "slowfast", "cnn": {"num_frames": 32}, "clips": {"sampling_rate": 2.0}})

FINETUNED_VARIANTS: dict[str, Table] = {
    "base": {},
    "head": HEAD_ONLY,
    "modern": merge(MODERN, {"optimizer": {"learning_rate": 1e-4}}),
}
"""Variants of fine-tuning a Kinetics model on a small data set by the official schedule."""


def videos(
    name: str, *, storage: str = "h264", short_side: int | None = 256, max_fps: float | None = None, **layout: Any
) -> Table:
    """Fields of `data` for a data set of video files on disk.

    Call it once per config: unset fields would be shared between configs.

    Args:
        name: Data set, as in `configs/folder.py`.
        storage: Codec of the prepared frames.
        short_side: Short side of the stored frames in pixels; None to follow `clips.short_side`.
        max_fps: Largest frame rate to store; None for the original one.
        **layout: Fields that only this data set has.
    """
    frames, side = config_dict.placeholder(float), config_dict.placeholder(int)
    frames.set(max_fps)
    side.set(short_side)
    return {
        "name": name,
        "root": config_dict.placeholder(str),
        **layout,
        "storage": storage,
        # Unset: the lower end of `clips.short_side`, since larger frames would only be scaled down again.
        "short_side": side,
        "max_fps": frames,
        # Videos beyond these limits are skipped, and the reason is reported.
        "limits": {"max_pixels": 8192 * 8192, "max_seconds": 24 * 3600.0, "max_bytes": 64 << 30},
        "num_workers": 0,
        # Share of the videos that this machine prepares with --mode=prepare, such as "3/16" (docs/data.md).
        "shard": config_dict.placeholder(str),
        "data_dir": config_dict.placeholder(str),
    }


def recipe(file: str, variants: Mapping[str, Table], variant: str, *bases: Table) -> ConfigDict:
    """Make a config from the defaults, `bases` and the named variants; later ones take precedence.

    Args:
        file: Name of the config file, for errors.
        variants: Known variants.
        variant: Comma-separated keys of `variants`.
        *bases: Tables that all variants share.

    Raises:
        InputError: If a variant is unknown.
    """
    chosen = variant.split(",") if variant else []
    for name in chosen:
        if name not in variants:
            raise InputError(
                f"configs/{file}.py has no variant {name!r}. Known ones: {', '.join(variants)}; several with commas between."
            )
    config = new_config()
    for table in (*bases, *(variants[name] for name in chosen)):
        for section, values in table.items():
            change(config, section, values)
    return config
