"""All fields of the configs, with neutral default values.

A config file starts from `new_config` and sets the fields that differ. `experiment/unread.py` lists the fields that are read
only with some values of another field. Most fields are documented where they are used: `model` in
`timesformer_jax.TimeSformer`, `cnn` in `timesformer_jax.SlowFast` and `timesformer_jax.I3D`, `clips` in
`timesformer_jax.video.ClipOptions`, `pixels` and `mixing` in `PixelOptions` and `MixingOptions` of `timesformer_jax.augment`,
`optimizer` in `timesformer_jax.training.make_optimizer`, `mesh` in `timesformer_jax.training.make_mesh`. The others are
documented here.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict, config_dict

from timesformer_jax.augment import MixingOptions, PixelOptions
from timesformer_jax.cnn3d import SlowFast
from timesformer_jax.errors import InputError
from timesformer_jax.modeling import TimeSformer
from timesformer_jax.video import ClipOptions

UNSET = object()
"""Value to pass to `change` to unset an optional field."""

SECTIONS: dict[str, type] = {
    "model": TimeSformer,
    "cnn": SlowFast,
    "clips": ClipOptions,
    "pixels": PixelOptions,
    "mixing": MixingOptions,
}
"""Maps a section to the class that defines its fields, their defaults and their ranges."""

NOT_IN_CONFIGS = {
    "model": ("num_classes", "num_channels", "parent", "name"),
    "cnn": ("num_classes", "objective", "parent", "name"),
    "clips": ("num_frames", "crop_size"),
}
"""Maps a section to the fields of its class that follow from the data or from `model`, or that no run changes."""

EXCEPTIONS: dict[str, dict[str, Any]] = {
    # `dtype` is text, as on a command line. Scanned layers make the compile time independent of the depth, at the cost of a
    # stacked parameter tree.
    "model": {"dtype": "float32", "scan_layers": True},
    "cnn": {"dtype": "float32"},
}
"""Maps a section to the fields whose default in a config differs from that of the class."""


def defaults(section: str) -> dict[str, Any]:
    """Default values by field, for a key of `SECTIONS`."""
    fields = dataclasses.fields(SECTIONS[section])
    own = {field.name: field.default for field in fields if field.name not in NOT_IN_CONFIGS.get(section, ())}
    return own | EXCEPTIONS.get(section, {})


_FOLLOWING = {
    "model": (
        *("attention_type", "attention_order", "temporal_cls_key", "position_embedding", "resize", "activation"),
        *("layer_norm_epsilon", "pre_norm", "image_size", "patch_size", "num_frames", "embed_dim", "depth", "num_heads"),
        "mlp_ratio",
    ),
    # Without weights, the frames of the architecture: 32 for SlowFast, 8 for I3D.
    "cnn": ("num_frames", "image_size"),
    # Without weights, the rate is 256 frames at 30 fps divided by `num_frames`, and short sides are proportional to
    # `image_size`.
    "clips": ("sampling", "sampling_rate", "placement", "short_side"),
    "pixels": ("channel_order", "mean", "std"),
}

FOLLOWING: dict[str, dict[str, Any]] = {
    section: {name: defaults(section)[name] for name in names} for section, names in _FOLLOWING.items()
}
"""Maps a section to the fields that follow the weights, with their values without weights.

