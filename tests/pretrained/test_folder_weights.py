"""Weight files of folders: what isn't a weight file is a clear error that names the file."""

import json
from pathlib import Path

import pytest

import timesformer_jax as tsf
from tests.pretrained.files import golden_huggingface

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 4\n"


@pytest.mark.parametrize(
    ("content", "words"), [(POINTER, "Git LFS pointer"), (b"<!DOCTYPE html><html>", "web page"), (b"", "it is empty")]
)
@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_foreign_files_of_a_folder_are_rejected(name: str, content: bytes, words: str, tmp_path: Path):
    folder = golden_huggingface(tmp_path / "folder")
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(content)
    with pytest.raises(tsf.InputError, match=rf"folder/{name} holds no weights: .*{words}"):
        tsf.load(folder)


def test_foreign_shard_is_rejected(tmp_path: Path):
    folder = golden_huggingface(tmp_path / "folder")
    shards = [folder / f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    (folder / "model.safetensors").rename(shards[0])
    shards[1].write_bytes(POINTER)
    places = {"a": shards[0].name, "b": shards[1].name}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    with pytest.raises(tsf.InputError, match=r"model-00002-of-00002\.safetensors holds no weights: it is a Git LFS pointer"):
        tsf.load(folder)
