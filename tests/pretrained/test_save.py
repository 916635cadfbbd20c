"""Saving: folders and files that other libraries read, written completely or not at all."""

import dataclasses
import json
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

import timesformer_jax as tsf
from tests.pretrained.files import golden_huggingface, golden_tensors, official_file
from timesformer_jax.pretrained import save_official
from timesformer_jax.pretrained.save import SUFFIXES, WRITERS, _new
from timesformer_jax.pretrained.writer_limits import TARGETS, describe_unsupported, unsupported

PREPROCESS = tsf.Preprocess(
    num_frames=4, crop_size=16, sampling="segments", sampling_rate=7.0, mean=(0.1, 0.2, 0.3), channel_order="bgr", short_side=20
)


@pytest.fixture
def pretrained(tmp_path: Path) -> tsf.Pretrained:
    return tsf.load(
        official_file(tmp_path / "source.safetensors"), num_heads=3, labels=["a", "b", "ü", "d", "e"], preprocess=PREPROCESS
    )


def test_saved_hugging_face_folder_has_names_shapes_and_config(pretrained: tsf.Pretrained, tmp_path: Path):
    """Names, shapes and configuration match its own folders (parity tests compare the numbers)."""
    tsf.save_huggingface(pretrained, tmp_path / "folder")
    golden = golden_huggingface(tmp_path / "golden")
    theirs, ours = (load_file(folder / "model.safetensors") for folder in (golden, tmp_path / "folder"))
    assert {name: tensor.shape for name, tensor in ours.items()} == {name: tensor.shape for name, tensor in theirs.items()}
    config = json.loads((tmp_path / "folder" / "config.json").read_text())
    expected = json.loads((golden / "config.json").read_text())
    same = expected.keys() - {"id2label", "label2id", "transformers_version", "initializer_range", "drop_path_rate"}
    same -= {"attention_probs_dropout_prob", "hidden_dropout_prob"}
    assert {name: config[name] for name in same} == {name: expected[name] for name in same}
    assert config["id2label"] == {"0": "a", "1": "b", "2": "ü", "3": "d", "4": "e"}
    assert config["label2id"]["ü"] == 2
    preprocessor = json.loads((tmp_path / "folder" / "preprocessor_config.json").read_text())
    assert preprocessor["image_mean"] == [0.1, 0.2, 0.3]
    assert (preprocessor["size"], preprocessor["crop_size"]) == ({"shortest_edge": 20}, {"height": 16, "width": 16})


def test_hugging_face_folder_round_trip(pretrained: tsf.Pretrained, tmp_path: Path):
    tsf.save_huggingface(pretrained, tmp_path / "folder")
    again = tsf.load(tmp_path / "folder")
    assert (again.model, again.labels, again.preprocess) == (pretrained.model, pretrained.labels, PREPROCESS)
    jax.tree.map(np.testing.assert_array_equal, again.params, pretrained.params)
    assert not again.report.notes


@pytest.mark.parametrize("kind", ["huggingface", "official", "timesformer_jax"])
def test_written_files_have_the_permissions_of_the_umask(pretrained: tsf.Pretrained, tmp_path: Path, kind: str):
    before = os.umask(0o027)
    try:
        WRITERS[kind](pretrained, tmp_path / "written.safetensors")
    finally:
        os.umask(before)
    for path in [tmp_path / "written.safetensors", *(tmp_path / "written.safetensors").rglob("*")]:
        assert path.stat().st_mode & 0o777 == (0o750 if path.is_dir() else 0o640), path


def test_official_tensors_round_trip(pretrained: tsf.Pretrained, tmp_path: Path):
    save_official(pretrained, tmp_path / "a.safetensors")
    again = load_file(tmp_path / "a.safetensors")
    tensors = golden_tensors("official_divided_space_time")
    assert again.keys() == {f"model.{name}" for name in tensors}
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(again[f"model.{name}"], tensor, err_msg=name)


@pytest.mark.parametrize("scan_layers", [False, True])
def test_scanned_models_are_written(scan_layers: bool, tmp_path: Path):
    source = official_file(tmp_path / "source.safetensors")
    tsf.convert(source, tmp_path / "folder", num_heads=3, scan_layers=scan_layers)
    jax.tree.map(np.testing.assert_array_equal, tsf.load(tmp_path / "folder").params, tsf.load(source, num_heads=3).params)


