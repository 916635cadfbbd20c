"""Configs of runs that are small enough for tests, and the files of a run."""

import importlib
import json
import os
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

ROOT = Path(__file__).parent.parent

SMALL = {
    "data.short_side": 48,
    "model.image_size": 32,
    "model.embed_dim": 32,
    "model.depth": 1,
    "clips.short_side": (32, 40),
}
"""Fields of a model with 60,000 parameters."""


def config_of(name: str, argument: str | None = None, **overrides: Any) -> ConfigDict:
    """A config of the project, locked, with dotted overrides."""
    config = importlib.import_module(f"configs.{name}").get_config(*([argument] if argument else []))
    config.lock()
    with config.ignore_type():
        config.update_from_flattened_dict(overrides)
    return config


def small_folder(clips: Path, data_dir: str, argument: str = "video_folder", **overrides: Any) -> ConfigDict:
    """The folder config with a model of 60,000 parameters and short training."""
    small = {
        **SMALL,
        "data.root": str(clips),
        "data.data_dir": data_dir,
        **({"data.val_fraction": 0.3} if argument == "video_folder" else {}),
        "train.num_epochs": 2.0,
        "train.log_every_steps": 2,
        "train.evaluate_every_epochs": 1.0,
        "optimizer.warmup_epochs": 0.9,
    }
    return config_of("folder", argument, **{**small, **overrides})


OTHER_SETTINGS = {
    "clips.placement": "centre",
    "clips.sampling_rate": 2.0,
    "clips.short_side": (36, 40),
    "pixels.mean": (0.5, 0.5, 0.5),
    "pixels.channel_order": "bgr",
}
"""Overrides that differ from the settings of a `small_folder`, but leave the model as it is."""


def run_of_steps(num_steps: int, clips: Path, data_dir: str) -> dict[str, Any]:
    """Fields of a folder-config run on the generated clips: nine for training, in batches of eight."""
    places = {"data.root": str(clips), "data.data_dir": data_dir, "data.val_fraction": 0.3}
    return {**SMALL, **places, "train.num_epochs": num_steps * 8 / 9}


def results(workdir: Path) -> dict[str, Any]:
    return json.loads((workdir / "results.json").read_text())


def figures(workdir: Path) -> dict[str, Any]:
    """results.json without the digests of files, whose scores differ in their last digits between processors."""
    return {name: value for name, value in results(workdir).items() if name not in ("files", "digest")}


def predictions(workdir: Path) -> dict[str, Any]:
    rows = [json.loads(line) for line in (workdir / "predictions.jsonl").read_text().splitlines()]
    return {row["video"]: row for row in rows}


def on_devices(count: int) -> dict[str, str]:
    """Environment of a command with this many simulated devices."""
    return {**os.environ, "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={count}"}
