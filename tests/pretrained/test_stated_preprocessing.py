"""Preprocessing and objective that files state for video models, and notes on what they don't state."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

import timesformer_jax as tsf
from tests.pretrained.files import (
    TIMM_CONFIG,
    golden_huggingface,
    golden_tensors,
    official_file,
    timm_tensors,
    write_folder,
    write_safetensors,
)
from tests.support import random_variables
from timesformer_jax.pretrained import save_huggingface
from timesformer_jax.pretrained.file_notes import objective_of_official_config, preprocess_of_notes
from timesformer_jax.pretrained.huggingface_config import preprocess_of_preprocessor
from timesformer_jax.pretrained.processor_files import PROCESSOR, VIDEO_PREPROCESSOR, read_processor
from timesformer_jax.pretrained.zoo import SIDECARS

PREPROCESSOR = "preprocessor_config.json"


def huggingface(folder: Path, **files: Any) -> Path:
    """Write the golden Hugging Face model with JSON files, given by their names without suffix; `config` adds entries."""
    golden_huggingface(folder)
    config = json.loads((folder / "config.json").read_text())
    files["config"] = {**config, **files.get("config", {})}
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


def mean(value: float) -> dict[str, Any]:
    return {"image_mean": [value] * 3, "image_std": [0.5] * 3}


@pytest.mark.parametrize(
    ("nested", "expected"),
    [
        ({"video_processor": mean(0.1), "image_processor": mean(0.2)}, 0.1),
        ({"image_processor": mean(0.2)}, 0.2),
        ({"processor_class": "CLIPProcessor"}, 0.3),
    ],
    ids=str,
)
def test_processor_files_are_read_in_the_order_of_transformers(nested: dict[str, Any], expected: float, tmp_path: Path):
    files = {"processor_config": nested, "video_preprocessor_config": mean(0.3), "preprocessor_config": mean(0.4)}
    assert tsf.load(huggingface(tmp_path / "a", **files)).preprocess.mean == (expected,) * 3


def test_processor_files_are_downloaded():
    assert {PROCESSOR, VIDEO_PREPROCESSOR, PREPROCESSOR} <= set(SIDECARS)


def test_malformed_processor_file_is_named(tmp_path: Path):
    with pytest.raises(tsf.InputError, match=r"processor_config.json's image_processor should be an object"):
        tsf.load(huggingface(tmp_path / "a", processor_config={"image_processor": 3}))
    nested = {"video_processor": {"image_mean": "grey"}}
    with pytest.raises(tsf.InputError, match=r"processor_config.json's video_processor's image_mean should be three numbers"):
        tsf.load(huggingface(tmp_path / "b", processor_config=nested))


def test_own_preprocessing_survives_another_processor_file(tmp_path: Path):
    """As if a user saved a processor of transformers into a folder of ours."""
    model = tsf.TimeSformer(2, image_size=8, patch_size=4, num_frames=2, embed_dim=24, depth=1, num_heads=3)
    preprocess = tsf.Preprocess(num_frames=2, crop_size=8, channel_order="bgr", sampling="segments")
    save_huggingface(tsf.Pretrained(model, random_variables(model)["params"], preprocess), tmp_path / "own")
    (tmp_path / "own" / PROCESSOR).write_text(json.dumps({"video_processor": {"size": {"shortest_edge": 10}, "crop_size": 8}}))
    assert tsf.load(tmp_path / "own").preprocess == preprocess
    assert read_processor(tmp_path / "own")[0]["size"] == {"shortest_edge": 10}


@pytest.mark.parametrize(("edge", "short_side"), [(12, 12), (8, None)])
def test_frames_are_scaled_to_the_shortest_edge(edge: int, short_side: int | None, tmp_path: Path):
    """Folders of published models state equal sizes, while the official evaluation scales to 256 pixels."""
    size = json.loads((golden_huggingface(tmp_path / "golden") / "config.json").read_text())["image_size"]
    edge = edge * size // 8
    sizes = {"size": {"shortest_edge": edge}, "crop_size": {"height": size, "width": size}}
    preprocess = tsf.load(huggingface(tmp_path / "a", preprocessor_config=sizes)).preprocess
    assert preprocess.short_side == (edge if short_side else None)


@pytest.mark.parametrize("entries", [{"rescale_factor": 1 / 127.5}, {}], ids=str)
def test_offset_is_part_of_the_mean(entries: dict[str, Any]):
    """ViViT's processor normalises `pixels * rescale_factor - 1`."""
    stated = preprocess_of_preprocessor(
        {"offset": True, "image_mean": [0.5, 0.4, 0.3], "image_std": [0.5, 0.25, 0.2], **entries}
    )
    pixels = np.random.default_rng(0).uniform(0, 255, (4, 3))
    theirs = (pixels * entries.get("rescale_factor", 1 / 255) - 1 - [0.5, 0.4, 0.3]) / [0.5, 0.25, 0.2]
    np.testing.assert_allclose((pixels / 255 - stated["mean"]) / stated["std"], theirs, atol=1e-12)
    unscaled = {"offset": True, "do_rescale": False, **mean(127.5)}
    assert preprocess_of_preprocessor(unscaled)["mean"] == [0.5] * 3


