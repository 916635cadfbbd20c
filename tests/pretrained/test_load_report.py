"""The report on loaded weights, and errors and checks without loading them."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import timesformer_jax as tsf
from tests.pretrained.files import (
    OFFICIAL,
    golden_huggingface,
    golden_tensors,
    official_file,
    write_safetensors,
)
from tests.support import load_golden, random_variables
from timesformer_jax.pretrained import check_weights, save_official, tensor_files


def test_report_accounts_for_every_parameter(tmp_path: Path):
    path = official_file(tmp_path / "a.safetensors")
    report = tsf.load(path, num_heads=3, num_classes=2, num_frames=6).report
    accounted = [*report.loaded, *report.resized, *report.copied, *report.initialised]
    expected = {
        "/".join(k.key for k in keys) for keys, _ in jax.tree_util.tree_leaves_with_path(load_golden(OFFICIAL[0]).params())
    }
    assert sorted(accounted) == sorted(expected)
    text = str(report)
    assert "loaded       46 parameters" in text
    assert "time_embed (1, 4, 24) -> (1, 6, 24)" in text
    assert "initialised  head/bias, head/kernel (a fresh classifier of 2 classes)" in text


def test_load_lists_all_problems_at_once(tmp_path: Path):
    tensors = golden_tensors("official_divided_space_time")
    del tensors["blocks.1.mlp.fc2.bias"]
    tensors["blocks.0.mlp.fc1.weight"] = tensors["blocks.0.mlp.fc1.weight"][:, :3]
    tensors["extra.thing"] = np.zeros(3, np.float32)
    tensors["blocks.1.attn.qkv.bias"] = np.zeros(71, np.float32)
    path = write_safetensors(tmp_path / "a.safetensors", tensors)
    with pytest.raises(tsf.InputError) as caught:
        tsf.load(path, num_heads=3)
    for words in (
        "extra.thing (3,): no place in the model",
        "blocks_1/mlp/fc2/bias (24,): not in the file",
        "blocks_0/mlp/fc1/kernel: expected (24, 96), got (3, 96)",
        "blocks.1.attn.qkv.bias (71,): can't be split over 3 heads",
    ):
        assert words in str(caught.value)


def test_report_notes_inferred_fields(tmp_path: Path):
    """The report lists what the file leaves open: heads inferred from the width, or another activation in the given model."""
    model = tsf.TimeSformer(3, image_size=8, patch_size=4, num_frames=2, embed_dim=192, depth=1, num_heads=12)
    mine = tsf.Pretrained(model, random_variables(model)["params"], tsf.Preprocess(num_frames=2, crop_size=8))
    save_official(mine, tmp_path / "a.safetensors")
    assert tsf.load(tmp_path / "a.safetensors").model == model  # from the file's metadata
    from safetensors.numpy import load_file

    bare = write_safetensors(tmp_path / "b.safetensors", load_file(tmp_path / "a.safetensors"))
    guessed = tsf.load(bare)
    assert guessed.model.num_heads == 3
    assert guessed.report.notes[0].startswith("num_heads 3 (guessed from width 192; num_heads= decides")
    assert str(guessed.report).splitlines()[2].strip().partition(" ")[0] == "guess"
    assert str(guessed.report).count("guessed") == 2  # and the pixels
    assert tsf.load(bare, num_heads=12).model == model
    other = tsf.load(bare, model=model.clone(activation="quick_gelu"))
    assert not any("activation" in note for note in other.report.notes)  # the tensors don't determine it
    folder = golden_huggingface(tmp_path / "folder")
    other = tsf.load(folder, model=tsf.load(folder).model.clone(activation="quick_gelu", layer_norm_epsilon=1e-5))
    for name, note in zip(("activation", "layer_norm_epsilon"), other.report.notes, strict=False):
        assert note.startswith(f"the weights were trained with {name} ")


@pytest.mark.parametrize("name", ["official_divided_space_time", "huggingface_divided"])
def test_weights_are_checked_without_being_read(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """It fails if `load` would, but never reads the numbers and ignores the classes."""
    source = official_file(tmp_path / "a.safetensors") if name.startswith("official") else golden_huggingface(tmp_path / "a")
    model = tsf.load(source, num_heads=3).model

    other = {"depth": model.depth - 1, "embed_dim": 48, "mlp_ratio": 1.0, "patch_size": 2 * model.patch_size}
    wrong = [model.clone(**{field: value}) for field, value in other.items()]
    reasons = [error_of(tsf.load, source, each) for each in wrong]

    def refuse(*arguments: Any) -> None:
        raise AssertionError("a tensor was read")

    monkeypatch.setattr(tensor_files, "_as_float32", refuse)
    check_weights(source, model=model.clone(num_classes=1))
    check_weights(source, model=model.clone(num_classes=1, num_frames=2, image_size=32))
    assert [error_of(check_weights, source, each) for each in wrong] == reasons
    with pytest.raises(tsf.InputError, match="There is no file or folder"):
        check_weights(tmp_path / "missing.pyth", model=model)


def error_of(function: Any, source: Path, model: tsf.TimeSformer) -> str:
    with pytest.raises(tsf.InputError) as caught:
        function(source, model=model)
    return str(caught.value)


def test_non_finite_values_are_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    tensors = golden_tensors("official_divided_space_time")
    tensors["norm.weight"][:2] = np.nan, np.inf
    tensors["head.bias"][0] = -np.inf
    report = tsf.load(write_safetensors(tmp_path / "a", tensors), num_heads=3).report
    assert report.not_finite == {"head/bias": 1, "norm/scale": 2}
    words = "3 value(s) are NaN or infinite, in head/bias (1), norm/scale (2)"
    assert words in str(report)
    assert [record.getMessage() for record in caplog.records] == [f"{tmp_path / 'a'}: {words}."]
