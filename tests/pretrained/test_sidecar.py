"""Configuration files next to image model weights are used, and unstated values are reported as guesses."""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import timesformer_jax as tsf
from tests.pretrained.files import OPEN_CLIP_CONFIG, TIMM_CONFIG, openai_tensors, timm_tensors, write_safetensors
from tests.pretrained.test_image_models import CLIP_CONFIG, clip_tensors
from timesformer_jax.pretrained import read_architecture
from timesformer_jax.pretrained.read_source import read_contents

CLIP, TIMM = "open_clip_config.json", "config.json"


def changed(config: dict[str, Any], **entries: Any) -> dict[str, Any]:
    """Change entries of the configuration; `__` separates levels, and None removes an entry."""
    config = copy.deepcopy(config)
    for path, value in entries.items():
        *outer, last = path.split("__")
        place = config
        for name in outer:
            place = place.setdefault(name, {})
        place.pop(last, None)
        if value is not None:
            place[last] = value
    return config


def write(folder: Path, name: str, tensors: dict[str, np.ndarray], **configs: dict[str, Any]) -> Path:
    """Write a file of weights into a folder, with configurations given by their names without suffix."""
    folder.mkdir(exist_ok=True)
    for stem, config in configs.items():
        (folder / f"{stem}.json").write_text(json.dumps(config))
    return write_safetensors(folder / name, tensors)


@pytest.mark.parametrize("tensors", [openai_tensors(), clip_tensors(1, 192)], ids=["openai", "huggingface"])
def test_unstated_activation_is_a_guess(tensors: dict[str, np.ndarray], tmp_path: Path):
    file = write(tmp_path, "a.safetensors", tensors)
    guessed = tsf.load(file, num_classes=2)
    assert guessed.model.activation == "quick_gelu"
    guess = next(note for note in guessed.report.notes if note.startswith("activation quick_gelu (guessed"))
    assert "--activation, in a config model.activation" in guess
    assert "most of OpenCLIP's" in guess
    head = str(guessed.report).splitlines()[:6]
    assert any(line.startswith("  guess        activation") for line in head)
    assert any(line.startswith("  guess        num_heads 3 (guessed from width 192;") for line in head)
    decided = tsf.load(file, num_classes=2, activation="gelu", num_heads=3).report
    assert not any("activation" in note or "num_heads" in note for note in decided.notes)


def test_model_based_on_a_guess_reports_it(tmp_path: Path):
    """As in a run whose config follows the weights of `init_from`."""
    file = write(tmp_path, "a.safetensors", openai_tensors())
    model = tsf.load(file, num_classes=2).model
    followed = tsf.load(file, model=model, num_classes=2).report
    assert [guess.partition(" (")[0] for guess in followed.guesses] == ["num_heads 3", "activation quick_gelu"]
    other = tsf.load(file, model=model.clone(activation="gelu"), num_classes=2).report
    assert [guess.partition(" (")[0] for guess in other.guesses] == ["num_heads 3"]
    assert not any("outputs differ" in note for note in other.notes)


@pytest.mark.parametrize(
    ("changes", "fields"),
    [
        ({}, {"activation": "gelu", "num_heads": 3, "layer_norm_epsilon": 1e-5}),
        ({"model_cfg__quick_gelu": True}, {"activation": "quick_gelu"}),
        ({"model_cfg__quick_gelu": False}, {"activation": "gelu"}),
        ({"model_cfg__vision_cfg__act_kwargs": {"approximate": "tanh"}}, {"activation": "gelu_tanh"}),
        ({"model_cfg__vision_cfg__head_width": 16}, {"num_heads": 12}),
        ({"model_cfg__vision_cfg__norm_kwargs": {"eps": 1e-6}}, {"layer_norm_epsilon": 1e-6}),
        ({"model_cfg__custom_text": True, "model_cfg__text_cfg__hf_model_name": "roberta-base"}, {"activation": "gelu"}),
    ],
    ids=str,
)
def test_open_clip_config_is_read(changes: dict[str, Any], fields: dict[str, Any], tmp_path: Path):
    file = write(tmp_path, "a.safetensors", openai_tensors(), open_clip_config=changed(OPEN_CLIP_CONFIG, **changes))
    contents = read_contents(file, numbers=False)
    assert {name: contents.fields[name] for name in fields} == fields
    assert not contents.guesses


@pytest.mark.parametrize("name", ["open_clip_model.safetensors", "my_clip.safetensors"])
def test_open_clip_preprocessing_is_read(name: str, tmp_path: Path):
    """In a folder under OpenCLIP's names, and next to a file of any name."""
    file = write(tmp_path / "a", name, openai_tensors(), open_clip_config=OPEN_CLIP_CONFIG)
    preprocess = tsf.load(file.parent if name.startswith("open_clip") else file, num_classes=2).preprocess
    assert (preprocess.mean, preprocess.std, preprocess.short_side) == ((0.5,) * 3, (0.25,) * 3, 32)


