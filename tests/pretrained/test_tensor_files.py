"""Files without weights: a clear error for each."""

import contextlib
import json
import pickle
import shutil
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import timesformer_jax as tsf
from tests.pretrained.files import golden_huggingface, golden_tensors, official_file, write_safetensors
from timesformer_jax.digests import write_digests
from timesformer_jax.pretrained.tensor_files import open_tensors


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "it is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "Git LFS pointer"),
        (b"\n<!DOCTYPE html><html>", "it is a web page"),
        (b"this is no model at all, is it?", "it begins with b'this is no m'"),
        (b"\x89HDF\r\n\x1a\n" + b"0" * 600, "it begins with"),
        (b"PK\x03\x04 and no more", "broken or truncated PyTorch or .npz file"),
    ],
)
def test_foreign_files_are_rejected(content: bytes, words: str, tmp_path: Path):
    (tmp_path / "a.pyth").write_bytes(content)
    with pytest.raises(tsf.InputError) as caught:
        tsf.load(tmp_path / "a.pyth")
    assert words in str(caught.value)
    assert str(tmp_path / "a.pyth") in str(caught.value)


@pytest.mark.parametrize("share", [0.001, 0.3, 0.99])
def test_truncated_safetensors_is_rejected(share: float, tmp_path: Path):
    data = official_file(tmp_path / "a.safetensors").read_bytes()
    (tmp_path / "b.safetensors").write_bytes(data[: int(len(data) * share)])
    with pytest.raises(tsf.InputError, match="broken or truncated safetensors file"):
        tsf.load(tmp_path / "b.safetensors")


@pytest.mark.parametrize("share", [0.001, 0.3, 0.99])
def test_truncated_npz_is_rejected(share: float, tmp_path: Path):
    np.savez(tmp_path / "a.npz", **golden_tensors("inflate_divided_space_time", "vit/"))
    data = (tmp_path / "a.npz").read_bytes()
    (tmp_path / "b.npz").write_bytes(data[: int(len(data) * share)])
    with pytest.raises(tsf.InputError, match=r"broken or truncated"):
        tsf.load(tmp_path / "b.npz")


def test_npz_with_a_damaged_tensor_is_rejected(tmp_path: Path):
    np.savez(tmp_path / "a.npz", **golden_tensors("inflate_divided_space_time", "vit/"))
    data = bytearray((tmp_path / "a.npz").read_bytes())
    data[len(data) // 2] ^= 0xFF
    (tmp_path / "a.npz").write_bytes(data)
    with pytest.raises(tsf.InputError, match=r"broken or truncated .npz file: Bad CRC-32"):
        tsf.load(tmp_path / "a.npz", num_heads=3)


def test_npz_with_objects_is_not_unpickled(tmp_path: Path):
    np.savez(tmp_path / "a.npz", cls=np.array([print], dtype=object))
    with pytest.raises(tsf.InputError):
        tsf.load(tmp_path / "a.npz")


def test_foreign_zips_are_rejected(tmp_path: Path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("holiday.jpg", b"0")
    with pytest.raises(tsf.InputError, match=r"zip archive without weights, of holiday\.jpg"):
        tsf.load(tmp_path / "a.zip")


def test_foreign_tensors_are_rejected(tmp_path: Path):
    path = write_safetensors(tmp_path / "a", {"layer1.conv.weight": np.zeros((2, 2), np.float32)})
    with pytest.raises(tsf.InputError, match=r"in no known format .* Its tensors: layer1\.conv\.weight"):
        tsf.load(path)


def test_foreign_folders_are_rejected(tmp_path: Path):
    with pytest.raises(tsf.InputError, match=r"holds no weights .* but nothing"):
        tsf.load(tmp_path)
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(tsf.InputError, match=r"but notes\.txt"):
        tsf.load(tmp_path)
    with pytest.raises(tsf.InputError, match=r"There is no file or folder .*/missing.pyth"):
        tsf.load(tmp_path / "missing.pyth")


def test_config_that_is_not_json_is_rejected(tmp_path: Path):
    folder = golden_huggingface(tmp_path / "folder")
    (folder / "config.json").write_text("{")
    with pytest.raises(tsf.InputError, match=r"config\.json as JSON"):
        tsf.load(folder)


def test_unknown_activation_is_rejected(tmp_path: Path):
    folder = golden_huggingface(tmp_path / "folder")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "hidden_act": "relu"}))
    with pytest.raises(tsf.InputError, match=r"hidden_act must be one of .* got 'relu'"):
        tsf.load(folder)


