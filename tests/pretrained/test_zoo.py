"""Published checkpoints: the table, the preprocessing of each, and fetching without a network."""

import json
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import constants

import timesformer_jax as tsf
from tests.pretrained.files import golden_huggingface, write_safetensors
from tests.support import random_variables
from timesformer_jax.__main__ import main
from timesformer_jax.modeling import describe_model, flatten_params, parameter_shapes
from timesformer_jax.pretrained.file_notes import preprocess_of_notes
from timesformer_jax.pretrained.infer_config import choose_preprocess
from timesformer_jax.pretrained.load_report import Report
from timesformer_jax.pretrained.tensor_names import template
from timesformer_jax.pretrained.weight_formats import FORMATS
from timesformer_jax.pretrained.zoo import DATASETS, ZOO, published_as


def model_of(name: str) -> tsf.TimeSformer:
    row = ZOO[name]
    return tsf.TimeSformer(num_classes=DATASETS[row.dataset].num_classes, image_size=row.image_size, num_frames=row.num_frames)


def test_zoo_table_matches_the_official_one():
    """Repeats the facts of the README's model zoo."""
    assert len(ZOO) == 13
    assert sum(row.repository is not None for row in ZOO.values()) == 6
    facts = {
        name.removeprefix("timesformer-"): (row.num_frames, row.image_size, row.sampling_rate, row.top1, row.top5)
        for name, row in ZOO.items()
        if row.dataset != "ssv2"
    }
    assert facts == {
        "base-k400": (8, 224, 32, 77.9, 93.2),
        "hr-k400": (16, 448, 16, 79.6, 94.0),
        "large-frames-k400": (96, 224, 4, 80.6, 94.7),
        "base-k600": (8, 224, 32, 79.1, 94.4),
        "hr-k600": (16, 448, 16, 81.8, 95.8),
        "large-frames-k600": (96, 224, 4, 82.2, 95.6),
        "8x32-howto100m": (8, 224, 32, 56.8, None),
        "32x32-howto100m": (32, 224, 32, 61.2, None),
        "64x32-howto100m": (64, 224, 32, 62.2, None),
        "96x32-howto100m": (96, 224, 32, 62.6, None),
    }
    assert [(r.num_frames, r.image_size, r.top1) for r in ZOO.values() if r.dataset == "ssv2"] == [
        (8, 224, 59.1),
        (16, 448, 61.8),
        (64, 224, 62.0),
    ]
    for row in ZOO.values():
        assert row.file.startswith("TimeSformer_divST_")
        assert row.file.endswith(".pyth")
        assert row.file in row.url
        assert str(row.num_frames) in row.file
        assert str(row.image_size) in row.file


@pytest.mark.parametrize("name", ZOO)
def test_zoo_preprocessing_matches_the_official_models(name: str):
    preprocess = ZOO[name].preprocess
    assert (preprocess.mean, preprocess.std) == ((0.45,) * 3, (0.225,) * 3)
    ssv2 = name.endswith("ssv2")
    assert (preprocess.channel_order, preprocess.sampling) == (("bgr", "segments") if ssv2 else ("rgb", "uniform"))
    assert (preprocess.num_frames, preprocess.crop_size) == (ZOO[name].num_frames, ZOO[name].image_size)


@pytest.mark.parametrize("name", ZOO)
def test_file_of_a_known_shape_gets_the_zoo_preprocessing(name: str):
    """The files don't state the preprocessing; the report says what was inferred."""
    model = model_of(name)
    fields = describe_model(model)
    assert published_as(fields) == name
    report = Report("file.pyth", "", model)

    def chosen(format: str, stated: dict, target: tsf.TimeSformer = model, source: str = "file.pyth") -> tsf.Preprocess:
        return choose_preprocess(FORMATS[format], stated, fields, target, source, report)

    assert chosen("official", {}) == ZOO[name].preprocess
    assert f"prepared as for {name}" in report.notes[0]
    # mmaction2's files have the same shapes and other pixel statistics.
    other = chosen("mmaction2_divided", {})
    assert (other.mean, other.std) == ((0.5,) * 3, (0.5,) * 3)
    # A Hugging Face folder states the pixel statistics, but not the sampling of frames or the channel order.
    folder = chosen("huggingface", {"mean": [0.4] * 3})
    assert (folder.mean[0], folder.channel_order, folder.sampling) == (
        0.4,
        ZOO[name].preprocess.channel_order,
        ZOO[name].preprocess.sampling,
    )


def test_custom_model_is_not_in_the_zoo():
    base = tsf.create("timesformer-base", num_classes=400)
    assert published_as(describe_model(base)) == "timesformer-base-k400"
    assert published_as(describe_model(base.clone(num_classes=401))) is None
    assert published_as(describe_model(base.clone(attention_type="joint_space_time"))) is None


