"""Atomic writes: files appear completely or not at all."""

import os
from pathlib import Path

import pytest
from etils import epath

from timesformer_jax.atomic_write import apply_umask, replacing, replacing_folder, write_whole


@pytest.mark.parametrize("make", [Path, epath.Path])
def test_replacing_keeps_the_old_file_if_the_block_fails(tmp_path: Path, make: type):
    path = make(tmp_path / "file.txt")
    write_whole(path, "old ü")
    with pytest.raises(TypeError), replacing(path) as part:
        part.write_text("half") + "of it"
    assert path.read_bytes() == "old ü".encode()
    assert [each.name for each in tmp_path.iterdir()] == ["file.txt"]
    with replacing(path) as part:
        part.write_text("new")
    assert path.read_text() == "new"


@pytest.mark.parametrize("old", [None, "file", "folder"])
def test_replacing_folder_is_all_or_nothing(tmp_path: Path, old: str | None):
    path = tmp_path / "result"
    if old == "folder":
        path.mkdir()
    if old is not None:
        (path / "a" if old == "folder" else path).write_text("old")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(TypeError), replacing_folder(path) as new:
        new.write_text("half") + "of it"
    assert sorted(tmp_path.rglob("*")) == before
    with replacing_folder(path) as new:
        new.mkdir()
        (new / "b").write_text("new")
    assert sorted(tmp_path.rglob("*")) == [path, path / "b"]


def test_apply_umask_reaches_files_in_folders(tmp_path: Path):
    inner = tmp_path / "folder" / "inner"
    inner.mkdir(parents=True)
    inner.chmod(0o700)
    (inner / "file").touch(mode=0o600)
    before = os.umask(0o002)
    try:
        apply_umask(tmp_path / "folder")
    finally:
        os.umask(before)
    assert [path.stat().st_mode & 0o777 for path in (inner, inner / "file")] == [0o775, 0o664]
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
