"""Folders of images: which names are the frames of one video."""

from pathlib import Path

import numpy as np
import pytest

from timesformer_jax.video import UnreadableVideoError, open_video
from timesformer_jax.video.encoding import encode_jpeg

IMAGE = encode_jpeg(np.zeros((1, 8, 8, 3), np.uint8), quality=90)[0]


def fill(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).write_bytes(IMAGE)
    return folder


def message(folder: Path) -> str:
    with pytest.raises(UnreadableVideoError) as caught, open_video(folder):
        pass
    return caught.value.reason


@pytest.mark.parametrize(
    "names",
    [
        ["img_00001.jpg", "img_00002.jpg", "img_00005.jpg"],
        ["frame9.jpg", "frame10.jpg"],
        ["1.jpg", "2.png", "3.JPG"],
        ["first.jpg", "second.jpg", "third.png"],
        ["0.95.jpg", "1.00.jpg", "1.05.jpg"],
        ["cam2_1_640x360.jpg", "cam2_2_640x360.jpg"],
        ["1_of_3.jpg", "2_of_3.jpg", "3_of_3.jpg"],
        ["day1_12-59-59.jpg", "day1_13-00-00.jpg"],
        ["1.jpg", "2.jpg", ".hidden.jpg", "._1.jpg", "notes.txt"],
    ],
    ids=str,
)
def test_images_of_one_name_pattern_are_a_video(tmp_path: Path, names: list[str]):
    num_images = sum(not name.startswith(".") and not name.endswith(".txt") for name in names)
    with open_video(fill(tmp_path, *names)) as video:
        assert video.count_packets() == num_images
        assert len(list(video.frames())) == num_images


@pytest.mark.parametrize(
    ("names", "patterns"),
    [
        (["img_1.jpg", "img_2.jpg", "flow_x_1.jpg", "flow_y_1.jpg"], "flow_x_*.jpg, flow_y_*.jpg, img_*.jpg"),
        (["cam1_1.png", "cam1_2.png", "cam2_1.png", "cam2_2.png"], "cam1_*.png, cam2_*.png"),
        (["00001.jpg", "00002.jpg", "folder.jpg"], "*.jpg, folder.jpg"),
        ([f"{letter}{number}.jpg" for letter in "abcdef" for number in (1, 2)], "a*.jpg, b*.jpg, c*.jpg, d*.jpg, ..."),
    ],
)
def test_images_of_several_name_patterns_are_rejected(tmp_path: Path, names: list[str], patterns: str):
    assert message(fill(tmp_path, *names)) == (
        f"expected images whose names differ only in their number, got {patterns}; keep the frames of one video in the folder "
        "and move the other images"
    )


@pytest.mark.parametrize("other", ["00001.png", "00001.jpeg", "1.png"])
def test_same_frame_with_two_suffixes_is_rejected(tmp_path: Path, other: str):
    reason = message(fill(tmp_path, "00001.jpg", "00002.jpg", other))
    assert reason.startswith("expected one image per frame, got the same number in ")
    assert "00001.jpg" in reason
    assert other in reason


@pytest.mark.parametrize(
    ("names", "got"),
    [
        (["1.bmp", "2.BMP"], ".bmp"),
        (["1.tif", "Thumbs.db", "README"], ".db, .tif, files without a suffix"),
    ],
)
def test_folder_without_readable_images_names_its_suffixes(tmp_path: Path, names: list[str], got: str):
    assert message(fill(tmp_path, *names)) == f"expected frames in .jpg, .jpeg or .png, got {got}"


def test_folder_without_files_is_rejected(tmp_path: Path):
    fill(tmp_path, ".hidden")
    assert message(tmp_path) == "the folder is empty"
    (tmp_path / "rgb").mkdir()
    assert message(tmp_path).endswith("got only folders (rgb); give the path of one of them")
