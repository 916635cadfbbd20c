"""Arguments of `load`: heads, sizes, classes, a given model, exceptions, and what contradicts the file."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import timesformer_jax as tsf
from tests.pretrained.files import (
    golden_arrays,
    golden_tensors,
    official_file,
    write_folder,
    write_safetensors,
)
from tests.support import load_golden
from timesformer_jax.modeling.embeddings import resize_position_embedding, resize_time_embedding


def test_unknown_number_of_heads_is_an_error(tmp_path: Path):
    path = official_file(tmp_path / "a.safetensors")
    with pytest.raises(tsf.InputError, match="width 24 has: give num_heads="):
        tsf.load(path)
    with pytest.raises(tsf.InputError, match="embed_dim=24 with num_heads=5"):
        tsf.load(path, num_heads=5)


def test_load_resizes_to_other_frames_and_sizes(tmp_path: Path):
    path = official_file(tmp_path / "a.safetensors")
    plain = tsf.load(path, num_heads=3)
    resized = tsf.load(path, num_heads=3, num_frames=6, image_size=(24, 16))
    assert resized.report.resized == {"pos_embed": ((1, 17, 24), (1, 25, 24)), "time_embed": ((1, 4, 24), (1, 6, 24))}
    expected = resize_position_embedding(plain.params["pos_embed"], (4, 4), (6, 4), "bicubic")
    np.testing.assert_allclose(resized.params["pos_embed"], expected, atol=1e-6)
    expected = resize_time_embedding(plain.params["time_embed"], 6, "linear")
    np.testing.assert_allclose(resized.params["time_embed"], expected, atol=1e-6)
    # With nearest neighbours, the model at its new size equals the old one resized at run time.
    nearest = tsf.load(path, num_heads=3, num_frames=6, image_size=(24, 16), resize="nearest")
    golden = load_golden("divided_space_time")
    np.testing.assert_allclose(nearest(golden.video("resized/")), golden.arrays["resized/logits"], atol=1e-5)


def test_grid_of_equal_size_but_other_proportions_is_resized(tmp_path: Path):
    pretrained = tsf.load(official_file(tmp_path / "a.safetensors"), num_heads=3, image_size=(8, 32))
    assert "pos_embed" in pretrained.report.resized
    assert pretrained.model.grid == (2, 8)


def test_resizing_matches_the_released_loader(tmp_path: Path):
    """Nearest along the flattened patches: from 4 x 4 to 8 x 8, new patch j takes old patch j // 4."""
    path = official_file(tmp_path / "a.safetensors")
    old = tsf.load(path, num_heads=3).params["pos_embed"]
    new = tsf.load(path, num_heads=3, image_size=32, resize="official").params["pos_embed"]
    np.testing.assert_array_equal(new[0, 0], old[0, 0])
    np.testing.assert_array_equal(new[0, 1:], old[0, 1:][np.arange(64) // 4])


def test_different_number_of_classes_gives_a_fresh_classifier(tmp_path: Path):
    path = official_file(tmp_path / "a.safetensors")
    one, other = (tsf.load(path, num_heads=3, num_classes=7, key=jax.random.key(i)) for i in range(2))
    assert one.params["head"]["kernel"].shape == (24, 7)
    assert not one.params["head"]["bias"].any()
    assert float(one.params["head"]["kernel"].std()) == pytest.approx(0.02, rel=0.3)
    assert (one.params["head"]["kernel"] != other.params["head"]["kernel"]).all()
    assert one.report.initialised == dict.fromkeys(("head/bias", "head/kernel"), "a fresh classifier of 7 classes")
    kept = tsf.load(path, num_heads=3, num_classes=5)
    np.testing.assert_array_equal(kept.params["head"]["kernel"], golden_tensors("official_divided_space_time")["head.weight"].T)


def test_fields_of_the_computation_follow_the_caller(tmp_path: Path):
    path = official_file(tmp_path / "a.safetensors")
    model = tsf.load(path, num_heads=3, dtype=jnp.bfloat16, drop_path_rate=0.1, remat="full").model
    assert (model.dtype, model.drop_path_rate, model.remat) == (jnp.bfloat16, 0.1, "full")
    with pytest.raises(tsf.InputError, match="no argument drop_path"):
        tsf.load(path, num_heads=3, drop_path=0.1)
    with pytest.raises(tsf.InputError, match=r"embed_dim is 24 by .*, but 768 by your arguments"):
        tsf.load(path, num_heads=3, embed_dim=768)


def test_load_into_a_given_model(tmp_path: Path):
    path = official_file(tmp_path / "a.safetensors")
    model = load_golden("divided_space_time").model.clone(scan_layers=True, drop_path_rate=0.2, num_frames=2, image_size=32)
    pretrained = tsf.load(path, model=model)
    assert pretrained.model is model
    assert pretrained.report.resized.keys() == {"pos_embed", "time_embed"}
    with pytest.raises(tsf.InputError, match=r"head/kernel: expected \(24, 9\), got \(24, 5\) \(num_classes=9 gives"):
        tsf.load(path, model=model.clone(num_classes=9))
    fresh = tsf.load(path, model=model.clone(num_classes=9), num_classes=9)
    assert fresh.params["head"]["kernel"].shape == (24, 9)
    with pytest.raises(tsf.InputError, match=r"embed_dim is 24 by .*, but 48 by the model; depth is 2 by"):
        tsf.load(path, model=model.clone(embed_dim=48, depth=3))
    with pytest.raises(tsf.InputError, match=r"^num_frames differ\(s\) from the fields of the given model"):
        tsf.load(path, model=model, num_frames=9)


def test_joint_model_converts_to_divided(tmp_path: Path):
    """As for an image model, the spatial attention is copied and `temporal_fc` is zero."""
    source = official_file(tmp_path / "a.safetensors", "space_only")
    pretrained = tsf.load(source, num_heads=3, attention_type="divided_space_time", kind="official")  # format's former name
    assert pretrained.report is not None
    assert pretrained.report.kind == pretrained.report.format == "the official TimeSformer release"
    block = pretrained.params["blocks_1"]
    jax.tree.map(np.testing.assert_array_equal, block["temporal_attn"], block["attn"])
    assert not block["temporal_fc"]["kernel"].any()
    assert len(pretrained.report.copied) == 12


def test_allow_permits_missing_and_extra_tensors(tmp_path: Path):
    tensors = golden_tensors("official_divided_space_time")
    del tensors["blocks.1.attn.qkv.bias"]
    tensors["extra.thing"] = np.zeros(3, np.float32)
    path = write_safetensors(tmp_path / "a.safetensors", tensors)
    pretrained = tsf.load(path, num_heads=3, allow=[r"blocks_\d/attn/qkv/bias", r"extra\..*"])
    assert pretrained.report.initialised == {"blocks_1/attn/qkv/bias": "allowed by the caller"}
    assert pretrained.report.ignored == {"extra.thing": "allowed by the caller"}
    with pytest.raises(tsf.InputError, match=r"extra.thing"):
        tsf.load(path, num_heads=3, allow=[r"blocks_\d/attn/qkv/bias"])


def test_config_that_contradicts_its_tensors_is_rejected(tmp_path: Path):
    config = json.loads(str(golden_arrays("huggingface_divided")["config"])) | {"num_hidden_layers": 3, "num_frames": 8}
    folder = write_folder(tmp_path / "folder", golden_tensors("huggingface_divided"), config)
    with pytest.raises(tsf.InputError, match=r"depth is 3 by the description, but 2 by the tensors; num_frames is 8 by"):
        tsf.load(folder)


def test_incomplete_classifier_is_not_mixed_with_a_fresh_one(tmp_path: Path):
    tensors = golden_tensors("official_divided_space_time")
    del tensors["head.weight"]
    path = write_safetensors(tmp_path / "a", tensors)
    with pytest.raises(tsf.InputError, match="no classifier"):
        tsf.load(path, num_heads=3)
    pretrained = tsf.load(path, num_heads=3, num_classes=5)
    assert not pretrained.params["head"]["bias"].any()
    assert pretrained.report.ignored == {"head/bias": "a fresh classifier of 5 classes"}
