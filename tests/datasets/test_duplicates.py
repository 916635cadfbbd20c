"""Duplicate files in a data set."""

from pathlib import Path

import pytest

from tests.datasets.trees import grow, write
from timesformer_jax.datasets import Entry, describe_duplicates, duplicates
from timesformer_jax.datasets.layouts import read_video_folder, read_video_list


def lists(root: Path, train: str, val: str, header: str = "path,label") -> list[str]:
    write(root, {"train.csv": f"{header}\n{train}", "val.csv": f"{header}\n{val}"})
    return describe_duplicates(read_video_list(root / "train.csv", root / "val.csv"))


def test_path_in_both_splits_is_a_duplicate(tmp_path: Path):
    grow(tmp_path, "0.mp4", "1.mp4", "3.mp4")
    assert lists(tmp_path, "0.mp4,run\n1.mp4,walk\n", "0.mp4,run\n3.mp4,walk\n") == [
        "Videos in more than one split, so that evaluation sees what training has seen: 1 (0.mp4 in train and val)."
    ]
    assert lists(tmp_path, "0.mp4,run\n1.mp4,walk\n", "3.mp4,walk\n") == []


def test_links_to_one_file_are_duplicates(tmp_path: Path):
    root = grow(tmp_path / "root", "train/run/0.mp4", "train/walk/1.mp4", "val/run/2.mp4")
    (root / "val" / "run" / "linked.mp4").symlink_to(root / "train" / "run" / "0.mp4")
    (root / "train" / "walk" / "3.mp4").symlink_to("../run/0.mp4")
    (root / "train" / "walk" / "4.mp4").symlink_to("1.mp4")
    (tmp_path / "elsewhere").symlink_to(root)
    assert describe_duplicates(read_video_folder(tmp_path / "elsewhere")) == [
        "Videos in more than one split, so that evaluation sees what training has seen: 1 "
        "(train/run/0.mp4 = val/run/linked.mp4 in train and val).",
        "Videos listed with different labels: 1 (train/run/0.mp4 = train/walk/3.mp4 as run and as walk).",
        "Videos listed more than once in a split: 1 (train/walk/1.mp4 = train/walk/4.mp4 in train).",
    ]


def test_hard_links_to_one_file_are_duplicates(tmp_path: Path):
    root = grow(tmp_path, "train/run/0.mp4", "train/walk/1.mp4", "val/run/2.mp4", "val/walk/3.mp4")
    (root / "val" / "run" / "linked.mp4").hardlink_to(root / "train" / "run" / "0.mp4")
    (root / "train" / "walk" / "4.mp4").hardlink_to(root / "train" / "run" / "0.mp4")
    (root / "elsewhere.mp4").hardlink_to(root / "train" / "walk" / "1.mp4")
    (root / "val" / "walk" / "5.mp4").symlink_to("../../elsewhere.mp4")
    (root / "unused.mp4").hardlink_to(root / "val" / "walk" / "3.mp4")
    assert describe_duplicates(read_video_folder(root)) == [
        "Videos in more than one split, so that evaluation sees what training has seen: 2 "
        "(train/run/0.mp4 = val/run/linked.mp4 in train and val, train/walk/1.mp4 = val/walk/5.mp4 in train and val).",
        "Videos listed with different labels: 1 (train/run/0.mp4 = train/walk/4.mp4 as run and as walk).",
    ]


def test_linked_label_folders_are_duplicates(tmp_path: Path):
    root = grow(tmp_path, "train/run/0.mp4", "train/walk/1.mp4")
    (root / "val").symlink_to("train")
    (line,) = describe_duplicates(read_video_folder(root))
    assert ": 2 (train/run/0.mp4 = val/run/0.mp4 in train and val, " in line


def test_overlapping_segments_are_duplicates(tmp_path: Path):
    grow(tmp_path, "0.mp4", "1.mp4")
    header, other = "path,start,end,label", "1.mp4,,,walk\n"
    assert lists(tmp_path, f"0.mp4,0,5,run\n{other}", "0.mp4,5,9,run\n", header) == []
    assert len(lists(tmp_path, f"0.mp4,0,5,run\n{other}", "0.mp4,4,9,run\n", header)) == 1
    assert len(lists(tmp_path, f"0.mp4,0,5,run\n{other}", "0.mp4,,,run\n", header)) == 1


def test_segments_are_not_compared_pairwise(monkeypatch: pytest.MonkeyPatch):
    pieces = [Entry(name=f"{n}", path=Path("0.mp4"), labels=("run",), start=n, end=n + 1) for n in range(2000)]
    looked = []
    end_of = duplicates._end
    monkeypatch.setattr(duplicates, "_end", lambda entry: looked.append(entry) or end_of(entry))
    uses = [("train", piece) for piece in (*pieces, Entry(name="last", path=Path("0.mp4"), labels=("walk",), start=9, end=11))]
    assert [*duplicates._compare(uses)] == [
        (duplicates.WITH_LABELS, "9 = last as run and as walk"),
        (duplicates.WITH_LABELS, "last = 10 as walk and as run"),
    ]
    assert len(looked) < 10 * len(pieces)
