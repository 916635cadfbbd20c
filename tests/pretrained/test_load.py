"""Every format of video models loads to the same numbers, with all properties derived from the tensors."""

import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import timesformer_jax as tsf
from tests.pretrained.files import (
    OFFICIAL,
    golden_arrays,
    golden_huggingface,
    golden_tensors,
    official_file,
    write_safetensors,
)
from tests.support import load_golden, random_variables
from timesformer_jax.pretrained import params_from_official, save_official
from timesformer_jax.pretrained.file_notes import fields_of_official_config

APPLY = jax.jit(
    lambda model, params, video: (
        model.apply({"params": params}, video),
        model.apply({"params": params}, video, method="features", blocks=True),
    ),
    static_argnums=0,
)


def assert_golden(pretrained: tsf.Pretrained, attention_type: str) -> None:
    """Compare with the official model's logits and features, at its own size and at another."""
    golden = load_golden(attention_type)
    for prefix in ("", "resized/"):
        logits, features = APPLY(pretrained.model, pretrained.params, golden.video(prefix))
        np.testing.assert_allclose(logits, golden.arrays[f"{prefix}logits"], atol=1e-5)
        np.testing.assert_allclose(features.cls, golden.arrays[f"{prefix}features"], atol=1e-5)
    np.testing.assert_allclose(pretrained(golden.video()), golden.arrays["logits"], atol=1e-5)


@pytest.mark.parametrize("attention_type", OFFICIAL)
def test_official_tensors_are_loaded(attention_type: str, tmp_path: Path):
    pretrained = tsf.load(official_file(tmp_path / "a.safetensors", attention_type), num_heads=3, format="official")
    assert_golden(pretrained, attention_type)
    golden = load_golden(attention_type).model
    assert pretrained.model == golden.clone(num_frames=8) if attention_type == "space_only" else golden
    assert pretrained.report.format == "the official TimeSformer release"


@pytest.mark.parametrize("prefix", ["", "model.", "module.model.", "module."])
def test_prefixes_of_official_files_are_stripped(prefix: str, tmp_path: Path):
    path = official_file(tmp_path / "the name says nothing", prefix=prefix)
    pretrained = tsf.load(str(path), num_heads=3)
    jax.tree.map(np.testing.assert_array_equal, pretrained.params, load_golden("divided_space_time").params())


@pytest.mark.parametrize("attention_type", OFFICIAL)
@pytest.mark.parametrize("scan_layers", [False, True])
def test_official_file_converts_to_a_checkpoint(attention_type: str, scan_layers: bool, tmp_path: Path):
    source = official_file(tmp_path / "a.safetensors", attention_type)
    pretrained = tsf.load(source, num_heads=3, scan_layers=scan_layers, labels=list("abcde"), format="official")
    tsf.save(pretrained, tmp_path / "own")
    for path in (tmp_path / "own", str(tmp_path / "own")):
        again = tsf.load(path, scan_layers=scan_layers)
        jax.tree.map(np.testing.assert_array_equal, again.params, pretrained.params)
        assert (again.model, again.labels, again.preprocess) == (pretrained.model, tuple("abcde"), pretrained.preprocess)
    assert_golden(tsf.load(tmp_path / "own"), attention_type)


@pytest.mark.parametrize("attention_type", OFFICIAL[:2])
def test_official_file_converts_to_hugging_face(attention_type: str, tmp_path: Path):
    source = official_file(tmp_path / "a.safetensors", attention_type)
    tsf.convert(source, tmp_path / "folder", num_heads=3)
    assert_golden(tsf.load(tmp_path / "folder"), attention_type)  # with known heads
    assert_golden(tsf.load(tmp_path / "folder" / "model.safetensors"), attention_type)


def test_hugging_face_folder_is_loaded(tmp_path: Path):
    """Compares logits and all hidden states in the flat order: the CLS first, then patch-major with time fastest."""
    golden = golden_arrays("huggingface_divided")
    pretrained = tsf.load(golden_huggingface(tmp_path / "folder"))
    video = jnp.asarray(golden["pixel_values_btchw"].transpose(0, 1, 3, 4, 2))
    logits, features = APPLY(pretrained.model, pretrained.params, video)
    np.testing.assert_allclose(logits, golden["logits"], atol=1e-5)
    cls, patches = features.blocks
    depth, batch, _, _, _, dim = patches.shape
    flat = patches.transpose(0, 1, 3, 4, 2, 5).reshape(depth, batch, -1, dim)  # [depth, B, T, h, w, D] -> [.., h w T, D]
    for block in range(depth):
        hidden = np.concatenate([cls[block], flat[block]], axis=1)
        np.testing.assert_allclose(hidden, golden[f"hidden_states/{block + 1}"], atol=1e-5)
    maps = jax.jit(functools.partial(pretrained.model.apply, method="features", attention=True))
    attention = maps({"params": pretrained.params}, video).attention
    for block in range(depth):
        maps = attention["spatial"].weights[block]  # [B, T, h, 1 + N, 1 + N]
        np.testing.assert_allclose(maps.reshape(-1, *maps.shape[2:]), golden[f"spatial_attention/{block}"], atol=1e-5)
    assert pretrained.labels is None  # LABEL_0, ... aren't names


