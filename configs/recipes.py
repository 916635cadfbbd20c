"""What the recipes have in common: the official hyper-parameters, the modern ones, the larger inputs, and how variants are
put together.

Sources: the official `configs/` and `config/defaults.py`, and the paper's appendix (15 epochs, the same for every data set).

The costs that the recipes state: GFLOPs are 10^9 multiply-adds of one view, counted as in the paper's tables (`timesformer
cost`; what others call FLOPs are twice as many), and a test takes three views a clip. Training takes 6 FLOPs for each
multiply-add that the logits need (`count_multiply_adds(model, for_logits=True)`, 5 % fewer: the last block computes only what
the CLS needs): 2 of the forward pass, 4 of the backward pass; with the classifier alone 2. Memory is what one more clip in the
batch adds to the compiled training step, from XLA's own analysis of the step for a CPU; other devices lay things out in other
ways, so take it as an estimate. On top of it come the parameters and what the optimizer keeps: 0.9 GiB with SGD, 1.8 with
`modern` (two moments, and the average).
"""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict, config_dict

from configs.common import FOLLOWING, UNSET, change, new_config
from timesformer_jax.errors import InputError

Table = Mapping[str, Any]
"""Section -> fields that differ, or a field that is no section -> its value."""

IMAGENET_21K = "hf:google/vit-base-patch16-224"
"""The paper's "ImageNet-21K": ViT-B/16, trained on it and fine-tuned on ImageNet-1K; the official code takes the same weights
from timm."""
IMAGENET_1K = "hf:facebook/deit-base-patch16-224"
"""The paper's "ImageNet-1K": DeiT-B."""
KINETICS = "timesformer-base-k400"

OFFICIAL: Table = {
    "init_from": IMAGENET_21K,
    # The width, depth and patches follow the weights; what the paper's runs have whatever they begin with is said here.
    "model": {
        "attention_type": "divided_space_time",
        "num_frames": 8,
        "image_size": 224,
        "drop_path_rate": 0.1,  # written into the official model: no configuration mentions it
    },
    "clips": {
        "sampling": "uniform",
        "sampling_rate": 32.0,
        "placement": "official",
        "short_side": (256, 320),
        "jitter": "uniform",
    },
    # Those of the official data loaders, though ImageNet's ViT was trained with 0.5 and 0.5: the released models want them.
    "pixels": {"mean": (0.45, 0.45, 0.45), "std": (0.225, 0.225, 0.225), "channel_order": "rgb"},
    # The files say 8 clips; but smaller batches are accumulated up to `GLOBAL_BATCH_SIZE`, whose default is 64, and the rate
    # of 0.005 is for that.
    "train": {"batch_size": 64, "num_epochs": 15.0},
    "optimizer": {
        "name": "sgd",
        "learning_rate": 0.005,
        "schedule": "steps",
        "steps": ((0, 1.0), ("11/15", 0.1), ("14/15", 0.01)),  # at epochs 11 and 14 of 15
        "warmup_epochs": 0.0,
        "momentum": 0.9,
        # Of everything, biases, LayerNorms and embeddings too: the official list of exceptions is never used.
        "weight_decay": 1e-4,
        "decay_pattern": ".*",
    },
    # One clip, three crops; the paper averages probabilities, the code that the released figures come from adds up logits.
    "eval": {"num_clips": 1, "num_crops": 3, "average": "logits"},
}

