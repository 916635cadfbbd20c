"""Every format of video models loads to the same numbers, with all properties derived from the tensors."""

import functools
import json
import types
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
    write_folder,
    write_safetensors,
)
from tests.support import load_golden, random_variables
from timesformer_jax.modeling.embeddings import resize_position_embedding, resize_time_embedding
from timesformer_jax.pretrained import check_weights, fit_to_model, params_from_official, save_official, tensor_files
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


def test_unknown_number_of_heads_is_an_error(tmp_path: Path):
    path = official_file(tmp_path / "a.safetensors")
    with pytest.raises(tsf.InputError, match="width 24 has: give num_heads="):
        tsf.load(path)
    with pytest.raises(tsf.InputError, match="embed_dim=24 with num_heads=5"):
        tsf.load(path, num_heads=5)


def test_half_precision_becomes_float32(tmp_path: Path):
    tensors = {name: tensor.astype(np.float16) for name, tensor in golden_tensors("official_space_only").items()}
    pretrained = tsf.load(write_safetensors(tmp_path / "a", {f"model.{k}": v for k, v in tensors.items()}), num_heads=3)
    assert {leaf.dtype for leaf in jax.tree.leaves(pretrained.params)} == {jnp.dtype("float32")}
    np.testing.assert_array_equal(pretrained.params["norm"]["scale"], tensors["norm.weight"].astype(np.float32))


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


def test_incomplete_classifier_is_not_mixed_with_a_fresh_one(tmp_path: Path):
    tensors = golden_tensors("official_divided_space_time")
    del tensors["head.weight"]
    path = write_safetensors(tmp_path / "a", tensors)
    with pytest.raises(tsf.InputError, match="no classifier"):
        tsf.load(path, num_heads=3)
    pretrained = tsf.load(path, num_heads=3, num_classes=5)
    assert not pretrained.params["head"]["bias"].any()
    assert pretrained.report.ignored == {"head/bias": "a fresh classifier of 5 classes"}


def test_official_config_determines_model_fields():
    config = "MODEL:\n  NUM_CLASSES: 5\nDATA:\n  NUM_FRAMES: 4\nTIMESFORMER:\n  ATTENTION_TYPE: joint_space_time\n"
    assert fields_of_official_config(config) == {"num_classes": 5, "num_frames": 4, "attention_type": "joint_space_time"}
    assert fields_of_official_config(None) == {}


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
    assert str(guessed.report).count("guessed") == 1
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
