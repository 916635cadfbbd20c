"""What all configs have in common: every field there is, each set to what leaves things as they are.

A config file takes `new_config` and says what it wants otherwise. The fields are explained where they are used: `model` in
`timesformer_jax.TimeSformer`, `clips` in `timesformer_jax.video.ClipOptions`, `pixels` and `mixing` in `PixelOptions` and
`MixingOptions` of `timesformer_jax.augment`, `optimizer` in `timesformer_jax.training.make_optimizer`, `mesh` in
`timesformer_jax.training.make_mesh`, the others here.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict, config_dict

from timesformer_jax.augment import MixingOptions, PixelOptions
from timesformer_jax.errors import InputError
from timesformer_jax.modeling import TimeSformer
from timesformer_jax.video import ClipOptions

UNSET = object()
"""In a table of `change`: the field isn't given."""

SECTIONS: dict[str, type] = {
    "model": TimeSformer,
    "clips": ClipOptions,
    "pixels": PixelOptions,
    "mixing": MixingOptions,
}
"""Section -> the class that has its fields, their defaults and their ranges."""

NOT_IN_CONFIGS = {"model": ("num_classes", "num_channels", "parent", "name"), "clips": ("num_frames", "crop_size")}
"""Section -> fields of the class that follow from the data, from `model`, or that no run changes."""

EXCEPTIONS: dict[str, dict[str, Any]] = {
    # Text, as a command line has it; and the depth costs no compile time, at the price of a stacked parameter tree.
    "model": {"dtype": "float32", "scan_layers": True},
}
"""Section -> the fields whose default in a config is another one than the class's."""


def defaults(section: str) -> dict[str, Any]:
    """Field to default value, for a key of `SECTIONS`."""
    fields = dataclasses.fields(SECTIONS[section])
    own = {field.name: field.default for field in fields if field.name not in NOT_IN_CONFIGS.get(section, ())}
    return own | EXCEPTIONS.get(section, {})


_FOLLOWING = {
    "model": (
        *("attention_type", "attention_order", "temporal_cls_key", "position_embedding", "resize", "activation"),
        *("layer_norm_epsilon", "pre_norm", "image_size", "patch_size", "num_frames", "embed_dim", "depth", "num_heads"),
        "mlp_ratio",
    ),
    # Without weights the rate is 256 frames at 30 fps / `num_frames`, and short sides are in proportion to `image_size`.
    "clips": ("sampling", "sampling_rate", "placement", "short_side"),
    "pixels": ("channel_order", "mean", "std"),
}

FOLLOWING: dict[str, dict[str, Any]] = {
    section: {name: defaults(section)[name] for name in names} for section, names in _FOLLOWING.items()
}
"""Section -> the fields that follow the weights (the workdir's checkpoint, else `init_from`) unless a config or the command
line sets them, with their values without weights. In `new_config` they are not set; `experiment/follow.py` fills them in."""


def _section(name: str) -> dict[str, Any]:
    """The fields of a key of `SECTIONS`, those of `FOLLOWING` not set."""
    following = FOLLOWING.get(name, {})
    return defaults(name) | {field: config_dict.placeholder(type(default)) for field, default in following.items()}


