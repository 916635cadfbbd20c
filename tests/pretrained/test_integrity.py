"""Digests in the `.safetensors` files that this project writes."""

import json
import logging
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

import timesformer_jax as tsf
from tests.pretrained.files import official_file
from timesformer_jax.pretrained import save_official
from timesformer_jax.pretrained.integrity import KEY, check_seal, open_seal, seal


@pytest.fixture
def pretrained(tmp_path: Path) -> tsf.Pretrained:
    return tsf.load(official_file(tmp_path / "source.safetensors"), num_heads=3)


def flip(path: Path, byte: int, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[byte] ^= 1 << bit
    path.write_bytes(content)


@pytest.mark.parametrize("kind", ["huggingface", "official"])
def test_flipped_bit_is_detected(kind: str, pretrained: tsf.Pretrained, tmp_path: Path):
    """Anywhere in the tensors; other readers see the usual tensors."""
    target = tmp_path / ("folder" if kind == "huggingface" else "file.safetensors")
    (tsf.save_huggingface if kind == "huggingface" else save_official)(pretrained, target)
    path = target / "model.safetensors" if target.is_dir() else target
    jax.tree.map(np.testing.assert_array_equal, tsf.load(target).params, pretrained.params)
    with safe_open(path, framework="numpy") as file:
        assert len(file.metadata()[KEY]) == 16
    whole = path.read_bytes()
    start = 8 + int.from_bytes(whole[:8], "little")
    for seed in range(10):
        generator = np.random.default_rng(seed)
        path.write_bytes(whole)
        flip(path, int(generator.integers(start, len(whole))), int(generator.integers(8)))
        with pytest.raises(tsf.InputError, match=r"safetensors is damaged: it differs from the digest in it"):
            tsf.load(target)


def test_flipped_bit_in_the_header_is_detected_or_harmless(tmp_path: Path):
    """A trailing space may become other white space, and damage to the digest's own name only hides the digest."""
    path = tmp_path / "file.safetensors"
    tensors = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(5, np.float32)}
    save_file(tensors, path, metadata={"note": "ü", **open_seal()})
    seal(path)
    whole = path.read_bytes()
    name = whole.index(KEY.encode())
    found = 0
    for place in range(8, 8 + int.from_bytes(whole[:8], "little")):
        path.write_bytes(whole)
        flip(path, place, place % 7)
        try:
            with safe_open(path, framework="numpy") as file:
                metadata = file.metadata() or {}
            check_seal(path, metadata)
        except Exception:
            found += 1
        else:
            assert name <= place < name + len(KEY), whole[place : place + 20]
            assert {key: array.tolist() for key, array in load_file(path).items()} == {
                key: array.tolist() for key, array in tensors.items()
            }
    assert found > 100


def test_edited_config_is_warned_about(pretrained: tsf.Pretrained, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    tsf.save_huggingface(pretrained, tmp_path / "folder")
    with caplog.at_level(logging.WARNING, "timesformer_jax"):
        tsf.load(tmp_path / "folder")
    assert not caplog.text
    path = tmp_path / "folder" / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "id2label": {"0": "x", **{str(n): str(n) for n in range(1, 5)}}}))
    with caplog.at_level(logging.WARNING, "timesformer_jax"):
        assert tsf.load(tmp_path / "folder").labels[0] == "x"
    assert "config.json has changed since it was written: it was edited, or is damaged." in caplog.text