def test_hugging_face_model_without_a_classifier_is_loaded(tmp_path: Path):
    tensors = golden_tensors("huggingface_divided")
    tensors = {k.removeprefix("timesformer."): v for k, v in tensors.items() if not k.startswith("classifier")}
    path = write_safetensors(tmp_path / "a.safetensors", tensors)
    with pytest.raises(tsf.InputError, match=r"no classifier: .* num_classes="):
        tsf.load(path, num_heads=3)
    pretrained = tsf.load(path, num_heads=3, num_classes=7)
    assert pretrained.report.initialised.keys() == {"head/kernel", "head/bias"}
    assert pretrained.params["head"]["kernel"].shape == (24, 7)


def test_half_precision_becomes_float32(tmp_path: Path):
    tensors = {name: tensor.astype(np.float16) for name, tensor in golden_tensors("official_space_only").items()}
    pretrained = tsf.load(write_safetensors(tmp_path / "a", {f"model.{k}": v for k, v in tensors.items()}), num_heads=3)
    assert {leaf.dtype for leaf in jax.tree.leaves(pretrained.params)} == {jnp.dtype("float32")}
    np.testing.assert_array_equal(pretrained.params["norm"]["scale"], tensors["norm.weight"].astype(np.float32))


def test_non_square_grids_round_trip(tmp_path: Path):
    model = tsf.TimeSformer(2, image_size=(8, 12), patch_size=4, num_frames=2, embed_dim=24, depth=1, num_heads=3)
    pretrained = tsf.Pretrained(model, random_variables(model)["params"], tsf.Preprocess(num_frames=2, crop_size=8))
    tsf.save(pretrained, tmp_path / "own")
    again = tsf.load(tmp_path / "own")
    assert again.model == model
    jax.tree.map(np.testing.assert_array_equal, again.params, pretrained.params)
    square = tsf.load(tmp_path / "own", image_size=8)
    assert square.report.resized == {"pos_embed": ((1, 7, 24), (1, 5, 24))}
    names = {"pos_embed": np.zeros((1, 7, 24), np.float32)}
    save_official(tsf.load(tmp_path / "own", image_size=8), tmp_path / "a.safetensors")
    from safetensors.numpy import load_file

    odd = write_safetensors(
        tmp_path / "b", {k.removeprefix("model."): v for k, v in load_file(tmp_path / "a.safetensors").items()} | names
    )
    with pytest.raises(tsf.InputError, match="6 positions, which don't form a square: give image_size="):
        tsf.load(odd, num_heads=3)
    assert tsf.load(odd, num_heads=3, image_size=(8, 12)).model.grid == (2, 3)


@pytest.mark.parametrize("scheme", ["local_global", "axial"])
def test_schemes_without_published_weights_round_trip_through_a_checkpoint(scheme: str, tmp_path: Path):
    model = tsf.TimeSformer(
        2, image_size=8, patch_size=4, num_frames=2, embed_dim=24, depth=1, num_heads=3, attention_type=scheme, pre_norm=True
    )
    pretrained = tsf.Pretrained(model, random_variables(model)["params"], tsf.Preprocess(num_frames=2, crop_size=8))
    tsf.save(pretrained, tmp_path / "own")
    again = tsf.load(tmp_path / "own")
    jax.tree.map(np.testing.assert_array_equal, again.params, pretrained.params)
    assert again.model == model
    with pytest.raises(tsf.InputError, match=f"can't compute a model with pre_norm=True, attention_type='{scheme}'"):
        tsf.save_huggingface(again, tmp_path / "folder")
    assert not (tmp_path / "folder").exists()


def test_params_from_a_state_dict_in_memory():
    golden = load_golden("divided_space_time")
    tensors = golden_tensors("official_divided_space_time")
    jax.tree.map(np.testing.assert_array_equal, params_from_official(tensors, golden.model), golden.params())
    wrong: dict[str, Any] = {**tensors, "head.weight": tensors["head.weight"][:3]}
    with pytest.raises(tsf.InputError, match=r"head/kernel: expected \(24, 5\), got \(24, 3\)"):
        params_from_official(wrong, golden.model)


def test_relative_paths_are_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Paths such as `runs/mine`."""
    monkeypatch.chdir(tmp_path)
    tsf.convert(official_file(Path("a.safetensors")), "own", to="timesformer_jax", num_heads=3)
    tsf.convert("own", "folder")
    jax.tree.map(np.testing.assert_array_equal, tsf.load("folder").params, tsf.load("own").params)


def test_official_config_determines_model_fields():
    config = "MODEL:\n  NUM_CLASSES: 5\nDATA:\n  NUM_FRAMES: 4\nTIMESFORMER:\n  ATTENTION_TYPE: joint_space_time\n"
    assert fields_of_official_config(config) == {"num_classes": 5, "num_frames": 4, "attention_type": "joint_space_time"}
    assert fields_of_official_config(None) == {}