def new_config(**sections: Any) -> ConfigDict:
    """A config with every field, `sections` changed or (for `data`, which has no fields of its own here) given.

    Raises `InputError` for a field that doesn't exist.
    """
    config: Any = ConfigDict(
        {
            "seed": 0,
            # What to begin with where the workdir has no checkpoint: a file, folder or name that `timesformer_jax.load` takes
            # (a run's workdir, too). Not given, or None: random numbers.
            "init_from": config_dict.placeholder(str),
            # Of a file with several models, which one: an entry such as "model_ema" (`entry` of `timesformer_jax.load`), or the
            # tensors whose names begin with a prefix such as "student.". Not given, it follows from the file.
            "init_from_entry": config_dict.placeholder(str),
            "init_from_prefix": config_dict.placeholder(str),
            # Regular expressions of tensors without a place in the model, which are ignored, and of parameters that the weights
            # lack, which are drawn: ("aux_head.*",) for tensors that come along.
            "init_from_allow": (),
            # A sentence about the run for its log and results.json, such as what the config is not good for. It is left out if
            # `init_from` is set.
            "note": config_dict.placeholder(str),
            # A few steps on a few videos, with every number that isn't finite shown where it arises.
            "debug": False,
            # The first batch alone, unchanged, until its loss is near zero: whether model and data fit together at all.
            "overfit_batch": False,
            # A trace of five steps, for TensorBoard or xprof, in the workdir.
            "profile": False,
            "mesh": {"data": -1, "fsdp": 1, "tensor": 1, "context": 1},
            "model": _section("model"),
            "data": {},
            # Of `span`: frames at 30 fps that a clip covers, for a `sampling_rate` that isn't given.
            "clips": {**_section("clips"), "span": config_dict.placeholder(float)},
            "pixels": _section("pixels"),
            "mixing": _section("mixing"),
            "train": {
                # Clips of all devices together; each step goes through them in `accumulation` parts.
                "batch_size": 64,
                "accumulation": 1,
                "num_epochs": 15.0,
                # Of the training videos, drawn by the seed; epochs are of what is left (the paper's Figure 4).
                "data_share": 1.0,
                "label_smoothing": 0.0,
                # Of a moving average of the parameters, which is what is tested; 0 for none.
                "ema_decay": 0.0,
                # So many steps in a row whose loss or gradient isn't finite end training; fewer are skipped.
                "max_skipped_steps": 10,
                "log_every_steps": 50,
                "evaluate_every_epochs": 1.0,
                "checkpoint_every_epochs": 1.0,
            },
            "optimizer": {
                "name": "sgd",
                "learning_rate": 0.005,
                "schedule": "constant",
                # For the schedule "steps": (epoch, share of learning_rate) pairs. A begin that is text is a fraction of the run
                # and moves with `train.num_epochs`: ((0, 1.0), ("11/15", 0.1)).
                "steps": (),
                "warmup_epochs": 0.0,
                "weight_decay": 1e-4,
                "decay_pattern": ".*",
                "clip_norm": 0.0,
                "momentum": 0.9,
                "b2": 0.999,
                "layer_decay": 1.0,
                "rates": ((".*", 1.0),),
            },
            "eval": {
                "checkpoint": "latest",  # or "best": of the highest accuracy in validation
                "split": "val",
                # Clips of all devices together, rounded up to their number; the figures don't depend on it.
                "batch_size": 64,
                # Clips of each video (as many as it takes where `clips.placement` is "tiled"), and crops of each: 1 or 3.
                "num_clips": 1,
                "num_crops": 3,
                # Which figures stand on top in results.json, where both are, and whose scores go to predictions.jsonl: the
                # mean over the views of "probabilities" (the paper) or of "logits" (the official code).
                "average": "probabilities",
            },
            # `--mode=report`: so many videos that the model is surest of, rightly and wrongly, are shown with what it looks at;
            # the features of so many become points.
            "report": {"num_videos": 4, "num_points": 1000},
            # `--mode=probe`: heads on frozen features, one for each combination of the two tuples (V-JEPA 2's: 20 heads), all
            # trained at once. `train` says how often they are tested and how often the log has a line.
            "probe": {
                "kind": "linear",  # or "attentive"
                "learning_rates": (0.005, 0.003, 0.001, 0.0003, 0.0001),
                "weight_decays": (0.01, 0.1, 0.4, 0.8),
                # If not given, 20, or on small sets as many as make 300 steps.
                "num_epochs": config_dict.placeholder(float),
                # Clips of all devices together. If not given, `train.batch_size`, halved down to 8 until a small set makes 4
                # batches.
                "batch_size": config_dict.placeholder(int),
                # Of an attentive probe: its blocks (V-JEPA 2's has 4) and the heads of its attention (its 16).
                "depth": 1,
                "num_heads": 16,
                # So many heads at a time, where all at once need too much memory; 0 for all.
                "heads_at_once": 0,
            },
            # `--mode=features`: what the frozen model says of every video, in shards. Which clips and crops, and in batches of
            # how many, `eval` says.
            "features": {
                "kind": "cls",  # one vector a clip; or "frames", one a frame, or "patches", one a patch
                "splits": ("val",),
                "dtype": "float32",  # or "float16"
                # Of each shard; as many as make about 256 MiB where it isn't given.
                "videos_per_shard": config_dict.placeholder(int),
            },
        }
    )
    for section, values in sections.items():
        change(config, section, values)
    return config


def change(config: Any, section: str, values: Any) -> None:
    """Sets fields of a section (any, of `data`), or a field that is no section; `UNSET` makes one an optional field, not given.

    Raises `InputError` for one that doesn't exist.
    """
    if section not in config:
        raise InputError(f"A config has no section {section!r}.")
    if not isinstance(values, Mapping):
        config[section] = values
        return
    for field, value in values.items():
        if section != "data" and field not in config[section]:
            raise InputError(f"The config's {section} has no field {field!r}.")
        if value is UNSET:
            value = config_dict.placeholder(config[section].get_type(field))
        config[section][field] = value
