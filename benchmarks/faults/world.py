"""Small videos, a small model, and the results of undisturbed runs."""

import dataclasses
import hashlib
import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.faults.running import TRACEBACK, Process, in_child, start

LABELS = ("right", "down", "left")
TRAIN, VAL = 12, 8
"""Videos of each label."""
STEPS, CHECKPOINT_EVERY, EVALUATE_EVERY = 12, 2, 4
STEPS_PER_EPOCH = len(LABELS) * TRAIN / 6
PART_BYTES = 400_000
"""Size of the prepared record files, so that a small data set has several."""

MODEL = {
    "data.num_workers": 2,
    "data.short_side": 48,
    "model.image_size": 32,
    "model.embed_dim": 16,
    "model.depth": 1,
    "model.num_heads": 2,
    "clips.short_side": (32, 40),
    "train.batch_size": 6,
    "train.ema_decay": 0.9,
    "train.log_every_steps": 2,
    "train.num_epochs": STEPS / STEPS_PER_EPOCH,
    "train.checkpoint_every_epochs": CHECKPOINT_EVERY / STEPS_PER_EPOCH,
    "train.evaluate_every_epochs": EVALUATE_EVERY / STEPS_PER_EPOCH,
    "optimizer.warmup_epochs": 0.5,
    "eval.batch_size": 4,
    "eval.num_clips": 2,
    "eval.num_crops": 1,
    "features.videos_per_shard": 4,
    "probe.num_epochs": 1.0,
    "probe.learning_rates": (0.01, 0.001),
    "probe.weight_decays": (0.01,),
    "report.num_videos": 1,
    "report.num_points": 20,
}

VOLATILE = ("events.out.tfevents.",)
"""Prefixes of files that differ between runs with equal results: each start writes its own file of figures."""
VOLATILE_FIELDS = ("made",)
"""Fields of source.json that differ: the time of preparation."""


@dataclasses.dataclass(frozen=True)
class World:
    """Folders of the campaign; `reference` is the workdir of an undisturbed run."""

    folder: Path

    @property
    def videos(self) -> Path:
        return self.folder / "videos"

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def reference(self) -> Path:
        return self.folder / "reference"

    @property
    def temporary(self) -> Path:
        """Folder of temporary files, which must be empty after every run."""
        return self.folder / "tmp"

    def log(self, name: str) -> Path:
        folder = self.folder / "logs"
        folder.mkdir(exist_ok=True)
        return folder / f"{name}.log"

    def arguments(self, mode: str, workdir: Path, data: Path | None = None, **changed: Any) -> list[str]:
        """Return the arguments of `main.py`."""
        fields = {**MODEL, **changed, "data.root": self.videos, "data.data_dir": data or self.data}
        given = [f"--config.{name}={value}" for name, value in fields.items()]
        return ["--config=configs/folder.py", f"--mode={mode}", f"--workdir={workdir}", "--distributed=off", *given]


def small_parts() -> None:
    """Make preparation split the data into several record files."""
    from input_pipeline import preparation

    preparation.PART_BYTES = PART_BYTES


def run(world: World, name: str, arguments: list[str], **options: Any) -> Process:
    """Run `main.py` to its end.

    Raises:
        RuntimeError: If the run fails.
    """
    process = start(arguments, world.log(name), before=small_parts, **options)
    if process.wait() != 0 or TRACEBACK in process.text:
        raise RuntimeError(f"An undisturbed run failed (exit code {process.code}):\n{process.text[-3000:]}")
    process.workers_end()
    return process


def build(folder: Path) -> World:
    """Draw the videos, and train, evaluate and extract features once."""
    world = World(folder)
    for each in (world.videos, world.temporary):
        each.mkdir(parents=True)
    in_child(lambda: _draw_videos(world.videos))
    run(world, "reference", world.arguments("train", world.reference))
    run(world, "reference-features", world.arguments("features", world.reference))
    return world


def build_files(world: World) -> None:
    """Write the other kinds of files: probes, exported weights, and what a killed preparation and evaluation leave."""
    run(world, "probe", world.arguments("probe", world.reference))
    attentive = world.folder / "attentive"
    copy(world.reference, attentive, ignore=shutil.ignore_patterns("features", "probe*"))
    run(world, "attentive", world.arguments("probe", attentive, **{"probe.kind": "attentive", "probe.num_heads": 2}))
    in_child(lambda: _export(world.reference, world.folder / "exports"))
    data = world.folder / "interrupted"
    _interrupt(world, world.arguments("train", world.folder / "unused", data), data, "00003.json.part")
    workdir = world.folder / "unfinished"
    copy(world.reference, workdir, ignore=shutil.ignore_patterns("features", "probe*", "*results*", "predictions*"))
    _interrupt(world, world.arguments("eval", workdir), workdir, "-00000007.npz.part")
    shutil.copytree(workdir / "test.part", world.folder / "stopped")