def test_sharded_folders_are_read(tmp_path: Path):
    folder = golden_huggingface(tmp_path / "folder")
    whole = tsf.load(folder)
    tensors = list(golden_tensors("huggingface_divided").items())
    (folder / "model.safetensors").unlink()
    shards = {f"model-0000{i}-of-00002.safetensors": dict(tensors[i - 1 :: 2]) for i in (1, 2)}
    for name, shard in shards.items():
        write_safetensors(folder / name, shard)
    index = {"weight_map": {name: file for file, shard in shards.items() for name in shard}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    again = tsf.load(folder)
    assert sorted(again.report.loaded) == sorted(whole.report.loaded)
    np.testing.assert_array_equal(again.params["time_embed"], whole.params["time_embed"])
    next(folder.glob("model-00002*")).unlink()
    with pytest.raises(tsf.InputError, match="model-00002-of-00002"):
        tsf.load(folder)


def test_pickle_without_torch_installed_is_a_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    (tmp_path / "a.pyth").write_bytes(pickle.dumps(0x1950A86A20F9469CFC6C, 2))  # as PyTorch's files before 1.6 begin
    with pytest.raises(tsf.InputError, match=r'needs PyTorch, .* pip install "timesformer_jax\[torch\]"'):
        tsf.load(tmp_path / "a.pyth")


@pytest.mark.parametrize("damage", ["_CHECKPOINT_METADATA", "params/manifest.ocdbt", "params"])
def test_damaged_checkpoints_are_rejected(damage: str, tmp_path: Path):
    """Runs in a separate process, since Orbax leaves unfinished tasks behind that complain when collected."""
    tsf.save(tsf.load(official_file(tmp_path / "a.safetensors"), num_heads=3), tmp_path / "own")
    path = tmp_path / "own" / damage
    if path.is_dir():
        path.rename(tmp_path / "elsewhere")
    else:
        path.write_bytes(b"")
    command = [sys.executable, "-m", "timesformer_jax", "convert", str(tmp_path / "own"), str(tmp_path / "b.safetensors")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    (error,) = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert any(words in error for words in ("is damaged", "it has no params", "it doesn't say which model it is of"))
    assert not (tmp_path / "b.safetensors").exists()


def test_checkpoint_of_a_newer_version_is_rejected(tmp_path: Path):
    tsf.save(tsf.load(official_file(tmp_path / "a.safetensors"), num_heads=3), tmp_path / "own")
    path = tmp_path / "own" / "_CHECKPOINT_METADATA"
    metadata = json.loads(path.read_text())
    metadata["custom_metadata"]["model"]["rotary"] = True
    path.write_text(json.dumps(metadata))
    write_digests(tmp_path / "own")
    with pytest.raises(tsf.InputError, match=r"newer version of timesformer_jax: its field\(s\) rotary"):
        tsf.load(tmp_path / "own")
    # A file older than a field has the field's default.
    del metadata["custom_metadata"]["model"]["rotary"], metadata["custom_metadata"]["model"]["activation"]
    path.write_text(json.dumps(metadata))
    write_digests(tmp_path / "own")
    assert tsf.load(tmp_path / "own").model.activation == "gelu"


@pytest.mark.parametrize("form", ["safetensors", "npz"])
def test_any_damage_is_a_clear_error(form: str, tmp_path: Path):
    """Random bytes are changed: the result is a model of the same shape, or an InputError."""
    tensors = golden_tensors("inflate_divided_space_time", "vit/")
    path = tmp_path / "whole"
    if form == "npz":
        with path.open("wb") as file:
            np.savez(file, **tensors)
    else:
        write_safetensors(path, tensors)
    whole = path.read_bytes()
    draw = np.random.default_rng(0)
    for _ in range(30):
        data = bytearray(whole)
        for place in draw.integers(0, min(len(data), 4000) if draw.random() < 0.7 else len(data), 3):
            data[place] = draw.integers(256)
        (tmp_path / "damaged").write_bytes(data)
        with contextlib.suppress(tsf.InputError):
            tsf.load(tmp_path / "damaged", num_heads=3)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("pos_embed", None, "nothing in the file is its pos_embed"),
        ("pos_embed", np.zeros(24), "pos_embed: expected 3 axes"),
        ("pos_embed", np.zeros((2, 17, 24)), r"pos_embed: expected \(1, 17, 24\), got \(2, 17, 24\)"),
        ("time_embed", np.zeros((0, 4, 24)), "time_embed: expected 3 axes, all non-empty"),
        ("norm.weight", np.zeros(0), "norm.weight: expected 1 axes, all non-empty"),
        ("head.weight", np.zeros(5), "head.weight: expected 2 axes"),
        ("blocks.0.attn.qkv.bias", np.zeros((1, 72)), "qkv.bias: expected 1 axes"),
        ("blocks.0.attn.proj.weight", np.zeros(()), "proj.weight: expected 2 axes"),
        ("patch_embed.proj.weight", np.zeros((24, 3, 4)), "expected 2 or 4 axes"),
        ("blocks.9000.norm1.weight", np.zeros(24), r"has 3 block\(s\), one of which is number 9000"),
        ("blocks.1.norm1.bias", np.zeros(24, np.int32), "is of int32: expected floating-point"),
        ("model.norm.bias", np.zeros(24), r"norm\.bias: the same parameter as"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_tensors_of_odd_shapes_are_rejected(name: str, value: np.ndarray | None, words: str, tmp_path: Path):
    tensors = golden_tensors("official_divided_space_time")
    tensors.pop(name, None)
    if value is not None:
        tensors[name] = value if value.dtype == np.int32 else value.astype(np.float32)
    path = write_safetensors(tmp_path / "a", tensors)
    with pytest.raises(tsf.InputError, match=words):
        tsf.load(path, num_heads=3)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"vision_config": 3}, "vision_config should be an object, got 3"),
        ({"hidden_act": ["gelu"]}, r"hidden_act must be one of|hidden_act should be"),
        ({"hidden_act": {"a": 1}}, "hidden_act should be text"),
        ({"hidden_size": "24"}, "hidden_size should be a whole number above 0, got '24'"),
        ({"num_attention_heads": 0}, "num_attention_heads should be a whole number above 0, got 0"),
        ({"layer_norm_eps": "small"}, "layer_norm_eps should be a number above 0"),
        ({"num_hidden_layers": True}, "num_hidden_layers should be a whole number"),
        ({"id2label": {"0": "a", "5": "b"}}, "id2label should number its 2 names"),
    ],
)
def test_impossible_configs_are_rejected(changes: dict, words: str, tmp_path: Path):
    folder = golden_huggingface(tmp_path / "folder")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))
    if changes.get("hidden_act") == ["gelu"]:  # a list of one, as sizes may be
        assert tsf.load(folder).model.activation == "gelu"
        return
    with pytest.raises(tsf.InputError, match=words):
        tsf.load(folder)