FINETUNED: Table = {
    "init_from": KINETICS,
    # The model is that of the weights, whatever `init_from` names; so are its clips and their pixels.
    **{section: dict.fromkeys(fields, UNSET) for section, fields in FOLLOWING.items()},
    # Small data sets are learned by heart in no time: a tenth of the rate. At ten times the official one, and from ImageNet,
    # a user of the official code ended at 42.9 % of UCF-101.
    "optimizer": {"learning_rate": 5e-4},
}
SMALL_DATA: Table = {
    "model": {"drop_path_rate": 0.1},
    # Frames of the whole video: a span that is longer than the video would repeat its last frame.
    "clips": {"sampling": "segments", "jitter": "uniform", "clips_per_video": 1},
    # Small batches, since what few videos lack is steps: 24 videos make 90 of them.
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
        # For width 768; the best rate falls with the width, so narrower models take more: 1.2e-3 at width 128.
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
"""A few to a few hundred videos, from an image model or a video model; found by experiment (docs/small_data.md)."""
HEAD_ONLY: Table = {"optimizer": {"learning_rate": 0.05, "weight_decay": 0.0, "rates": (("head/.*", 1.0), (".*", None))}}
"""The classifier alone: what is in the features already, for a third of the computation."""

HR: Table = {
    "model": {"image_size": 448, "num_frames": 16, "remat": "full"},
    "clips": {"sampling_rate": 16.0, "short_side": (448, 512)},
    "data": {"short_side": 448},
}
LARGE: Table = {"model": {"num_frames": 96, "remat": "full"}, "clips": {"sampling_rate": 4.0}}

MODERN: Table = {
    "model": {"drop_path_rate": 0.1, "dtype": "bfloat16"},
    "clips": {"jitter": "resized_crop", "area": (0.08, 1.0), "aspect": (3 / 4, 4 / 3), "clips_per_video": 2},
    "pixels": {"rand_augment": (4, 7.0), "erase": 0.25},
    # The second is VideoMix.
    "mixing": {"mixup": 0.8, "cutmix": 1.0},
    "train": {"num_epochs": 30.0, "label_smoothing": 0.1, "ema_decay": 0.9999},
    "optimizer": {
        "name": "adamw",
        "learning_rate": 2.5e-4,  # 1e-3 for each 256 clips of a batch
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
"""How VideoMAE and its successors fine-tune a ViT-B on Kinetics-400, shorter: they take 75 to 100 epochs after pretraining
on videos. With two clips a video, 30 epochs see each video 60 times: 4 times the official cost. Nobody has measured
what it gains for a TimeSformer; PP-TimeSformer gained 1.3 points by part of it (20 epochs, VideoMix, smoothing, averaging).
"""


def merge(*tables: Table) -> Table:
    """All of them in one; the later one wins."""
    merged: dict[str, Any] = {}
    for table in tables:
        for section, values in table.items():
            merged[section] = {**merged.get(section, {}), **values} if isinstance(values, Mapping) else values
    return merged


FINETUNED_VARIANTS: dict[str, Table] = {
    "base": {},
    "head": HEAD_ONLY,
    "modern": merge(MODERN, {"optimizer": {"learning_rate": 1e-4}}),
}
"""Of a small data set that begins with a Kinetics model: what a variant changes of fine-tuning by the official schedule."""


def videos(
    name: str, *, storage: str = "h264", short_side: int | None = 256, max_fps: float | None = None, **layout: Any
) -> Table:
    """The fields of `data` of a data set that is files on someone's disk; `layout`: those that only it has.

    For one config: what isn't given yet is shared by all that it is put into.
    """
    frames, side = config_dict.placeholder(float), config_dict.placeholder(int)
    frames.set(max_fps)
    side.set(short_side)
    return {
        "name": name,
        "root": config_dict.placeholder(str),
        **layout,
        "storage": storage,
        # As large as `clips.short_side` begins, also if it isn't given: more would only be scaled down again.
        "short_side": side,
        "max_fps": frames,
        # What a video may have at most; files with more are left out, with the reason.
        "limits": {"max_pixels": 8192 * 8192, "max_seconds": 24 * 3600.0, "max_bytes": 64 << 30},
        "num_workers": 0,
        # The share of the videos that this machine prepares with --mode=prepare, such as "3/16"; docs/data.md.
        "shard": config_dict.placeholder(str),
        "data_dir": config_dict.placeholder(str),
    }


def recipe(file: str, variants: Mapping[str, Table], variant: str, *bases: Table) -> ConfigDict:
    """The config that `bases` make of the defaults, changed by the named variants, of which the later one wins.

    `variant`: keys of `variants`, with commas between. `file`: whose variants they are.

    Raises `InputError`, with the known ones, for another.
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