def test_flipped_channels_are_bgr(tmp_path: Path):
    flipped = {"do_flip_channel_order": True}
    assert tsf.load(huggingface(tmp_path / "a", preprocessor_config=flipped)).preprocess.channel_order == "bgr"
    assert preprocess_of_preprocessor({**flipped, "image_mean": [0.1, 0.2, 0.3]})["mean"] == [0.3, 0.2, 0.1]
    own = {**flipped, "timesformer_jax": {"channel_order": "rgb"}}
    assert preprocess_of_preprocessor(own)["channel_order"] == "rgb"
    assert "channel_order" not in preprocess_of_preprocessor({"do_flip_channel_order": False})


def test_one_number_is_the_mean_of_all_channels(tmp_path: Path):
    preprocess = tsf.load(huggingface(tmp_path / "a", preprocessor_config={"image_mean": 0.4, "image_std": 0.2})).preprocess
    assert (preprocess.mean, preprocess.std) == ((0.4,) * 3, (0.2,) * 3)


def test_regression_is_noted(tmp_path: Path):
    folder = huggingface(tmp_path / "a", config={"problem_type": "regression"})
    loaded = tsf.load(folder)
    assert loaded.objective == "softmax"
    assert any("problem_type is regression" in note for note in loaded.report.notes)
    assert tsf.load(folder, objective="sigmoid").objective == "sigmoid"


@pytest.mark.parametrize(
    ("lines", "objective"),
    [
        ("  LOSS_FUNC: bce_logit\n", "sigmoid"),
        ("  LOSS_FUNC: 'bce'\n", "sigmoid"),
        ("  HEAD_ACT: sigmoid\n", "sigmoid"),
        ("  HEAD_ACT: softmax\n  LOSS_FUNC: cross_entropy\n", None),
    ],
)
def test_official_config_states_multi_label_models(lines: str, objective: str | None):
    assert objective_of_official_config(f"MODEL:\n{lines}") == objective


def test_official_multi_label_file_is_sigmoid(tmp_path: Path):
    config = "MODEL:\n  LOSS_FUNC: bce_logit\n"
    save_file(golden_tensors("official_divided_space_time"), tmp_path / "a.safetensors", metadata={"cfg": config})
    assert tsf.load(tmp_path / "a.safetensors", num_heads=3).objective == "sigmoid"
    assert tsf.load(tmp_path / "a.safetensors", num_heads=3, objective="softmax").objective == "softmax"


def test_timesformer_of_ssv2_stays_bgr():
    """The official switch to RGB has no effect for a TimeSformer."""
    config = "DATA:\n  REVERSE_INPUT_CHANNEL: true\nTEST:\n  DATASET: ssv2\n"
    assert preprocess_of_notes({}, config)["channel_order"] == "bgr"
    assert preprocess_of_notes({}, config, convnet=True)["channel_order"] == "rgb"


def test_unstated_pixels_and_sampling_are_reported(tmp_path: Path):
    report = tsf.load(official_file(tmp_path / "a.safetensors"), num_heads=3).report
    assert any(guess.startswith("pixels with mean 0.45 and std 0.225 (guessed from the published") for guess in report.guesses)
    assert any(note.startswith("videos are sampled as for most published models (uniform, every 32 ") for note in report.notes)
    stated = tsf.load(huggingface(tmp_path / "b", preprocessor_config=mean(0.4))).report
    assert "pixels" not in stated.reasons
    assert any(note.startswith("videos are sampled") for note in stated.notes)
    own = {**mean(0.4), "timesformer_jax": {"sampling": "uniform", "sampling_rate": 4}}
    stated = tsf.load(huggingface(tmp_path / "c", preprocessor_config=own)).report
    assert not any(note.startswith(("videos are sampled", "pixels")) for note in stated.notes)


def test_stale_config_is_named_with_the_way_out(tmp_path: Path):
    folder = write_folder(tmp_path / "a", timm_tensors(), {**TIMM_CONFIG, "num_classes": 7, "label_names": None})
    words = r"num_classes is 7 by the description, but 5 by the tensors. If config.json in .*a is another model's, correct it"
    with pytest.raises(tsf.InputError, match=words):
        tsf.load(folder)
    (tmp_path / "b").mkdir()
    assert tsf.load(write_safetensors(tmp_path / "b" / "w.safetensors", timm_tensors())).model.num_classes == 5