@pytest.mark.parametrize(
    "preprocessor", [{"image_mean": [0.5]}, {"image_mean": ["a", "b", "c"]}, {"timesformer_jax": {"sampling": 3}}]
)
def test_impossible_preprocessors_are_rejected(preprocessor: dict, tmp_path: Path):
    folder = golden_huggingface(tmp_path / "folder")
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    with pytest.raises(tsf.InputError, match=r"how videos are prepared can't be used|sampling|mean"):
        tsf.load(folder)


@pytest.mark.parametrize("places", [None, ["a"], {"x": 3}, {"x": "../model.safetensors"}, {"x": "/etc/passwd"}])
def test_impossible_indices_are_rejected(places, tmp_path: Path):
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    with pytest.raises(tsf.InputError, match="should have a weight_map from tensors to files in its folder"):
        tsf.load(tmp_path)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("https://example.org/a.pyth", "Download https://example.org/a.pyth"),
        ("x" * 300, "can't be a path"),
        ("~nobody-of-this-name/a.pyth", "There is no file|can't be a path"),
        ("", "no published model of this name"),
    ],
)
def test_impossible_sources_are_rejected(source: str, words: str):
    with pytest.raises(tsf.InputError, match=words):
        tsf.load(source)


def test_impossible_arguments_are_rejected(tmp_path: Path):
    path = official_file(tmp_path / "a.safetensors")
    with pytest.raises(tsf.InputError, match=r"There is no weight format 'keras'; format must be one of official"):
        tsf.load(path, format="keras")
    with pytest.raises(tsf.InputError, match=r"num_heads must be a whole number of at least 1, got '3'"):
        tsf.load(path, num_heads="3")
    with pytest.raises(tsf.InputError, match=r"'\(' isn't one"):
        tsf.load(path, num_heads=3, allow=["("])
    with pytest.raises(tsf.InputError, match="resize must be one of nearest, linear, bicubic, official"):
        tsf.load(path, num_heads=3, resize="cubic")