def test_open_clip_config_applies_without_config_json(tmp_path: Path):
    tensors = clip_tensors(1, 192)
    open_clip = changed(OPEN_CLIP_CONFIG, model_cfg__vision_cfg__patch_size=4, model_cfg__vision_cfg__image_size=16)
    file = write(tmp_path, "model.safetensors", tensors, open_clip_config=open_clip)
    assert read_contents(file, numbers=False).fields["activation"] == "gelu"
    config = {**CLIP_CONFIG, "hidden_size": 192, "intermediate_size": 768, "num_hidden_layers": 1}
    write(tmp_path, "model.safetensors", tensors, config=config)
    contents = read_contents(file, numbers=False)
    assert contents.fields["activation"] == "quick_gelu"
    assert contents.notes == [
        "activation is 'quick_gelu' by config.json, which takes precedence, and 'gelu' by open_clip_config.json"
    ]


@pytest.mark.parametrize("name", ["model.safetensors", "model.fp16.safetensors", "vit.safetensors"])
def test_timm_config_is_read(name: str, tmp_path: Path):
    """In a folder, and next to a file of any name."""
    file = write(tmp_path / "a", name, timm_tensors(), config=TIMM_CONFIG)
    pretrained = tsf.load(file.parent if name.startswith("model") else file)
    assert pretrained.labels == ("tench", "goldfish", "shark", "ray", "cock")
    preprocess = pretrained.preprocess
    assert (preprocess.mean, preprocess.std, preprocess.short_side) == ((0.5,) * 3, (0.25,) * 3, 35)
    assert not pretrained.report.guesses
    assert pretrained.report.notes[-1:] == ["images were resized by bicubic interpolation, but frames are by bilinear"]


@pytest.mark.parametrize(
    ("changes", "fields"),
    [
        ({}, {"num_heads": 3, "layer_norm_epsilon": 1e-6, "activation": "gelu", "image_size": 32}),
        ({"model_args__num_heads": 12}, {"num_heads": 12}),
        ({"model_args__act_layer": "quick_gelu"}, {"activation": "quick_gelu"}),
        ({"model_args__img_size": [16, 64]}, {"image_size": (16, 64)}),
        ({"num_classes": 0, "label_names": None}, {"num_classes": 5}),
        ({"pretrained_cfg": None, "mean": [0.1, 0.2, 0.3]}, {"num_heads": 3}),
        ({"architecture": "somebodys_vit"}, {"num_heads": 3}),
    ],
    ids=str,
)
def test_timm_config_determines_model_fields(changes: dict[str, Any], fields: dict[str, Any], tmp_path: Path):
    file = write(tmp_path, "a.safetensors", timm_tensors(), config=changed(TIMM_CONFIG, **changes))
    contents = read_contents(file, numbers=False)
    assert {name: contents.fields[name] for name in fields} == fields
    assert set(contents.guesses) == ({"num_heads"} if changes.get("architecture") else set())
    assert contents.preprocess["mean"] == changes.get("mean", [0.5, 0.5, 0.5])


