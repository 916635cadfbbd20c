"""Search for the files of a data set's folder."""

import os
from pathlib import Path

from tests.datasets.trees import grow
from timesformer_jax.datasets.layouts.files import index_files
from timesformer_jax.video import find_videos


def test_index_matches_find_videos(tmp_path: Path):
    grow(tmp_path, "a/-1.mp4", "b/-1.WEBM", "b/_2.5.avi", ".hidden/3.mp4", "b/.4.mp4", "b/5.txt", "6.mp4/7.mp4", "8.mp4.part")
    os.symlink(tmp_path / "nowhere", tmp_path / "9.mp4")
    index = index_files(tmp_path)
    assert index.keys() == {"-1", "_2.5", "7"}
    assert [path.parent.name for path in index["-1"]] == ["a", "b"]
    assert sorted(path for paths in index.values() for path in paths) == find_videos(tmp_path)


def test_links_are_followed_without_looping(tmp_path: Path):
    grow(tmp_path, "elsewhere/1.mp4", "root/a/2.mp4")
    (tmp_path / "root" / "b").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "root" / "a" / "back").symlink_to(tmp_path / "root")
    index = index_files(tmp_path / "root")
    assert index == {"1": [tmp_path / "root/b/1.mp4"], "2": [tmp_path / "root/a/2.mp4"]}


def test_folders_of_images_are_found_only_on_request(tmp_path: Path):
    grow(tmp_path, "x/1/b.PNG", "x/1/inside/2.mp4", "x/2/c.jpg", "x/3/.hidden.jpg", "y/1.mp4")
    assert index_files(tmp_path, {"1", "3"}) == {"1": [tmp_path / "y/1.mp4", tmp_path / "x/1"]}