def test_foreign_config_next_to_a_file_is_ignored(tmp_path: Path):
    (tmp_path / "config.json").write_text("{")
    assert tsf.load(official_file(tmp_path / "a.safetensors"), num_heads=3).model.depth == 2


def test_bfloat16_archives_are_read(tmp_path: Path):
    import jax.numpy as jnp

    tensors = golden_tensors("inflate_divided_space_time", "vit/")
    halved = {name: np.asarray(jnp.asarray(tensor, jnp.bfloat16)) for name, tensor in tensors.items()}
    np.savez(tmp_path / "a.npz", **halved)
    scale = tsf.load(tmp_path / "a.npz", num_heads=3).params["norm"]["scale"]
    np.testing.assert_array_equal(scale, halved["norm.weight"].astype(np.float32))


def test_archives_are_read_by_many_threads_at_once(tmp_path: Path):
    """NumPy's header parser isn't thread-safe; with a thread switch after every step it failed now and then."""
    np.savez(tmp_path / "a.npz", **golden_tensors("inflate_divided_space_time", "vit/"))
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(30):  # only reading, which used to fail
            tensors = open_tensors(tmp_path / "a.npz")
            with ThreadPoolExecutor(8) as pool:
                list(pool.map(tensors.take, tensors.shapes))
    finally:
        sys.setswitchinterval(interval)


def test_variants_of_folders_are_read(tmp_path: Path):
    """Folders that transformers writes with variant="fp16"; full precision is preferred if both exist."""
    folder = golden_huggingface(tmp_path / "folder")
    whole = golden_tensors("huggingface_divided")
    half = {name: tensor.astype(np.float16) for name, tensor in whole.items()}
    scale = "timesformer.layernorm.weight"
    write_safetensors(folder / "model.fp16.safetensors", half)
    np.testing.assert_array_equal(tsf.load(folder).params["norm"]["scale"], whole[scale])
    (folder / "model.safetensors").unlink()
    np.testing.assert_array_equal(tsf.load(folder).params["norm"]["scale"], half[scale].astype(np.float32))
    shutil.copy(folder / "model.fp16.safetensors", folder / "model.bf16.safetensors")
    with pytest.raises(tsf.InputError, match=r"only holds the variants bf16, fp16 of its weights: give the path"):
        tsf.load(folder)
    tsf.load(folder / "model.fp16.safetensors")
    (folder / "model.bf16.safetensors").unlink()
    (folder / "model.fp16.safetensors").rename(folder / "model.fp16-00001-of-00001.safetensors")
    index = {"weight_map": dict.fromkeys(half, "model.fp16-00001-of-00001.safetensors")}
    (folder / "model.safetensors.index.fp16.json").write_text(json.dumps(index))
    tsf.load(folder)