@pytest.mark.parametrize("target", ["own", "folder", "a.safetensors"])
def test_multi_label_models_stay_multi_label(target: str, pretrained: tsf.Pretrained, tmp_path: Path):
    """Each class has its own probability, the sigmoid of its logit, in any format that can be read back."""
    several = dataclasses.replace(pretrained, objective="sigmoid")
    kind = "timesformer_jax" if target == "own" else SUFFIXES[Path(target).suffix]
    WRITERS[kind](several, tmp_path / target)
    again = tsf.load(tmp_path / target, num_heads=3)
    frames = np.random.default_rng(0).integers(0, 256, (40, 24, 24, 3), np.uint8)
    (logits,) = np.asarray(again(again.preprocess(frames, num_crops=1)))
    predicted = dict(again.predict(frames, num_crops=1))
    expected = 1 / (1 + np.exp(-logits))
    np.testing.assert_allclose([predicted[label] for label in again.labels or ()], expected, rtol=1e-5)
    assert ("apply a sigmoid there" in str(several.report)) == (target == "a.safetensors")
    # A fresh classifier's objective is the caller's.
    assert tsf.load(tmp_path / target, num_heads=3, num_classes=3).objective == "softmax"


def test_multi_label_folders_of_hugging_face_are_read(tmp_path: Path):
    folder = golden_huggingface(tmp_path / "golden")
    config = json.loads((folder / "config.json").read_text())
    assert tsf.load(folder).objective == "softmax"
    (folder / "config.json").write_text(json.dumps({**config, "problem_type": "multi_label_classification"}))
    assert tsf.load(folder).objective == "sigmoid"
    assert tsf.load(folder, objective="softmax").objective == "softmax"
    with pytest.raises(tsf.InputError, match="objective must be one of softmax, sigmoid, got 'focal'"):
        tsf.load(folder, objective="focal")


def test_hugging_face_folder_keeps_activation_and_epsilon(pretrained: tsf.Pretrained, tmp_path: Path):
    model = pretrained.model.clone(activation="gelu_tanh", layer_norm_epsilon=1e-5)
    tsf.save_huggingface(dataclasses.replace(pretrained, model=model), tmp_path / "folder")
    assert tsf.load(tmp_path / "folder").model == model
    with pytest.raises(
        tsf.InputError, match="the official code can't compute a model with layer_norm_epsilon=1e-05, activation="
    ):
        save_official(dataclasses.replace(pretrained, model=model), tmp_path / "a.safetensors")


@pytest.mark.parametrize("field", [field for field in TARGETS["official"].values if field != "attention_type"])
def test_models_that_a_format_cannot_express_are_rejected(field: str, pretrained: tsf.Pretrained, tmp_path: Path):
    others = {
        "attention_order": "parallel",
        "position_embedding": "space",
        "layer_norm_epsilon": 1e-3,
        "activation": "quick_gelu",
    }
    model = pretrained.model.clone(**{field: others.get(field, True)})
    with pytest.raises(tsf.InputError, match=f"{field}=.*: save it with tsf.save instead"):
        save_official(dataclasses.replace(pretrained, model=model), tmp_path / "a.safetensors")
    assert not (tmp_path / "a.safetensors").exists()


def test_space_only_is_rejected_for_transformers(tmp_path: Path):
    """Its logits are one row per frame (version 5.23), so equal logits can't be promised."""
    source = official_file(tmp_path / "source.safetensors", "space_only")
    with pytest.raises(tsf.InputError, match="transformers can't compute a model with attention_type='space_only'"):
        tsf.convert(source, tmp_path / "folder", num_heads=3, format="official")


def test_folded_parameters_cannot_be_written(pretrained: tsf.Pretrained, tmp_path: Path):
    folded = dataclasses.replace(pretrained, params=tsf.fold_for_inference(pretrained.params))
    for write, target in ((tsf.save_huggingface, "folder"), (save_official, "a.safetensors"), (tsf.save, "own")):
        with pytest.raises(tsf.InputError, match="folded"):
            write(folded, tmp_path / target)
        assert not (tmp_path / target).exists()


