"""Folders of videos: splits, stray files, and folders that can't be trained on."""

import os
import shutil
import sys
from pathlib import Path

import pytest

from tests.datasets.trees import grow, labels, paths
from timesformer_jax.datasets import Listing
from timesformer_jax.datasets.layouts import read_video_folder
from timesformer_jax.errors import InputError


def names(listing: Listing) -> dict[str, list[str]]:
    return {split: [entry.name for entry in entries] for split, entries in listing.splits.items()}


def test_given_splits_are_kept(tmp_path: Path):
    files = ("train/a/1.mp4", "train/a/2.mp4", "train/b/1.avi", "val/a/3.webm")
    listing = read_video_folder(grow(tmp_path, *files))
    assert labels(listing) == {"train": dict(zip(files[:3], "aab", strict=True)), "val": {"val/a/3.webm": "a"}}
    assert paths(listing, tmp_path) == {name: name for name in files}
    assert listing.label_names == ("a", "b")


def test_stray_files_are_ignored(tmp_path: Path):
    strays = ("README.md", "loose.mp4", "a/notes.txt", "a/.hidden.mp4", ".git/a.mp4", "a/cover.jpg", "c/only.txt")
    grow(tmp_path, *strays, "a/1.mp4", "a/2.MP4", "a/deeper/3.mov", "b/1.mp4", "b/2.mp4")
    found = names(read_video_folder(tmp_path))
    assert sorted(found["train"] + found["val"]) == ["a/1.mp4", "a/2.MP4", "a/deeper/3.mov", "b/1.mp4", "b/2.mp4"]


def test_split_is_determined_by_the_file_names(tmp_path: Path):
    files = [f"{label}/{i:03d}.mp4" for label in "ab" for i in range(20)]
    here = names(read_video_folder(grow(tmp_path / "here", *files), val_fraction=0.25))
    there = names(read_video_folder(grow(tmp_path / "elsewhere", *reversed(files)), val_fraction=0.25))
    assert here == there
    for label in "ab":
        assert sum(name.startswith(label) for name in here["val"]) == 5
    grow(tmp_path / "here", "a/new.mp4")
    after = names(read_video_folder(tmp_path / "here", val_fraction=0.25))
    assert len(set(here["val"]) - set(after["val"])) <= 1  # a new file moves at most one other


def test_split_equals_that_of_earlier_versions(tmp_path: Path):
    files = [f"{label}/{i}.mp4" for label in "ab" for i in range(6)]
    found = names(read_video_folder(grow(tmp_path, *files), val_fraction=0.3))
    assert found["val"] == ["a/0.mp4", "a/4.mp4", "b/0.mp4", "b/4.mp4"]


def test_label_may_be_called_train(tmp_path: Path):
    files = [f"{label}/{i}.mp4" for label in ("bus", "train") for i in range(2)]
    assert read_video_folder(grow(tmp_path, *files), val_fraction=0.5).label_names == ("bus", "train")


def test_linked_folders_are_read_without_looping(tmp_path: Path):
    grow(tmp_path / "elsewhere", "1.mp4", "2.mp4")
    root = grow(tmp_path / "root", "a/1.mp4", "a/2.mp4")
    (root / "b").symlink_to(tmp_path / "elsewhere")
    (root / "a" / "back").symlink_to(root)
    assert read_video_folder(root, val_fraction=0.5).label_names == ("a", "b")


def test_two_files_of_a_label_are_split_one_each(tmp_path: Path):
    listing = read_video_folder(grow(tmp_path, "a/1.mp4", "a/2.mp4", "b/1.mp4", "b/2.mp4"), val_fraction=0.01)
    assert [entry.labels for entry in listing.splits["val"]] == [("a",), ("b",)]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere names of files must be text")
def test_names_that_are_not_utf8_are_escaped(tmp_path: Path):
    grow(tmp_path, "train/b/1.mp4", "val/b/2.mp4")
    for folder in (b"train", b"val"):
        odd = os.path.join(os.fsencode(tmp_path), folder, b"caf\xe9")
        os.mkdir(odd)
        Path(os.fsdecode(os.path.join(odd, b"\xff.mp4"))).write_bytes(b"x")
    listing = read_video_folder(tmp_path)
    assert labels(listing)["train"] == {"train/b/1.mp4": "b", r"train/caf\xe9/\xff.mp4": r"caf\xe9"}
    assert all(entry.path.is_file() for entry in listing.splits["train"])


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (None, r"There is no folder .*missing.*data.root in a config"),
        ((), r"No video file for the split 'train'"),
        (("train/a/1.mp4", "train/b/1.mp4"), r"No video file for the split 'val'"),
        (("val/a/1.mp4", "val/b/1.mp4"), r"No video file for the split 'train'"),
        (("a/1.mp4", "b/1.mp4"), r"No video file for the split 'val'.* two files or more in each label"),
        (("a/1.mp4", "a/2.mp4"), r"Only one label .*'a'"),
        (("training/a/1.mp4", "validation/a/1.mp4"), r"holds training, validation: call the folders .* 'train' and 'val'"),
        (
            ("train/a/1.mp4", "train/b/1.mp4", "val/c/1.mp4"),
            r"val has .* that .*train lacks: c. Add videos or remove them.$",
        ),
        (
            ("train/caf\u00e9/1.mp4", "train/b/1.mp4", "val/cafe\u0301/1.mp4"),
            r"train lacks: .* 'cafe\\u0301' differs from 'café' of train only in case, spaces or Unicode form: rename one.$",
        ),
        (
            ("train/a/1.mp4", "train/b/1.mp4", "val/A/1.mp4", "val/c/1.mp4"),
            r"train lacks: A, c. 'A' differs from 'a' of train only in .*: rename one. Add videos or remove them.$",
        ),
    ],
)
def test_unusable_folders_are_rejected(tmp_path: Path, files: tuple[str, ...] | None, words: str):
    root = tmp_path / "missing" if files is None else grow(tmp_path, *files)
    with pytest.raises(InputError, match=words):
        read_video_folder(root)


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1])
def test_impossible_validation_shares_are_rejected(tmp_path: Path, fraction: float):
    with pytest.raises(InputError, match=r"val_fraction must be above 0 and below 1"):
        read_video_folder(grow(tmp_path, "train/a/1.mp4", "train/b/1.mp4", "val/a/1.mp4"), val_fraction=fraction)