def test_fine_tuned_weights_keep_the_zoo_preprocessing():
    """With other classes, a BGR model stays BGR and a 96 x 4 model keeps its sampling rate."""
    for name in ("timesformer-base-ssv2", "timesformer-large-frames-k400"):
        target = model_of(name).clone(num_classes=10)
        for source in ("file.pyth", name, f"hf:{ZOO[name].repository}"):
            report = Report(source, "", target)
            fields = describe_model(model_of(name))
            chosen = choose_preprocess(FORMATS["official"], {}, fields, target, source, report)
            assert chosen == ZOO[name].preprocess
            assert len(report.notes) == (source == "file.pyth" or "None" in source)


def test_official_config_determines_the_preprocessing():
    """The training code leaves it in its checkpoints, as YAML in either style."""
    config = (
        "DATA:\n  MEAN: [0.4, 0.5, 0.6]\n  NUM_FRAMES: 8\n  SAMPLING_RATE: 16\n  STD:\n  - 0.2\n  - 0.2\n  - 0.25\n"
        "TRAIN:\n  DATASET: ssv2\n"
    )
    stated = preprocess_of_notes({}, config)
    model = model_of("timesformer-base-k400")
    report = Report("", "", model)
    preprocess = choose_preprocess(FORMATS["official"], stated, describe_model(model), model, "file", report)
    assert preprocess.short_side == 256  # which the folder doesn't state
    assert not report.notes
    assert preprocess.mean == (0.4, 0.5, 0.6)
    assert preprocess.std == (0.2, 0.2, 0.25)
    assert (preprocess.sampling_rate, preprocess.sampling, preprocess.channel_order) == (16.0, "segments", "bgr")
    kinetics = preprocess_of_notes({}, config.replace("ssv2", "kinetics"))
    assert (kinetics["sampling"], kinetics["channel_order"]) == ("uniform", "rgb")


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache, without a network."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "cache"


def cached(cache: Path, repository: str) -> Path:
    """Path at which the hub keeps a snapshot, made by hand."""
    folder = cache / f"models--{repository.replace('/', '--')}"
    snapshot = folder / "snapshots" / ("0" * 40)
    snapshot.parent.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("0" * 40)
    return snapshot


def test_zoo_name_is_loaded_from_the_cache(offline: Path):
    """Uses a base model with one block, which the folder states, so that the test is quick."""
    snapshot = cached(offline, "facebook/timesformer-base-finetuned-ssv2")
    snapshot.mkdir()
    model = tsf.TimeSformer(num_classes=174, depth=1)
    params = flatten_params(random_variables(model)["params"])
    rows = {row.ours: row for row in FORMATS["huggingface"].rows}
    tensors = {}
    for path, array in params.items():
        general, block = template(path)
        layout = rows[general].layout
        assert layout.write is not None
        tensors[rows[general].theirs.replace("{i}", block)] = layout.write(np.asarray(array))
    write_safetensors(snapshot / "model.safetensors", tensors)
    config = {"model_type": "timesformer", "num_hidden_layers": 1, "id2label": {str(i): f"label {i}" for i in range(174)}}
    (snapshot / "config.json").write_text(json.dumps(config))
    (snapshot / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.45] * 3, "image_std": [0.225] * 3}))
    pretrained = tsf.load("timesformer-base-ssv2")
    assert pretrained.preprocess == ZOO["timesformer-base-ssv2"].preprocess  # BGR, which the folder doesn't state
    assert pretrained.labels is not None
    assert pretrained.labels[173] == "label 173"
    assert {leaf.shape for leaf in flatten_params(pretrained.params).values()} == {
        leaf.shape for leaf in flatten_params(parameter_shapes(model)).values()
    }


def test_any_repository_is_loaded_by_name(offline: Path):
    golden_huggingface(cached(offline, "someone/mine"))
    assert tsf.load("hf:someone/mine").model.embed_dim == 24


def test_uncached_weights_are_reported(offline: Path):
    with pytest.raises(
        tsf.InputError, match=r"timesformer-base-finetuned-k400 is not in the cache, and the .* can't be reached"
    ):
        tsf.load("timesformer-base-k400")
    with pytest.raises(tsf.InputError, match="Can't fetch not/a/name"):
        tsf.load("hf:not/a/name")


def test_unknown_name_error_lists_the_known_ones():
    with pytest.raises(
        tsf.InputError, match=r"no published model of this name. Known: timesformer-base-k400, .*96x32-howto100m"
    ):
        tsf.load("timesformer-base-k401")


def test_models_without_a_repository_report_their_download_address():
    with pytest.raises(tsf.InputError, match=r"download https://www.dropbox.com/s/.*96x4_224_K400.pyth\?dl=1 and load"):
        tsf.load("timesformer-large-frames-k400")


def test_zoo_job_prints_all_models(capsys: pytest.CaptureFixture[str]):
    assert main(["zoo"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in ZOO)
