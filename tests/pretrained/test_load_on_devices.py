"""Weights are loaded on the host, and placed on a device once."""

import types
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import timesformer_jax as tsf
from tests.pretrained.files import (
    official_file,
)
from tests.support import load_golden
from timesformer_jax.pretrained import fit_to_model


@pytest.mark.parametrize("scan_layers", [False, True])
def test_load_puts_nothing_on_a_device(scan_layers: bool, tmp_path: Path):
    """Not even briefly, from tensor files or this project's checkpoints, stacked or not."""
    pretrained = tsf.load(official_file(tmp_path / "a.safetensors"), num_heads=3)
    tsf.save(pretrained, tmp_path / "own")
    with jax.transfer_guard("disallow_explicit"):
        loaded = [tsf.load(tmp_path / name, num_heads=3, scan_layers=scan_layers) for name in ("a.safetensors", "own")]
    for each in loaded:
        assert all(type(leaf) is np.ndarray and not leaf.flags.writeable for leaf in jax.tree.leaves(each.params))
        per_block = tsf.unstack_blocks(each.params) if scan_layers else each.params
        jax.tree.map(np.testing.assert_array_equal, per_block, pretrained.params)


def test_load_computes_on_the_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Covers resized embeddings and fresh parameters, with the last device as the default."""
    official_file(tmp_path / "a.safetensors")
    used: list[set[jax.Device]] = []
    compute = fit_to_model.np.array

    def array(value: Any, *args: Any) -> np.ndarray:
        used.extend([value.devices()] if isinstance(value, jax.Array) else [])
        return compute(value, *args)

    monkeypatch.setattr(fit_to_model, "np", types.SimpleNamespace(**{**vars(np), "array": array}))
    with jax.default_device(jax.devices()[-1]):
        there = {id(each) for each in jax.live_arrays()}
        pretrained = tsf.load(tmp_path / "a.safetensors", num_heads=3, num_classes=7, image_size=48, num_frames=6)
        assert {id(each) for each in jax.live_arrays()} <= there
    assert len(used) == 4  # pos_embed, time_embed, and the classifier's kernel and bias
    assert used == [{jax.devices()[0]}] * 4
    assert all(type(leaf) is np.ndarray for leaf in jax.tree.leaves(pretrained.params))


def test_loaded_model_is_placed_once(tmp_path: Path):
    pretrained = tsf.load(official_file(tmp_path / "a.safetensors"), num_heads=3)
    video = jnp.asarray(load_golden("divided_space_time").video())
    first = pretrained(video)
    placed = jax.tree.leaves(pretrained.variables)
    with jax.transfer_guard("disallow_explicit"):
        second = pretrained(video)
    assert all(one is other for one, other in zip(placed, jax.tree.leaves(pretrained.variables), strict=True))
    np.testing.assert_array_equal(first, second)
    np.testing.assert_allclose(first, pretrained.model.apply({"params": pretrained.params}, video), atol=1e-5)