def _interrupt(world: World, arguments: list[str], folder: Path, before: str) -> None:
    """Start a run that is killed before it writes a file whose path ends in `before`."""
    process = start(arguments, world.log("interrupted"), watched=folder, kill_at_change=before, before=small_parts)
    if process.wait() != -signal.SIGKILL:
        raise RuntimeError(f"A run that was to be interrupted has ended:\n{process.text[-3000:]}")
    process.workers_end()


def _export(workdir: Path, folder: Path) -> None:
    import timesformer_jax as tsf
    from timesformer_jax.pretrained import save_official

    pretrained = tsf.load(workdir)
    (folder / "safetensors").mkdir(parents=True)
    tsf.save(pretrained, folder / "own")
    tsf.save_huggingface(pretrained, folder / "huggingface")
    save_official(pretrained, folder / "safetensors" / "model.safetensors")


def _draw_videos(folder: Path) -> None:
    import av

    for split, count in (("train", TRAIN), ("val", VAL)):
        for label, name in enumerate(LABELS):
            for number in range(count):
                path = folder / split / name / f"{split}{number}.mp4"
                path.parent.mkdir(parents=True, exist_ok=True)
                with av.open(str(path), "w") as container:
                    stream: Any = container.add_stream("mpeg4", rate=30)
                    stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
                    for frame in moving_square(label, number + 100 * (split == "val")):
                        container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
                    container.mux(stream.encode())


def moving_square(label: int, seed: int, num_frames: int = 30) -> np.ndarray:
    """Return frames `[T, 48, 64, 3]` of a bright square on noise; the label is its direction of motion."""
    draw = np.random.default_rng([label, seed])
    frames = np.repeat(draw.integers(20, 90, (1, 48, 64, 3), np.uint8), num_frames, axis=0)
    for moved, frame in enumerate(frames):
        row, column = [(12, moved), (moved, 20), (12, 45 - moved)][label]
        frame[row : row + 16, column : column + 16] = draw.integers(180, 255, 3)
    return frames


def files_below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def digest_bytes(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=12).hexdigest()


def digest_files(folder: Path) -> dict[str, str]:
    """Map each file's path to a digest of its content, without the parts that differ between undisturbed runs."""
    return {
        name: digest_bytes(_comparable(folder / name))
        for name in files_below(folder)
        if not name.rpartition("/")[2].startswith(VOLATILE)
    }


def _comparable(path: Path) -> bytes:
    content = path.read_bytes()
    if path.name == "source.json":
        fields = json.loads(content)
        return json.dumps({name: value for name, value in fields.items() if name not in VOLATILE_FIELDS}).encode()
    if path.name == "digests.json" and path.with_name("source.json").exists():
        digests = json.loads(content)["files"]
        return json.dumps({name: value for name, value in digests.items() if name != "source.json"}).encode()
    return content


def digest_arrays(tree: Any) -> dict[str, str]:
    """Map the path of each array to a digest of its dtype, shape and bits."""
    import jax

    return {
        jax.tree_util.keystr(path): digest_bytes(
            f"{np.asarray(leaf).dtype} {np.shape(leaf)} ".encode() + np.ascontiguousarray(leaf).tobytes()
        )
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def digest_checkpoint(workdir: Path, step: int = STEPS) -> dict[str, str]:
    """Digest everything in the checkpoint of a step, independently of the number of devices that wrote it."""
    from timesformer_jax.orbax_io import read_host_arrays, read_metadata

    path = workdir / "checkpoints" / str(step)
    entries = {name: tree for name, tree in read_metadata(path).entries.items() if name != "metrics"}
    return digest_arrays(read_host_arrays(path, entries))


RESULT_FILES = ("results.json", "predictions.jsonl", "confusion.csv")


def describe_run(workdir: Path) -> dict[str, Any]:
    """Describe what training and evaluation write, for bitwise comparison."""
    there = [path.name for path in (workdir / "checkpoints").iterdir()]
    return {
        "checkpoint": digest_checkpoint(workdir),
        "unfinished checkpoints": sorted(name for name in there if not name.isdecimal()),
        "files": sorted(path.name for path in workdir.iterdir() if not path.name.startswith(VOLATILE)),
        **{name: (workdir / name).read_text() for name in RESULT_FILES},
    }


def copy(source: Path, target: Path, ignore: Callable[[str, list[str]], set[str]] | None = None) -> None:
    """Replace `target` with a copy of `source`."""
    if target.exists():
        shutil.rmtree(target)
    shutil.copytree(source, target, ignore=ignore)


def differences(found: Any, expected: Any, where: str = "") -> list[str]:
    """List the paths at which two nested values differ, with both values."""
    if isinstance(found, dict) and isinstance(expected, dict):
        names = sorted({*found, *expected}, key=str)
        return [line for name in names for line in differences(found.get(name), expected.get(name), f"{where}/{name}")]
    return [] if found == expected else [f"{where}: {_short(found)} for {_short(expected)}"]


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 120 else f"{text[:117]}..."


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def is_root() -> bool:
    return hasattr(os, "geteuid") and os.geteuid() == 0
