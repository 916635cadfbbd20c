"""The recorded source of prepared data, and its comparison with the folder given later."""

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from input_pipeline import VideoDataset, open_dataset
from input_pipeline.builders import older_name, own_config
from input_pipeline.sources import FILE, VIDEOS
from input_pipeline.video_builder import VideoConfig
from tests.input_pipeline.miniatures import OPTIONS, csv, folder, make_folder, make_kinetics, video
from timesformer_jax.datasets import LAYOUTS, Storage
from timesformer_jax.errors import InputError


@pytest.fixture(scope="module")
def kinetics(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `videos`, and the data `prepared` from them."""
    place = tmp_path_factory.mktemp("kinetics")
    make_kinetics(place / "videos")
    reopen(place, place / "videos")
    return place


def reopen(place: Path, root: Path | None) -> VideoDataset:
    options: dict[str, Any] = {**OPTIONS, "data_dir": str(place / "prepared")}
    return open_dataset(name="kinetics400", root=None if root is None else str(root), **options)


def test_sources_accept_the_same_videos_under_another_root(kinetics: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    shutil.copytree(kinetics / "videos", tmp_path / "copy", copy_function=shutil.copy)  # with different times
    caplog.set_level("INFO")
    data = reopen(kinetics, tmp_path / "copy")
    assert f"{data.builder.data_path}, with 3 videos of {kinetics}/videos, prepared on " in caplog.text
    assert "modified" not in caplog.text


def test_sources_are_logged_without_a_root(kinetics: Path, caplog: pytest.LogCaptureFixture):
    caplog.set_level("INFO")
    data = reopen(kinetics, None)
    pattern = rf"{data.builder.data_path}, with 3 videos of {kinetics}/videos, prepared on \d{{4}}-\d\d-\d\d \d\d:\d\d UTC\."
    assert re.search(pattern, caplog.text)


def replace(root: Path) -> None:
    video(root / "train/xyz.mp4", 2)


def relabel(root: Path) -> None:
    text = (root / "train.csv").read_text()
    (root / "train.csv").write_text(text.replace("walking,xyz", "playing guitar,xyz"))


def move(root: Path) -> None:
    (root / "more").mkdir()
    (root / "train/xyz.mp4").rename(root / "more/xyz.mp4")


def repair(root: Path) -> None:
    video(root / "train/gone.mp4")


def renumber(root: Path) -> None:
    """Add a class without videos before the others."""
    with open(root / "train.csv", "a") as file:
        file.write("archery,nowhere,0,10,train\n")


def remove(root: Path) -> None:
    (root / "train/xyz.mp4").unlink()


def empty(root: Path) -> None:
    shutil.rmtree(root / "train")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (replace, r"1 with another size \(xyz_000000_000010: [\d,]+ bytes, prepared as [\d,]+ bytes\)"),
        (relabel, r"1 with other labels \(xyz_000000_000010: playing guitar, prepared as walking\)"),
        (move, r"1 with another path \(xyz_000000_000010: more/xyz.mp4, prepared as train/xyz.mp4\)"),
        (repair, r"1 new \(gone_000000_000010\)"),
        (renumber, "the classes, or their order"),
        (remove, r"1 missing \(xyz_000000_000010\)"),
        (empty, r"None of the 3 videos listed for the split 'train' exists"),
    ],
)
def test_sources_reject_videos_that_differ_from_the_prepared_ones(kinetics: Path, tmp_path: Path, change: Any, words: str):
    shutil.copytree(kinetics / "videos", tmp_path / "changed")
    change(tmp_path / "changed")
    with pytest.raises(InputError, match=words) as error:
        reopen(kinetics, tmp_path / "changed")
    for named in (tmp_path / "changed", kinetics / "videos", kinetics / "prepared/kinetics400/h264_16/2.0.0"):
        assert str(named) in str(error.value)
    assert "omit data.root" in str(error.value)


def test_sources_reject_a_missing_root(kinetics: Path):
    with pytest.raises(InputError, match=f"no folder /nowhere.* or omit data.root .*3 videos of {kinetics}/videos"):
        reopen(kinetics, Path("/nowhere"))


def test_missing_or_damaged_source_records_are_reported(kinetics: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """Data of an older version lack a record; they work, with a warning that nothing can be compared."""
    place = tmp_path / "place"
    shutil.copytree(kinetics, place)
    (record,) = (place / "prepared").rglob(FILE)
    digests = record.with_name("digests.json")
    for path in [record.with_name(name) for name in json.loads(digests.read_text())["files"]]:
        content = path.read_bytes()
        path.write_bytes(content[:-3] + bytes([content[-3] ^ 1]) + content[-2:])
        with pytest.raises(InputError, match=f"{path.name} is damaged .*: delete .* to prepare the data again"):
            reopen(place, None)
        path.write_bytes(content)
    info = record.with_name("dataset_info.json")
    info.rename(info.with_name("elsewhere"))
    with pytest.raises(InputError, match=r"dataset_info.json is damaged \(it is missing\): delete"):
        reopen(place, None)
    info.with_name("elsewhere").rename(info)
    digests.unlink()  # older versions wrote none either
    record.with_name(VIDEOS).write_bytes(b"no gzip")
    reopen(place, place / "videos")  # not read if nothing differs
    replace(place / "videos")
    for content in (b"no gzip", b""):  # the latter is a valid archive
        record.with_name(VIDEOS).write_bytes(content)
        with pytest.raises(InputError, match=f"{VIDEOS} is damaged .*: delete"):
            reopen(place, place / "videos")
    record.write_text(record.read_text()[:20])
    with pytest.raises(InputError, match=f"{FILE} is damaged .*: delete"):
        reopen(place, place / "videos")
    record.unlink()
    caplog.clear()
    assert reopen(place, place / "videos").num_videos("train") == 2
    assert caplog.text.count("kept no record of its source: whether") == 1


def test_sources_warn_of_files_modified_in_place(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """Only reading the files would show whether they differ."""
    make_folder(tmp_path / "videos")
    first = folder(tmp_path / "videos", tmp_path / "prepared").builder.data_path
    os.utime(tmp_path / "videos/ü/1.mp4")
    assert folder(tmp_path / "videos", tmp_path / "prepared").builder.data_path == first
    assert "1 of 4 files of" in caplog.text
    assert "(ü/1.mp4): they are assumed to be unchanged" in caplog.text


def test_moved_folder_is_not_prepared_again(tmp_path: Path):
    make_folder(tmp_path / "mine")
    first = folder(tmp_path / "mine", tmp_path / "prepared").builder.data_path
    for root in ("copies/mine", "under another name"):
        shutil.copytree(tmp_path / "mine", tmp_path / root, copy_function=shutil.copy)
        assert folder(tmp_path / root, tmp_path / "prepared").builder.data_path == first
    (tmp_path / "copies/mine/ü/1.mp4").write_bytes((tmp_path / "mine/ü/0.mp4").read_bytes() + b"more")
    assert folder(tmp_path / "copies/mine", tmp_path / "prepared").builder.data_path != first


def test_data_prepared_by_an_older_version_are_found(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """Its folder is named by absolute paths and times, and it has no record of its source."""
    make_folder(tmp_path / "mine")
    first = Path(folder(tmp_path / "mine", tmp_path / "prepared").builder.data_path).parent
    base = VideoConfig(storage=Storage(codec="jpeg", short_side=32))
    listing = LAYOUTS["video_folder"](tmp_path / "mine", val_fraction=0.3)
    config = own_config(base, "mine", listing, tmp_path / "mine")
    assert config.name == first.name
    older = first.with_name(older_name(config, "mine"))
    first.rename(older)
    (older / "2.0.0" / FILE).unlink()
    (older / "2.0.0" / "digests.json").unlink()
    again = folder(tmp_path / "mine", tmp_path / "prepared")
    assert Path(again.builder.data_path).parent == older
    assert again.num_videos("train") == 2
    assert "kept no record" in caplog.text


def test_source_record_is_small_and_separate_from_the_metadata(tmp_path: Path):
    csv(tmp_path / "train.csv", "path,label,start,end", "a.mp4,up,0,0.2", "b.mp4,down,,")
    csv(tmp_path / "val.csv", "path,label", "b.mp4,up")
    for name in "ab":
        video(tmp_path / f"{name}.mp4")
    lists = {split: str(tmp_path / f"{split}.csv") for split in ("train", "val")}
    data = open_dataset(name="video_list", labels=None, **lists, **OPTIONS, data_dir=str(tmp_path / "prepared"))
    record = Path(data.builder.data_path) / FILE
    found = json.loads(record.read_text())
    assert (found["root"], found["num_videos"], found["label_names"]) == (str(tmp_path), 3, ["down", "up"])
    assert "a.mp4" not in record.read_text() + record.with_name("metadata.json").read_text()