def test_every_suffix_belongs_to_a_writable_format():
    assert set(SUFFIXES.values()) <= WRITERS.keys()


@pytest.mark.parametrize(("target", "kind"), [("folder", None), ("a.safetensors", None), ("own", "timesformer_jax")])
def test_existing_files_are_overwritten_only_on_request(target: str, kind: str | None, tmp_path: Path):
    source = official_file(tmp_path / "source.safetensors")
    tsf.convert(source, tmp_path / target, to=kind, num_heads=3)
    with pytest.raises(tsf.InputError, match=f"{target} exists"):
        tsf.convert(source, tmp_path / target, to=kind, num_heads=3)
    tsf.convert(source, tmp_path / target, to=kind, num_heads=3, num_frames=2, overwrite=True)
    assert tsf.load(tmp_path / target, num_heads=3).model.num_frames == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted({"source.safetensors", target})


def test_failed_save_leaves_nothing_behind(pretrained: tsf.Pretrained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    tsf.save_huggingface(pretrained, tmp_path / "folder")
    before = (tmp_path / "folder" / "config.json").read_text()
    monkeypatch.setattr(json, "dumps", lambda *a, **k: 1 / 0)
    for overwrite in (False, True):
        with pytest.raises((ZeroDivisionError, tsf.InputError)):
            tsf.save_huggingface(pretrained, tmp_path / "folder", overwrite=overwrite)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "source.safetensors"]
    assert (tmp_path / "folder" / "config.json").read_text() == before


def test_foreign_files_are_never_overwritten(pretrained: tsf.Pretrained, tmp_path: Path):
    """Nor is anything next to the target."""
    others = {name: tmp_path / name for name in ("home", "home.old", "home.part")}
    for folder in others.values():
        folder.mkdir()
        (folder / "precious.txt").write_text("")
    for write in (tsf.save, tsf.save_huggingface, save_official):
        with pytest.raises(tsf.InputError, match=r"would delete precious\.txt"):
            write(pretrained, tmp_path / "home", overwrite=True)
    tsf.save_huggingface(pretrained, tmp_path / "empty")
    tsf.save(pretrained, tmp_path / "own")
    for target, write in (("empty", tsf.save_huggingface), ("own", tsf.save)):
        write(pretrained, tmp_path / target, overwrite=True)
        (tmp_path / target / ".git").mkdir()  # a clone of a repository
        with pytest.raises(tsf.InputError, match=r"would delete \.git"):
            write(pretrained, tmp_path / target, overwrite=True)
    assert all((folder / "precious.txt").exists() for folder in others.values())


def test_save_replaces_a_file_by_a_folder_and_back(pretrained: tsf.Pretrained, tmp_path: Path):
    save_official(pretrained, tmp_path / "x.safetensors")
    tsf.save_huggingface(pretrained, tmp_path / "x.safetensors", overwrite=True)
    assert (tmp_path / "x.safetensors").is_dir()
    save_official(pretrained, tmp_path / "x.safetensors", overwrite=True)
    assert (tmp_path / "x.safetensors").is_file()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source.safetensors", "x.safetensors"]


@pytest.mark.parametrize("name", ["y" * 300, "a\0b"])
def test_impossible_file_names_are_rejected(name: str, pretrained: tsf.Pretrained, tmp_path: Path):
    with pytest.raises(tsf.InputError, match="Can't write"):
        tsf.save_huggingface(pretrained, tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["source.safetensors"]


def test_missing_labels_stay_missing(pretrained: tsf.Pretrained, tmp_path: Path):
    tsf.save_huggingface(dataclasses.replace(pretrained, labels=None), tmp_path / "folder")
    assert tsf.load(tmp_path / "folder").labels is None


def test_impossible_targets_are_rejected(tmp_path: Path):
    source = official_file(tmp_path / "source.safetensors")
    with pytest.raises(tsf.InputError, match="give its format, to= one of"):
        tsf.convert(source, tmp_path / "a.tflite", num_heads=3)
    with pytest.raises(tsf.InputError, match="Can't write 'tflite'"):
        tsf.convert(source, tmp_path / "a.tflite", to="tflite", num_heads=3)
    with pytest.raises(tsf.InputError, match="There is no folder"):
        tsf.convert(source, tmp_path / "nowhere" / "a.safetensors", num_heads=3)


def test_fine_tuned_model_is_published(pretrained: tsf.Pretrained, tmp_path: Path):
    """Saves parameters from anywhere with their model, as a training script would."""
    model = tsf.create("timesformer-nano", num_classes=2)
    params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 2, 16, 16, 3)))["params"]
    mine = tsf.Pretrained(model, params, tsf.Preprocess(num_frames=2, crop_size=16), labels=("yes", "no"))
    tsf.save_huggingface(mine, tmp_path / "folder")
    again = tsf.load(tmp_path / "folder")
    video = jax.random.normal(jax.random.key(1), (2, 2, 16, 16, 3))
    np.testing.assert_allclose(again(video), mine(video), atol=1e-6)
    assert again.labels == ("yes", "no")


