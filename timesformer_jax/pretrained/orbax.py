"""Orbax checkpoints of this project: those of training runs, and those that hold only parameters."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from timesformer_jax.digests import FILE, MARK, NOTE, check_digests, steps_in, wait_for_metadata, write_digests
from timesformer_jax.errors import InputError, check_utf8, first_line, shown
from timesformer_jax.modeling import TimeSformer, complete_description, parameter_shapes, variables_of
from timesformer_jax.modeling.description import ARCHITECTURE
from timesformer_jax.orbax_io import read_host_arrays, read_metadata, write_arrays
from timesformer_jax.pretrained.file_checks import check_fields, check_folder, check_size_of_model


def find_checkpoint(path: Path) -> Path | None:
    """Return `path` if it is a checkpoint, else the newest one in it (a run's workdir or its `checkpoints`), else None.

    Raises `InputError` if a bucket can't be read.
    """
    try:
        if (path / MARK).exists() or (path / FILE).exists():
            return path
        for folder in (path / "checkpoints", path):
            if steps := steps_in(folder):
                return folder / str(steps[-1])
    except Exception as error:  # its type depends on the library that reads the bucket
        raise InputError(f"Can't read {path}: {first_line(error)}.") from error
    return None


def read_notes(path: Path) -> Mapping[str, Any]:
    """Read a checkpoint's notes: `model` (all fields), `data`, `preprocess` and `objective`; no parameters are read.

    Raises `InputError` if the checkpoint was written by another program, or is damaged.
    """
    size = _size(path)
    check_utf8("checkpoint", str(path))  # before Orbax logs tracebacks
    check_digests(path)
    notes = read_metadata(path).notes
    if not isinstance(notes, Mapping) or "model" not in notes:
        raise InputError(f"{path} is an Orbax checkpoint, but not one of this project: it doesn't describe its model.")
    for name in ("data", "preprocess", "optimizer"):
        if not isinstance(notes.get(name) or {}, Mapping):
            raise InputError(f"The checkpoint {path} says {name}={shown(notes[name])}, expected an object.")
    if not (path / _tree(notes)).is_dir():
        raise InputError(f"The checkpoint {path} is incomplete: it has no {_tree(notes)}.")
    is_convnet = isinstance(notes["model"], Mapping) and ARCHITECTURE in notes["model"]
    if size is not None and not is_convnet:
        check_size_of_model(TimeSformer(**checkpoint_fields(path, notes)), size, path)
    return notes


def checkpoint_fields(path: Path, notes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the model's fields in a checkpoint's notes; raises `InputError` if they are invalid."""
    if not isinstance(notes["model"], Mapping):
        raise InputError(f"The checkpoint {path} says model={shown(notes['model'])}, expected an object.")
    if ARCHITECTURE in notes["model"]:
        raise InputError(f"The checkpoint {path} has architecture={shown(notes['model'][ARCHITECTURE])}, not a TimeSformer.")
    fields = complete_description(notes["model"])
    check_fields(fields, f"The checkpoint {path}")
    if "num_classes" not in fields:
        raise InputError(f"The checkpoint {path} doesn't say how many classes its model has.")
    return fields


def _size(path: Path) -> int | None:
    """Return the size of a local checkpoint in bytes, after checking its files; None for a bucket."""
    return None if "://" in str(path) else check_folder(path, texts=(MARK, "_METADATA", "_sharding"))


TREES = ("params", "ema")
"""Entries of a checkpoint that hold a model's parameters: the trained ones, and their moving average."""


def _tree(notes: Mapping[str, Any]) -> str:
    """Return the entry to load by default: the moving average if the run kept one, else the parameters."""
    optimizer = notes.get("optimizer")
    return "ema" if isinstance(optimizer, Mapping) and optimizer.get("ema") else "params"


def checkpoint_entries(path: Path, notes: Mapping[str, Any], entry: str | None = None) -> tuple[str, tuple[str, ...]]:
    """Return the entry to read, by default the moving average if the run kept one, and the other entries.

    Raises `InputError` if the checkpoint doesn't have the entry.
    """
    there = [name for name in TREES if (path / name).is_dir()]
    if entry is not None and entry not in there:
        raise InputError(f"{path} has no entry {entry!r} of parameters, but {', '.join(there)}.")
    chosen = entry or _tree(notes)
    return chosen, tuple(name for name in there if name != chosen)


def read_checkpoint(path: Path, entry: str | None = None) -> tuple[dict[str, Any], Mapping[str, Any]]:
    """Read a checkpoint's parameters, as NumPy arrays, and its notes.

    `entry` is the entry to read, by default the moving average of the parameters if the run kept one.

    Raises `InputError` if the checkpoint was written by another program, or is damaged.
    """
    notes = read_notes(path)
    name, _ = checkpoint_entries(path, notes, entry)
    check_digests(path, (name,))
    return read_host_arrays(path, {name: parameter_shapes(TimeSformer(**checkpoint_fields(path, notes)))})[name], notes


def write_checkpoint(path: Path, weights: Any, notes: Mapping[str, Any]) -> None:
    """Write parameters, or the weights of a model with BatchNorm, and notes (JSON types) as a checkpoint."""
    check_utf8("checkpoint", str(path))
    write_arrays(path, variables_of(weights), {**notes, **NOTE})
    if jax.process_index() == 0:
        wait_for_metadata(path)
        write_digests(path)