The weights are the workdir's checkpoint, else `init_from`. A config or the command line can set the fields instead. They are
unset in `new_config`; `experiment/follow.py` fills them in.
"""


def _section(name: str) -> dict[str, Any]:
    """Fields of a key of `SECTIONS`, with those of `FOLLOWING` unset."""
    following = FOLLOWING.get(name, {})
    return defaults(name) | {field: config_dict.placeholder(type(default)) for field, default in following.items()}


def new_config(**sections: Any) -> ConfigDict:
    """Make a config with all fields, changed by `sections`; `data` has only the fields given there.

    Raises `InputError` if a field doesn't exist.
    """
    config: Any = ConfigDict(
        {
            "seed": 0,
            # Initial weights if the workdir has no checkpoint: a file, folder or name that `timesformer_jax.load` takes, such
            # as the workdir of another run. Unset or None: random initialization.
            "init_from": config_dict.placeholder(str),
            # The model to use in a file with several: an entry such as "model_ema" (`entry` of `timesformer_jax.load`), or the
            # tensors whose names begin with a prefix such as "student.". Unset: chosen from the file's contents.
            "init_from_entry": config_dict.placeholder(str),
            "init_from_prefix": config_dict.placeholder(str),
            # Regular expressions of tensors to ignore because the model has no place for them, such as ("aux_head.*",), and of
            # parameters to initialize randomly because the weights lack them.
            "init_from_allow": (),
            # A sentence about the run for its log and results.json, such as the limitations of the config. Omitted if
            # `init_from` is set.
            "note": config_dict.placeholder(str),
            # Run a few steps on a few videos, and report where non-finite values first arise.
            "debug": False,
            # Overfit the first batch, without augmentation, until its loss is near zero: checks that model and data fit.
            "overfit_batch": False,
            # Trace five steps for TensorBoard or xprof, in the workdir.
            "profile": False,
            # "timesformer", whose fields are in `model`, or "i3d" or "slowfast", whose fields are in `cnn`. A field that the
            # architecture doesn't read must not be set.
            "architecture": "timesformer",
            "mesh": {"data": -1, "fsdp": 1, "tensor": 1, "context": 1},
            "model": _section("model"),
            "cnn": _section("cnn"),
            "data": {},
            # `span`: number of frames at 30 fps that a clip covers; sets `sampling_rate` if that is unset.
            "clips": {**_section("clips"), "span": config_dict.placeholder(float)},
            "pixels": _section("pixels"),
            "mixing": _section("mixing"),
            "train": {
                # Clips per step over all devices, computed in `accumulation` micro-batches.
                "batch_size": 64,
                "accumulation": 1,
                "num_epochs": 15.0,
                # Fraction of the training videos to use, drawn by the seed; epochs count only those (the paper's Figure 4).
                "data_share": 1.0,
                "label_smoothing": 0.0,
                # Decay of a moving average of the parameters, which is then the model that is evaluated; 0: none.
                "ema_decay": 0.0,
                # Stop after this many consecutive steps with a non-finite loss or gradient; isolated ones are skipped.
                "max_skipped_steps": 10,
                "log_every_steps": 50,
                "evaluate_every_epochs": 1.0,
                "checkpoint_every_epochs": 1.0,
            },
            "optimizer": {
                "name": "sgd",
                "learning_rate": 0.005,
                "schedule": "constant",
                # For the schedule "steps": (epoch, fraction of learning_rate) pairs. Instead of an epoch, a pair may give a
                # part of the run as text, which scales with `train.num_epochs`: ((0, 1.0), ("11/15", 0.1)).
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
                "checkpoint": "latest",  # or "best": the highest validation accuracy
                "split": "val",
                # Clips over all devices, rounded up to a multiple of their number; results don't depend on it.
                "batch_size": 64,
                # Clips per video (not with `clips.placement` "tiled", which covers the video), and crops per clip: 1 or 3.
                "num_clips": 1,
                "num_crops": 3,
                # Average over the views of "probabilities" (the paper) or "logits" (the official code). Selects the headline
                # figures of results.json, which contains both, and the scores in predictions.jsonl.
                "average": "probabilities",
            },
            # `--mode=report`: number of wrong predictions, and of right ones, to explain (the most confident ones of as many
            # classes as possible), and number of videos whose features are plotted. `compare` is the workdir of another run,
            # which evaluated the same videos, to compare with.
            "report": {"num_videos": 6, "num_points": 1000, "compare": config_dict.placeholder(str)},
            # `--mode=probe`: heads on frozen features, one per combination of the two tuples (20 heads, as in V-JEPA 2), all
            # trained at once. `train` sets how often they are evaluated and logged.
            "probe": {
                "kind": "linear",  # or "attentive"
                "learning_rates": (0.005, 0.003, 0.001, 0.0003, 0.0001),
                "weight_decays": (0.01, 0.1, 0.4, 0.8),
                # Unset: 20, or more on small data sets, to make 300 steps.
                "num_epochs": config_dict.placeholder(float),
                # Clips over all devices. Unset: `train.batch_size`, halved (down to 8) until a small data set makes 4 batches.
                "batch_size": config_dict.placeholder(int),
                # For attentive probes: number of blocks (V-JEPA 2: 4) and of attention heads (V-JEPA 2: 16).
                "depth": 1,
                "num_heads": 16,
                # Train this many heads at a time if all at once need too much memory; 0: all.
                "heads_at_once": 0,
            },
            # `--mode=features`: features of every video from the frozen model, in shards. `eval` sets the clips, the crops and
            # the batch size.
            "features": {
                "kind": "cls",  # one vector per clip; or "frames", one per frame, or "patches", one per patch
                "splits": ("val",),
                "dtype": "float32",  # or "float16"
                # Unset: the number that makes shards of about 256 MiB.
                "videos_per_shard": config_dict.placeholder(int),
            },
            # `--mode=plan`: memory and time of the training step on hardware that need not be there.
            "plan": {
                # Such as "v5e-8", "h100" or "v5e:4x4" (`timesformer_jax.planning.TARGETS`), or "local": this machine's devices.
                "target": config_dict.placeholder(str),
                # Search for the fastest batch per chip, remat, scan, mesh and accumulation with the same `train.batch_size`.
                "search": False,
                # Unset: the data set's published figures.
                "num_classes": config_dict.placeholder(int),
                "num_videos": config_dict.placeholder(int),
                # Videos have any number of labels, as those of your own lists may have.
                "multi_label": False,
                # Python of an environment with the compiler. Unset: this one, else .venv-plan, which `make plan-env` makes.
                "python": config_dict.placeholder(str),
            },
        }
    )
    for section, values in sections.items():
        change(config, section, values)
    return config


def change(config: Any, section: str, values: Any) -> None:
    """Set fields of a config.

    Args:
        config: The config to change.
        section: A section, or the name of a field outside the sections.
        values: The section's fields with their new values, or the value of a field outside the sections. `UNSET` unsets a
            field. `data` may get new fields.

    Raises:
        InputError: If the section or a field doesn't exist.
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
