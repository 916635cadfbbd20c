"""Reading and writing a single checkpoint folder with Orbax."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import timesformer_jax as tsf
from timesformer_jax.orbax_io import read_arrays, read_host_arrays, read_metadata, write_arrays

TREE: dict[str, Any] = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": {"c": np.array(7, np.int32)}}


@pytest.mark.parametrize("on_device", [False, True])
def test_arrays_are_restored_with_the_requested_placement(on_device: bool, tmp_path: Path):
    """On the host or on devices, independent of where they were written from."""
    write_arrays(tmp_path / "a", {"params": jax.tree.map(jnp.asarray, TREE) if on_device else TREE}, {"note": 1})
    metadata = read_metadata(tmp_path / "a")
    assert metadata.notes == {"note": 1}
    there = {id(array) for array in jax.live_arrays()}
    on_host = read_host_arrays(tmp_path / "a", metadata.entries)["params"]
    assert {id(array) for array in jax.live_arrays()} == there
    assert all(type(leaf) is np.ndarray for leaf in jax.tree.leaves(on_host))
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[-1])
    targets = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), TREE)
    placed = read_arrays(tmp_path / "a", {"params": targets})["params"]
    assert all(leaf.sharding == sharding for leaf in jax.tree.leaves(placed))
    for found in (on_host, placed):
        jax.tree.map(np.testing.assert_array_equal, found, TREE)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({**TREE, "a": TREE["a"][:1]}, r"'params/a' is \(2, 3\), expected \(1, 3\)"),
        ({**TREE, "b": {}}, r"'params/b/c' is \(\), expected missing"),
    ],
)
def test_wrong_shapes_are_rejected_on_the_host(asked: dict[str, Any], words: str, tmp_path: Path):
    """Orbax itself would return the saved shape."""
    write_arrays(tmp_path / "a", {"params": TREE}, {})
    with pytest.raises(tsf.InputError, match=words):
        read_host_arrays(tmp_path / "a", {"params": asked})