def test_describe_unsupported_agrees_with_the_writers(pretrained: tsf.Pretrained, tmp_path: Path):
    assert TARGETS.keys() == WRITERS.keys() - {"pyslowfast"}  # which holds no TimeSformer
    assert describe_unsupported(pretrained.model) is None
    model = pretrained.model.clone(pre_norm=True, layer_norm_epsilon=1e-5)
    words = describe_unsupported(model) or ""
    assert "huggingface (pre_norm=True); official, mmaction2 (pre_norm=True, layer_norm_epsilon=1e-05)" in words
    assert "--to=timesformer_jax` can." in words
    for name in ("huggingface", "official", "mmaction2"):
        assert unsupported(model, name)
        with pytest.raises(tsf.InputError, match=f"can't compute a model with {', '.join(unsupported(model, name))}"):
            WRITERS[name](dataclasses.replace(pretrained, model=model), tmp_path / "written.safetensors")


@pytest.mark.parametrize(
    ("changed", "present", "absent"),
    [
        (
            {},
            ["frame_sampling_rate=7)", "at least 28 frames", "as `timesformer predict` does", "short side scaled to 20"],
            [],
        ),
        ({"sampling_rate": 2.5, "placement": "centre"}, ["frame_sampling_rate=2.5)", "predict` takes the middle"], []),
        ({"placement": "tiled"}, ["`timesformer predict` covers all"], []),
        ({"channel_order": "bgr"}, ["can't prepare videos", "order BGR:"], ["pipeline(", "pipeline_tag"]),
        ({"sampling": "segments"}, ["frames from 4 equal segments"], ["pipeline(", "pipeline_tag", "frame_sampling_rate"]),
    ],
)
def test_model_card_states_pipeline_support(
    changed: dict,
    present: list[str],
    absent: list[str],
    pretrained: tsf.Pretrained,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
):
    """Its limits are also in the report and the log, and the frame sampling is in `config.json`."""
    preprocess = dataclasses.replace(PREPROCESS, **{"sampling": "uniform", "channel_order": "rgb", **changed})
    tsf.save_huggingface(dataclasses.replace(pretrained, preprocess=preprocess), tmp_path / "folder")
    card = (tmp_path / "folder" / "README.md").read_text(encoding="utf-8")
    assert [text for text in present if text not in card] == []
    assert [text for text in absent if text in card] == []
    beyond = any("pipeline can't prepare" in note for note in pretrained.report.notes)  # pyright: ignore
    assert beyond == ("pipeline can't prepare" in caplog.text) == bool(absent)
    config = json.loads((tmp_path / "folder" / "config.json").read_text())
    expected = preprocess.sampling_rate if preprocess.sampling == "uniform" else None
    assert (config["num_frames"], config["frame_sampling"], config.get("frame_sampling_rate")) == (
        4,
        preprocess.sampling,
        expected,
    )
    assert tsf.load(tmp_path / "folder").preprocess == preprocess


@pytest.mark.parametrize("text", ["I/O error: No space left on device (os error 28)", "a fault of the program"])
def test_full_disk_is_reported_for_every_writer(tmp_path: Path, text: str):
    """safetensors has its own exception, which isn't an `OSError`."""
    expected = tsf.InputError if "space" in text else RuntimeError
    with pytest.raises(expected, match="the disk is full; free" if "space" in text else text), _new(tmp_path / "hf", False):
        raise RuntimeError(text)
    assert not list(tmp_path.iterdir())
