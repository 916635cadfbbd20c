"""Read and write the notes, shapes and arrays of a checkpoint folder with Orbax, on devices or on the host.

Only this module and `training/checkpoints.py` call Orbax's `v1`, whose names still change.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from timesformer_jax.errors import InputError, first_line, shown
from timesformer_jax.extras import needs
from timesformer_jax.quiet_orbax import quiet_orbax


class Metadata(NamedTuple):
    """Metadata of a checkpoint."""

    notes: Any
    """JSON that was written with the arrays; None if there is none."""
    entries: Mapping[str, Any]
    """Maps the name of each entry, such as "params", to its tree, whose leaves have `shape` and `dtype`."""


def read_metadata(folder: Any) -> Metadata:
    """Read a checkpoint's metadata without its arrays.

    Args:
        folder: Path of the checkpoint, local or in a bucket.

    Raises:
        InputError: If the checkpoint is damaged.
    """
    ocp = _import_orbax("Reading")
    found: Any = _call(folder, lambda: ocp.checkpointables_metadata(_whole_path(folder)))
    return Metadata(found.custom_metadata, found.metadata or {})


def read_arrays(folder: Any, entries: Mapping[str, Any]) -> dict[str, Any]:
    """Read entries onto devices; all processes must call it.

    Args:
        folder: Path of the checkpoint, local or in a bucket.
        entries: Maps names to trees of `jax.ShapeDtypeStruct`, with the shardings of the result.

    Raises:
        InputError: If the checkpoint is damaged or has other shapes.
    """
    ocp = _import_orbax("Reading")
    return _call(folder, lambda: ocp.load_checkpointables(_whole_path(folder), dict(entries)))


def read_host_arrays(folder: Any, entries: Mapping[str, Any]) -> dict[str, Any]:
    """Read entries as complete NumPy arrays in every process, without using devices.

    Args:
        folder: Path of the checkpoint, local or in a bucket.
        entries: Maps names to trees whose leaves have `shape` and `dtype`.

    Raises:
        InputError: If the checkpoint is damaged or has other shapes.
    """
    stored = read_metadata(folder).entries
    for name, tree in entries.items():  # Orbax compares shapes only for arrays on devices
        _check_shapes(folder, name, stored.get(name), tree)
    # For NumPy leaves, Orbax restores NumPy arrays; these leaves take no memory.
    targets = jax.tree.map(lambda leaf: np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape), dict(entries))
    return read_arrays(folder, targets)


def write_arrays(folder: Any, entries: Mapping[str, Any], notes: Mapping[str, Any]) -> None:
    """Write trees of arrays with notes (JSON) as a new checkpoint; all processes must call it."""
    ocp = _import_orbax("Writing")
    ocp.save_checkpointables(_whole_path(folder), dict(entries), custom_metadata=dict(notes))


def _check_shapes(folder: Any, entry: str, stored: Any, expected: Any) -> None:
    flat = [{path: leaf.shape for path, leaf in _leaves(tree)} for tree in (stored, expected)]
    differing = [path for path in sorted(flat[0].keys() | flat[1].keys()) if flat[0].get(path) != flat[1].get(path)]
    if differing:
        theirs, ours = (shapes.get(differing[0], "missing") for shapes in flat)
        where = shown(f"{entry}/{differing[0]}")
        raise InputError(f"The checkpoint {folder} is damaged or incomplete: {where} is {theirs}, expected {ours}.")


def _leaves(tree: Any) -> list[tuple[str, Any]]:
    leaves = jax.tree_util.tree_flatten_with_path(tree, is_leaf=lambda leaf: hasattr(leaf, "shape"))[0]
    return [(jax.tree_util.keystr(keys, simple=True, separator="/"), leaf) for keys, leaf in leaves if hasattr(leaf, "shape")]


def _import_orbax(doing: str) -> Any:
    with needs("orbax", f"{doing} a checkpoint of this project"):
        from orbax.checkpoint import v1 as ocp
    quiet_orbax()
    return ocp


def _whole_path(folder: Any) -> str:
    """Absolute path of a folder, since Orbax takes no relative ones."""
    return str(folder) if "://" in str(folder) else str(folder.absolute())


def _call(folder: Any, read: Callable[[], Any]) -> Any:
    """Call `read`, turning Orbax's and TensorStore's exceptions, which have many types, into one `InputError`."""
    try:
        return read()
    except Exception as error:
        raise InputError(f"The checkpoint {folder} is damaged or incomplete: {first_line(error)}.") from error