def test_files_next_to_given_splits_are_counted(tmp_path: Path):
    grow(tmp_path, "train/a/1.mp4", "train/b/1.mp4", "val/a/2.mp4", "train/loose.mp4", "val/.hidden.mp4", "README.md")
    grow(tmp_path, "Test/a/3.mp4", "c/4.mp4", "loose.mp4")
    (tmp_path / "val" / "a" / "gone.mp4").symlink_to("nowhere.mp4")
    listing = read_video_folder(tmp_path)
    assert names(listing) == {"train": ["train/a/1.mp4", "train/b/1.mp4"], "val": ["val/a/2.mp4"]}
    assert listing.notes == (
        "Skipped videos outside any label's folder: 1 (train/loose.mp4).",
        "Skipped hidden files or folders: 1 (val/.hidden.mp4).",
        "Skipped links that lead nowhere: 1 (val/a/gone.mp4).",
        "Skipped files that aren't videos: 1 (README.md).",
        "Skipped videos outside the folders 'train' and 'val': 3 (Test/a/3.mp4, c/4.mp4, loose.mp4).",
    )


def test_label_folders_without_a_video_are_named(tmp_path: Path):
    grow(tmp_path, *(f"{label}/{i}.mp4" for label in "ab" for i in range(2)), "swim/links.txt", "dance/frames/1.jpg", ".git/1")
    for empty in ("jump/deeper", "test"):
        (tmp_path / empty).mkdir(parents=True)
    (tmp_path / "loop").symlink_to("loop")
    assert "Folders of labels without a video: dance, jump, swim." in read_video_folder(tmp_path).notes


def test_label_folders_without_a_video_are_named_in_given_splits(tmp_path: Path):
    grow(tmp_path, "train/a/1.mp4", "train/b/1.mp4", "val/a/1.mp4", "val/b/1.txt", "elsewhere/1.txt")
    (tmp_path / "train" / "jump\n").mkdir()
    assert read_video_folder(tmp_path).notes[-1] == r"Folders of labels without a video: train/jump\n, val/b."


def test_labels_that_are_alike_are_noted_visibly(tmp_path: Path):
    alike = ("Run", "run", "caf\u00e9", "cafe\u0301", "walk", "walk ", "sit", "sit\u200d", "stand")
    listing = read_video_folder(grow(tmp_path, *(f"{label}/{i}.mp4" for label in alike for i in range(2))))
    assert listing.notes == (
        "Labels that differ only in case, spaces or Unicode form: 4 "
        r"('Run' = 'run', 'cafe\u0301' = 'café', 'sit' = 'sit\u200d', ...).",
    )


def test_videos_of_unknown_suffixes_are_named(tmp_path: Path, made_clips: Path):
    grow(tmp_path, *(f"{label}/{i}.mp4" for label in "ab" for i in range(2)))
    for name in ("a/2.dat", "b/3"):
        shutil.copy(made_clips / "down" / "0.mp4", tmp_path / name)
    assert read_video_folder(tmp_path).notes == ("Read as videos despite an unknown suffix: 2 (a/2.dat, b/3).",)


@pytest.mark.parametrize("split", ["test", "Test", "validation"])
def test_extra_split_next_to_labels_is_not_a_label(tmp_path: Path, split: str):
    grow(tmp_path, *(f"{label}/{i}.mp4" for label in "ab" for i in range(2)), f"{split}/a/1.mp4", f"{split}/2.mp4", "3.mp4")
    listing = read_video_folder(tmp_path, val_fraction=0.5)
    assert listing.label_names == ("a", "b")
    assert [note.partition(": ")[2] for note in listing.notes] == ["1 (3.mp4).", f"2 ({split}/2.mp4, {split}/a/1.mp4)."]
    (tmp_path / split / "a" / "1.mp4").unlink()  # what is left may be a label
    listing = read_video_folder(tmp_path, val_fraction=0.5)
    assert listing.label_names == tuple(sorted(["a", "b", split]))
    assert f"Folders called like a split are read as labels: {split}." in listing.notes


def test_any_folder_name_is_a_label(tmp_path: Path):
    odd = ["run", "run ", " ", "...", "\n", "a\x1b[31m", "قفز", "😀", "$x$", "<b>", r"caf\xe9"]
    grow(tmp_path, *(f"{label}/{i}.mp4" for label in odd for i in range(2)))
    assert read_video_folder(tmp_path, val_fraction=0.5).label_names == tuple(sorted(odd))


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere names of files must be text")
def test_distinct_labels_stay_distinct(tmp_path: Path):
    grow(tmp_path, *(os.fsdecode(label) + f"/{i}.mp4" for label in (b"a", b"caf\xe9", rb"caf\xe9") for i in range(2)))
    with pytest.raises(InputError, match=r"Two folders of .* give the same label .*caf.*rename one"):
        read_video_folder(tmp_path)
