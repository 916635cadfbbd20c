"""Folders of videos: splits, stray and broken files, and folders that can't be trained on."""

import shutil
from pathlib import Path

import pytest

from input_pipeline import open_dataset
from input_pipeline.video_folder import VideoFolderConfig, scan_folder
from timesformer_jax.errors import InputError


def touch(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return root


def relative(files: dict, root: Path) -> dict[str, list[str]]:
    return {split: [path.relative_to(root).as_posix() for path, _ in pairs] for split, pairs in files.items()}


def test_given_splits_are_kept(tmp_path: Path):
    names = ("train/a/1.mp4", "train/a/2.mp4", "train/b/1.avi", "val/a/3.webm")
    files = scan_folder(touch(tmp_path, *names), 0.2)
    assert relative(files, tmp_path) == {"train": sorted(names[:3]), "val": ["val/a/3.webm"]}
    assert [label for _, label in files["train"]] == ["a", "a", "b"]


def test_stray_files_are_none_of_ours(tmp_path: Path):
    strays = ("README.md", "loose.mp4", "a/notes.txt", "a/.hidden.mp4", ".git/a.mp4", "a/cover.jpg", "c/only.txt")
    touch(tmp_path, *strays, "a/1.mp4", "a/2.MP4", "a/deeper/3.mov", "b/1.mp4", "b/2.mp4")
    files = relative(scan_folder(tmp_path, 0.2), tmp_path)
    assert sorted(files["train"] + files["val"]) == ["a/1.mp4", "a/2.MP4", "a/deeper/3.mov", "b/1.mp4", "b/2.mp4"]


def test_the_split_follows_from_the_file_names(tmp_path: Path):
    names = [f"{label}/{i:03d}.mp4" for label in "ab" for i in range(20)]
    here = relative(scan_folder(touch(tmp_path / "here", *names), 0.25), tmp_path / "here")
    there = relative(scan_folder(touch(tmp_path / "elsewhere", *reversed(names)), 0.25), tmp_path / "elsewhere")
    assert here == there
    for label in "ab":
        assert sum(name.startswith(label) for name in here["val"]) == 5
    touch(tmp_path / "here", "a/new.mp4")
    after = relative(scan_folder(tmp_path / "here", 0.25), tmp_path / "here")
    assert len(set(here["val"]) - set(after["val"])) <= 1  # a new file moves at most one other


def test_a_label_may_be_called_train(tmp_path: Path):
    names = [f"{label}/{i}.mp4" for label in ("bus", "train") for i in range(2)]
    files = scan_folder(touch(tmp_path, *names), 0.5)
    assert {label for _, label in files["train"]} == {"bus", "train"}


def test_linked_folders_are_read_and_loops_end(tmp_path: Path):
    touch(tmp_path / "elsewhere", "1.mp4", "2.mp4")
    root = touch(tmp_path / "root", "a/1.mp4", "a/2.mp4")
    (root / "b").symlink_to(tmp_path / "elsewhere")
    (root / "a" / "back").symlink_to(root)
    files = scan_folder(root, 0.5)
    assert {label for _, label in files["train"]} == {"a", "b"}


def test_two_files_of_a_label_give_one_each(tmp_path: Path):
    files = scan_folder(touch(tmp_path, "a/1.mp4", "a/2.mp4", "b/1.mp4", "b/2.mp4"), 0.01)
    assert [label for _, label in files["val"]] == ["a", "b"]


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (None, "There is no folder .*missing.*--config.data.root=FOLDER"),
        ((), "No video file for the split 'train'"),
        (("train/a/1.mp4", "train/b/1.mp4"), "No video file for the split 'val'"),
        (("val/a/1.mp4", "val/b/1.mp4"), "No video file for the split 'train'"),
        (("a/1.mp4", "b/1.mp4"), "No video file for the split 'val'.* two files or more in each label"),
        (("a/1.mp4", "a/2.mp4"), "Only one label .*'a'"),
        (("training/a/1.mp4", "validation/a/1.mp4"), "holds training, validation: call the folders .* 'train' and 'val'"),
        (("train/a/1.mp4", "train/b/1.mp4", "val/c/1.mp4"), "val has labels that .*train lacks: c"),
    ],
)
def test_folders_that_cannot_be_trained_on(tmp_path: Path, names: tuple[str, ...] | None, words: str):
    root = tmp_path / "missing" if names is None else touch(tmp_path, *names)
    with pytest.raises(InputError, match=words):
        scan_folder(root, 0.2)


def test_a_changed_folder_is_another_data_set(tmp_path: Path):
    root = touch(tmp_path / "my clips", "a/1.mp4", "a/2.mp4", "b/1.mp4", "b/2.mp4")
    first = VideoFolderConfig(root=str(root)).name
    assert first.startswith("my_clips_")
    assert VideoFolderConfig(root=str(root)).name == first
    assert VideoFolderConfig(root=str(root), max_short_side=100).name != first
    (root / "a/1.mp4").write_bytes(b"other")
    assert VideoFolderConfig(root=str(root)).name != first


def test_broken_files_are_left_out_by_name(tmp_path: Path, made_clips: Path, broken_clips: Path):
    shutil.copytree(made_clips, tmp_path / "clips")
    shutil.copytree(broken_clips, tmp_path / "clips" / "across", dirs_exist_ok=True)
    options = {"val_fraction": 0.3, "max_short_side": 32, "data_dir": str(tmp_path / "data")}
    data = open_dataset(name="video_folder", root=str(tmp_path / "clips"), **options)
    unreadable = {
        f"across/{name}.mp4" for name in ("empty", "text", "truncated", "audio_only") if (broken_clips / f"{name}.mp4").exists()
    }
    assert set(data.left_out) == unreadable
    assert data.left_out["across/empty.mp4"] == "the file is empty"
    assert set(data.damaged) <= {"across/garbled_middle.mp4"}
    number = sum(1 for _ in (tmp_path / "clips").rglob("*.mp4"))
    assert data.num_videos("train") + data.num_videos("val") == number - len(unreadable)
    for example in data.builder.as_dataset(split="train+val").as_numpy_iterator():
        assert min(example["video"].shape[1:3]) <= 32
        assert example["name"].decode() not in unreadable
    # A second run takes what is there, and still knows what was left out.
    again = open_dataset(name="video_folder", root=str(tmp_path / "clips"), **options)
    assert again.left_out == data.left_out


def test_too_few_readable_files_is_an_error_and_leaves_no_data_set(tmp_path: Path, made_clips: Path):
    shutil.copytree(made_clips, tmp_path / "clips")
    for label in ("down", "back"):
        for path in (tmp_path / "clips" / label).iterdir():
            path.write_text("broken")
    with pytest.raises(InputError, match=r"labels with a readable video are across\..*Invalid data"):
        open_dataset(
            name="video_folder", root=str(tmp_path / "clips"), val_fraction=0.3, max_short_side=32, data_dir=str(tmp_path / "d")
        )
    assert not list((tmp_path / "d").rglob("dataset_info.json"))