def test_classifier_of_the_patches_is_not_used_on_the_class_token(tmp_path: Path):
    for change in ({"global_pool": "avg"}, {"model_args__global_pool": "avg"}):
        config = changed(TIMM_CONFIG, model_args__fc_norm=False, **change)
        file = write(tmp_path, "model.safetensors", timm_tensors(), config=config)
        with pytest.raises(tsf.InputError, match=r"a classifier of the mean of the patches \(global_pool='avg' in .*num_cl"):
            tsf.load(file)
    with pytest.raises(tsf.InputError, match="give the number of classes"):
        tsf.load(file, model=tsf.load(file, num_classes=5).model)
    fresh = tsf.load(file, num_classes=5)
    assert fresh.labels is None
    assert not (np.asarray(fresh.params["head"]["kernel"]) == timm_tensors()["head.weight"].T).any()
    assert "it classifies by the mean of the patches" in fresh.report.ignored["head.weight"]
    assert any("by the mean of the patches" in note for note in fresh.report.notes)
    assert "num_classes" not in read_architecture(file).fields


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "bert", "hidden_size": 768, "layer_norm_eps": 1e-3, "hidden_act": "relu"},
        {"type": "Recognizer3D", "backbone": {"type": "TimeSformer", "num_heads": 5}, "mean": [123.675, 116.28, 103.53]},
    ],
    ids=["bert", "mmaction2"],
)
@pytest.mark.parametrize("tensors", [timm_tensors(), clip_tensors(1, 192)], ids=["timm", "huggingface_clip"])
def test_config_of_another_model_is_ignored(config: dict[str, Any], tensors: dict[str, np.ndarray], tmp_path: Path):
    file = write(tmp_path, "a.safetensors", tensors, config=config)
    contents = read_contents(file, numbers=False)
    assert (contents.fields["num_heads"], contents.fields.get("layer_norm_epsilon", 1e-6) < 1e-4) == (3, True)
    assert [note[:31] for note in contents.notes][-1:] == ["config.json next to the weights"]


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ({"model_args__num_heads": [3, 4]}, "config.json's model_args's num_heads should be a whole number above 0, got"),
        ({"model_args": [1]}, "config.json's model_args should be an object"),
        ({"model_args__act_layer": "relu"}, "config.json's act_layer must be one of gelu"),
        ({"pretrained_cfg__mean": [0.5]}, "config.json's mean should be three numbers, got [0.5]"),
        ({"pretrained_cfg__std": [0.5, "a", 0.5]}, "config.json's std should be three numbers"),
        ({"pretrained_cfg__input_size": 224}, "config.json's input_size should be channels, height and width"),
        ({"global_pool": ["avg"]}, "config.json's global_pool should be text"),
        ({"label_names": "n01"}, "config.json's label_names should be a list of names"),
        ({"num_features": 384}, "embed_dim is 384 by the description, but 192 by the tensors"),
        ({"architecture": "vit_base_patch16_rope_ape_224"}, "which has rotary positions"),
        ({"model_cfg": [1]}, "open_clip_config.json's model_cfg should be an object"),
        ({"model_cfg__quick_gelu": "yes"}, "open_clip_config.json's quick_gelu should be true or false, got 'yes'"),
        ({"model_cfg__vision_cfg__layers": [3, 4, 6, 3]}, "open_clip_config.json describes a ResNet"),
        ({"model_cfg__vision_cfg__width": "wide"}, "open_clip_config.json's vision_cfg's width should be a whole number"),
        ({"preprocess_cfg__mean": None, "preprocess_cfg__std": []}, "open_clip_config.json's std should be three numbers"),
        ({"preprocess_cfg__size": {}}, "open_clip_config.json's size should be a whole number"),
    ],
    ids=str,
)
def test_malformed_configs_are_rejected(entries: dict[str, Any], words: str, tmp_path: Path):
    if any(name.split("__")[0] in OPEN_CLIP_CONFIG for name in entries):
        file = write(tmp_path, "a.safetensors", openai_tensors(), open_clip_config=changed(OPEN_CLIP_CONFIG, **entries))
    else:
        file = write(tmp_path, "a.safetensors", timm_tensors(), config=changed(TIMM_CONFIG, **entries))
    with pytest.raises(tsf.InputError) as caught:
        read_contents(file, numbers=False)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("preprocessor", "expected"),
    [
        ({"size": 40, "image_mean": [0.1] * 3, "image_std": [0.2] * 3}, ((0.1,) * 3, (0.2,) * 3, None)),
        ({"size": {"shortest_edge": 20}, "crop_size": {"height": 16, "width": 16}}, (None, None, 20)),
        ({"size": {"shortest_edge": 20}, "crop_size": 16, "do_center_crop": False}, (None, None, None)),
        ({"size": {"height": 16, "width": 16}, "do_normalize": False}, ((0.0,) * 3, (1.0,) * 3, 16)),
        ({"do_rescale": False, "image_mean": [127.5] * 3, "image_std": [51] * 3}, ((0.5,) * 3, (0.2,) * 3, None)),
        ({"image_mean": 0.5, "image_std": 0.25}, ((0.5,) * 3, (0.25,) * 3, None)),
        ({"do_normalize": False, "rescale_factor": 1 / 127.5, "offset": True}, ((0.5,) * 3, (0.5,) * 3, None)),
    ],
    ids=str,
)
def test_preprocessor_of_an_image_model_is_read(preprocessor: dict[str, Any], expected: tuple[Any, ...], tmp_path: Path):
    """Sizes only count for crops of the model's own size."""
    file = write(tmp_path, "model.safetensors", clip_tensors(1, 192), preprocessor_config=preprocessor)
    chosen = read_architecture(file).preprocess
    usual = tsf.load(file, num_classes=2).preprocess if expected[0] is None else chosen
    mean, std, short_side = expected
    assert (chosen.mean, chosen.std) == (mean or usual.mean, std or usual.std)
    assert chosen.short_side == short_side
