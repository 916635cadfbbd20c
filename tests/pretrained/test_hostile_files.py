"""Malicious files: a clear error for each, before anything is opened or allocated."""

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import timesformer_jax as tsf
from tests.pretrained.files import golden_huggingface, golden_tensors, official_file, write_safetensors
from timesformer_jax.digests import write_digests
from timesformer_jax.pretrained.file_notes import entries_of_yaml


def refused(path: Path, **options: Any) -> str:
    with pytest.raises(tsf.InputError) as caught:
        tsf.load(path, **options)
    text = str(caught.value)
    assert text.isprintable()
    assert len(text) < 1000
    return text


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("own")
    tsf.save(tsf.load(official_file(folder / "a.safetensors"), num_heads=3), folder / "checkpoint")
    return folder / "checkpoint"


@pytest.mark.parametrize("special", ["a named pipe", "a device", "a folder"])
@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json", "model.safetensors"])
def test_special_files_are_never_opened(special: str, name: str, tmp_path: Path):
    folder = golden_huggingface(tmp_path / "folder")
    (folder / name).unlink(missing_ok=True)
    if special == "a named pipe":
        os.mkfifo(folder / name)
    elif special == "a device":
        (folder / name).symlink_to("/dev/zero")
    else:
        (folder / name).mkdir()
    assert f"{name} is {special}, where a file is expected" in refused(folder)


def test_named_pipes_are_rejected(own: Path, tmp_path: Path):
    os.mkfifo(tmp_path / "a.pyth")
    assert "a.pyth is a named pipe" in refused(tmp_path / "a.pyth")
    shutil.copytree(own, tmp_path / "own")
    (tmp_path / "own" / "params" / "manifest.ocdbt").unlink()
    os.mkfifo(tmp_path / "own" / "params" / "manifest.ocdbt")
    assert "manifest.ocdbt is a named pipe" in refused(tmp_path / "own")


@pytest.mark.parametrize(("text", "words"), [("[" * 100_000, "nested too deeply"), ("{" + " " * (9 << 20), "too many")])
def test_malicious_json_is_rejected(text: str, words: str, tmp_path: Path):
    folder = golden_huggingface(tmp_path / "folder")
    (folder / "config.json").write_text(text)
    assert words in refused(folder)


def test_deeply_nested_metadata_is_rejected(tmp_path: Path):
    from safetensors.numpy import save_file

    save_file(golden_tensors("official_divided_space_time"), tmp_path / "a", {"timesformer_jax": "[" * 100_000})
    assert "nested too deeply" in refused(tmp_path / "a", num_heads=3)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"depth": 10**9}, "says depth=1000000000, expected a whole number from 1 to 10,000"),
        ({"depth": "2"}, "says depth='2', expected a whole number"),
        ({"embed_dim": 300_000, "depth": 1000}, "claims to hold .* numbers, too many for its .* bytes"),
        ({"num_frames": 10**5}, "says num_frames=100000, expected a whole number from 1 to 4,096"),
        ({"num_classes": 10**6, "embed_dim": 30_000}, "claims to hold"),
        ({"activation": ["gelu"]}, r"says activation=\['gelu'\], expected text"),
        ({"layer_norm_epsilon": "small"}, "expected a number from 0 to 1"),
        ({"pre_norm": 3}, "expected true or false"),
        (7, "says model=7, expected an object"),
    ],
    ids=str,
)
def test_checkpoints_that_claim_other_models_are_rejected(changes: Any, words: str, own: Path, tmp_path: Path):
    shutil.copytree(own, tmp_path / "own")
    path = tmp_path / "own" / "_CHECKPOINT_METADATA"
    metadata = json.loads(path.read_text())
    notes = metadata["custom_metadata"]
    notes["model"] = {**notes["model"], **changes} if isinstance(changes, dict) else changes
    path.write_text(json.dumps(metadata))
    write_digests(tmp_path / "own")  # as an attacker would
    with pytest.raises(tsf.InputError, match=words):
        tsf.load(tmp_path / "own")


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("preprocess", 3, "says preprocess=3, expected an object"),
        ("preprocess", {"sampling": ["uniform"]}, r"says sampling=\['uniform'\], expected text"),
        ("preprocess", {"short_side": 10**9}, "says short_side=1000000000"),
        ("data", ["a"], r"says data=\['a'\], expected an object"),
        ("objective", ["softmax"], r"says objective=\['softmax'\], expected text"),
    ],
)
def test_checkpoint_metadata_of_wrong_types_is_rejected(name: str, value: Any, words: str, own: Path, tmp_path: Path):
    shutil.copytree(own, tmp_path / "own")
    path = tmp_path / "own" / "_CHECKPOINT_METADATA"
    metadata = json.loads(path.read_text())
    metadata["custom_metadata"][name] = value
    path.write_text(json.dumps(metadata))
    write_digests(tmp_path / "own")  # as an attacker would
    with pytest.raises(tsf.InputError, match=words):
        tsf.load(tmp_path / "own")


def test_headers_that_exceed_the_file_are_rejected(tmp_path: Path):
    data = official_file(tmp_path / "a").read_bytes()
    (tmp_path / "a").write_bytes((1 << 29).to_bytes(8, "little") + data[8:])
    assert "a header of 536,870,912 bytes" in refused(tmp_path / "a")
    np.savez_compressed(tmp_path / "bomb.npz", cls_token=np.zeros((1 << 23,), np.float32))
    assert "claims to unpack" in refused(tmp_path / "bomb.npz")


@pytest.mark.parametrize("name", ["x" * 5000, "head\x1b[31m", "a\nb"])
def test_implausible_tensor_names_are_rejected(name: str, tmp_path: Path):
    tensors = golden_tensors("official_divided_space_time") | {name: np.zeros(3, np.float32)}
    assert "with an invalid name of" in refused(write_safetensors(tmp_path / "a", tensors))


def test_config_values_are_shortened_in_errors(tmp_path: Path):
    folder = golden_huggingface(tmp_path / "folder")
    config = json.loads((folder / "config.json").read_text())
    for value in ("x" * 5000, ["\x1b[31m"] * 5000, 10**400, float("inf")):
        (folder / "config.json").write_text(json.dumps({**config, "hidden_size": value}))
        assert "hidden_size should be a whole number above 0" in refused(folder)


def test_official_yaml_is_read():
    text = "TRAIN:\n  NUM_CLASSES: 5\nDATA:\n  NUM_FRAMES: 8\n  MEAN:\n  - 0.45\n  - 0.5\n  STD: [0.2, 0.3]\n  NUM_FRAMES: 9\n"
    entries = entries_of_yaml(text)
    assert entries == {"NUM_CLASSES": "5", "NUM_FRAMES": "8", "MEAN": "0.45 0.5", "STD": "[0.2, 0.3]"}


@pytest.mark.parametrize("unit", ["\n", "  \n", " ", "  MEAN:\n", "\n  -", ":"])
def test_official_yaml_is_parsed_in_linear_time(unit: str):
    began = time.process_time()
    entries_of_yaml("  MEAN:" + unit * 300_000 + "x")
    assert time.process_time() - began < 10  # in quadratic time, minutes
