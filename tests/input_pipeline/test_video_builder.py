"""Preparing videos: what TFDS asks of a builder, files that can't be read, interruptions, disks that are full."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from input_pipeline import builders, open_dataset, preparation
from input_pipeline._tensorflow import tf, tfds
from input_pipeline.builders import BUILDERS, own_config
from input_pipeline.records import Records, index_path
from input_pipeline.video_builder import VideoConfig
from tests.support import moving_square, write_video
from timesformer_jax.datasets import LAYOUTS, Storage
from timesformer_jax.errors import InputError

ROOT = Path(__file__).parent.parent.parent
SMALL = Storage(codec="jpeg", short_side=16)


def video(path: Path, label: int = 0, **options: Any) -> Path:
    return write_video(path, moving_square(label, len(path.name), num_frames=12), **options)


def csv(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


def make_kinetics(root: Path) -> None:
    header = "label,youtube_id,time_start,time_end,split"
    csv(root / "train.csv", header, "playing guitar,-a_b,12,22,train", "walking,xyz,0,10,train", "walking,gone,0,10,train")
    csv(root / "val.csv", header, "walking,häns,3,13,val")
    video(root / "train" / "-a_b_000012_000022.mp4", 1)
    video(root / "train" / "xyz.mp4")
    video(root / "val" / "häns_000003_000013.mkv")


def make_something(root: Path) -> None:
    (root / "labels").mkdir(parents=True)
    (root / "labels/labels.json").write_text(json.dumps({"Holding something": "1", "Dropping something": "0"}))
    for split, ids in (("train", "12"), ("validation", "3")):
        rows = [{"id": i, "template": "Dropping [something]" if i == "1" else "Holding [something]"} for i in ids]
        (root / f"labels/{split}.json").write_text(json.dumps(rows))
    video(root / "videos/1.webm", codec="libvpx")
    video(root / "videos/3.webm", 1, codec="libvpx")
    for number, frame in enumerate(moving_square(1, 0, num_frames=3)):
        (root / "frames/2").mkdir(parents=True, exist_ok=True)
        (root / f"frames/2/{number:04d}.jpg").write_bytes(tf.io.encode_jpeg(frame).numpy())


def make_diving(root: Path) -> None:
    rows = [{"vid_name": f"v{i}", "label": i, "start_frame": 0, "end_frame": 12} for i in range(3)]
    csv(root / "Diving48_V2_train.json", json.dumps(rows[:2]))
    csv(root / "Diving48_V2_test.json", json.dumps([{**rows[2], "label": 1}]))
    csv(root / "Diving48_vocab.json", json.dumps([["Back", "15som", "05Twis", "FREE"], ["Front", "15som", "NoTwis", "PIKE"]]))
    for row in rows:
        video(root / "rgb" / f"{row['vid_name']}.mp4")


def make_howto(root: Path) -> None:
    rows = [f"{task}{i},Food,Cooking,{i},{task}" for task in (3, 5) for i in range(100)]
    csv(root / "HowTo100M_v1.csv", "video_id,category_1,category_2,rank,task_id", *rows)
    csv(root / "task_ids.csv", "3\tMake Tea", "5\tMake Toast")
    first = video(root / "videos" / "30.mp4")
    for name in (f"{task}{number}" for task in (3, 5) for number in range(1, 100, 8)):
        shutil.copy(first, first.with_stem(name))


def make_ucf(root: Path) -> None:
    csv(root / "ucfTrainTestlist/classInd.txt", "1 Archery", "2 Biking")
    csv(root / "ucfTrainTestlist/trainlist01.txt", "Archery/v_Archery_g01_c01.avi 1", "Biking/v_Biking_g01_c01.avi 2")
    csv(root / "ucfTrainTestlist/testlist01.txt", "Biking/v_Biking_g02_c01.avi")
    for name in ("Archery/v_Archery_g01_c01", "Biking/v_Biking_g01_c01", "Biking/v_Biking_g02_c01"):
        video(root / f"UCF-101/{name}.avi", codec="mpeg4")


def make_hmdb(root: Path) -> None:
    for label in ("brush_hair", "wave"):
        lines = [f"{label}!#1 & co.avi 1", f"{label}_2.avi 2", f"{label}_3.avi 0"]
        csv(root / "splits" / f"{label}_test_split1.txt", *lines)
        for line in lines:
            video(root / label / line[:-2], codec="mpeg4")


def make_folder(root: Path) -> None:
    for label in ("a b", "ü"):
        for number in range(2):
            video(root / label / f"{number}.mp4")


def make_list(root: Path) -> None:
    csv(root / "train.csv", "path,label", "my videos/one.mp4,up", "my videos/zwölf.mp4,down")
    csv(root / "val.csv", "path,label", "my videos/one.mp4,up")
    for name in ("one", "zwölf"):
        video(root / "my videos" / f"{name}.mp4")


MINIATURES = {
    "kinetics400": make_kinetics,
    "kinetics600": make_kinetics,
    "kinetics700": make_kinetics,
    "something_something_v2": make_something,
    "diving48": make_diving,
    "howto100m": make_howto,
    "ucf101": make_ucf,
    "hmdb51": make_hmdb,
    "video_folder": make_folder,
    "video_list": make_list,
}
"""Name of a data set -> writes a small copy of it, with real videos."""


def test_every_data_set_has_its_builder_and_its_miniature():
    assert LAYOUTS.keys() == BUILDERS.keys() == MINIATURES.keys()


@pytest.mark.parametrize("name", MINIATURES)
def test_what_tfds_asks_of_a_builder(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """TFDS's own test: prepares from `--manual_dir`, reads back, compares shapes, counts and metadata."""
    MINIATURES[name](tmp_path / "data")
    case = type(
        "Case",
        (tfds.testing.DatasetBuilderTestCase,),
        {
            "DATASET_CLASS": BUILDERS[name],
            "EXAMPLE_DIR": str(tmp_path / "data"),
            "BUILDER_CONFIG_NAMES_TO_TEST": [BUILDERS[name].BUILDER_CONFIGS[0].name, BUILDERS[name].BUILDER_CONFIGS[2].name],
            "SPLITS": {},
            "SKIP_TF1_GRAPH_MODE": True,
            "_assertNumSamples": lambda self, builder: None,
        },
    )
    case.setUpClass()
    try:
        test = case("test_download_and_prepare_as_dataset")
        test.setUp()
        try:
            for config in case.BUILDER_CONFIG_NAMES_TO_TEST:
                test._download_and_prepare_as_dataset(test._make_builder(config=config))
            test.test_registered()
            test.test_info()
        finally:
            test.tearDown()
            test.doCleanups()
    finally:
        case.tearDownClass()


OPTIONS = {"storage": "h264", "short_side": 16, "max_fps": None, "num_workers": 0}


@pytest.mark.parametrize(
    ("name", "num_train", "label_names", "example"),
    [
        ("kinetics400", 2, ["playing guitar", "walking"], "-a_b_000012_000022"),
        ("something_something_v2", 2, ["Dropping something", "Holding something"], "2"),
        ("hmdb51", 2, ["brush_hair", "wave"], "brush_hair/brush_hair!#1 & co.avi"),
    ],
)
def test_a_data_set_by_its_name(tmp_path: Path, name: str, num_train: int, label_names: list[str], example: str, caplog):
    MINIATURES[name](tmp_path / "videos")
    layout = {"fold": 1} if name == "hmdb51" else {}
    options = {**OPTIONS, **layout, "data_dir": str(tmp_path / "prepared")}
    data = open_dataset(name=name, root=str(tmp_path / "videos"), **options)
    assert data.label_names == label_names
    assert data.num_videos("train") == num_train
    assert f"{name} has 2 labels here" in caplog.text
    found = {record.features.feature["name"].bytes_list.value[0].decode() for record in data.records("train")}
    assert example in found
    shutil.rmtree(tmp_path / "videos")  # a machine that has the prepared data alone
    again = open_dataset(name=name, root=None, **options)
    assert again.label_names == label_names
    if name == "kinetics400":
        assert again.left_out == {"train": {"gone_000000_000010": "there is no such file"}, "val": {}}
    with pytest.raises(InputError, match=r"isn't prepared in .*, and data.root is not set"):
        open_dataset(name=name, root=None, **{**options, "short_side": 20})


def test_several_labels(tmp_path: Path):
    for name in "ab":
        video(tmp_path / f"{name}.mp4")
    (tmp_path / "train.jsonl").write_text('{"path": "a.mp4", "labels": ["x", "z"]}\n{"path": "b.mp4", "labels": ["y"]}\n')
    (tmp_path / "val.jsonl").write_text('{"path": "b.mp4", "labels": []}\n')
    lists = {split: str(tmp_path / f"{split}.jsonl") for split in ("train", "val")}
    data = open_dataset(name="video_list", root=None, labels=None, **lists, **OPTIONS, data_dir=str(tmp_path / "prepared"))
    assert data.several
    records = {record.features.feature["name"].bytes_list.value[0]: record for record in data.records("train")}
    assert data.encode_label(records[b"a.mp4"].features.feature).tolist() == [1, 0, 1]
    (none,) = list(data.records("val"))
    assert data.encode_label(none.features.feature).tolist() == [0, 0, 0]


def test_a_changed_folder_is_another_data_set(tmp_path: Path):
    make_folder(tmp_path / "my clips")

    def name(**changes: Any) -> str:
        storage = Storage(**{"codec": "jpeg", "short_side": 16, **changes})
        return own_config(storage, "my clips", LAYOUTS["video_folder"](tmp_path / "my clips")).name

    first = name()
    assert first.startswith("my_clips_")
    assert name() == first
    assert len({first, name(short_side=17), name(codec="h264"), name(max_fps=5.0)}) == 4
    (tmp_path / "my clips/ü/1.mp4").write_bytes(b"other")
    assert name() != first


def folder(root: Path, data_dir: Path, **changes: Any):
    options = {"val_fraction": 0.3, "storage": "jpeg", "short_side": 32, "max_fps": None, "num_workers": 0, **changes}
    return open_dataset(name="video_folder", root=str(root), data_dir=str(data_dir), **options)


def test_broken_files_are_left_out_by_name(tmp_path: Path, made_clips: Path, broken_clips: Path):
    shutil.copytree(made_clips, tmp_path / "clips")
    shutil.copytree(broken_clips, tmp_path / "clips" / "across", dirs_exist_ok=True)
    data = folder(tmp_path / "clips", tmp_path / "data")
    unreadable = {
        f"across/{name}.mp4" for name in ("empty", "text", "truncated", "audio_only") if (broken_clips / f"{name}.mp4").exists()
    }
    left_out = {**data.left_out["train"], **data.left_out["val"]}
    assert set(left_out) == unreadable
    assert left_out["across/empty.mp4"] == "the file is empty"
    assert set(data.damaged) <= {"across/garbled_middle.mp4"}
    number = sum(1 for _ in (tmp_path / "clips").rglob("*.mp4"))
    assert data.num_videos("train") + data.num_videos("val") == number - len(unreadable)
    for example in data.builder.as_dataset(split="train+val").as_numpy_iterator():
        assert min(example["video"].shape[1:3]) <= 32
        assert example["video"].shape[1:3] == (example["height"], example["width"])
        assert example["name"].decode() not in unreadable
    # A second run takes what is there, and still knows what was left out.
    assert folder(tmp_path / "clips", tmp_path / "data").left_out == data.left_out


def test_too_few_readable_files_is_an_error_and_leaves_no_data_set(tmp_path: Path, made_clips: Path):
    shutil.copytree(made_clips, tmp_path / "clips")
    for label in ("down", "back"):
        for path in (tmp_path / "clips" / label).iterdir():
            path.write_text("broken")
    with pytest.raises(InputError, match=r"labels with a readable video are across\..*Invalid data"):
        folder(tmp_path / "clips", tmp_path / "d")
    assert not list((tmp_path / "d").rglob("dataset_info.json"))
    assert not list((tmp_path / "d").rglob("*.tfrecord*"))


def test_an_interrupted_preparation_goes_on(tmp_path: Path, made_clips: Path, monkeypatch: pytest.MonkeyPatch):
    """Parts that are whole are kept, whatever happens to the one after them; the result is the same as at a stretch."""
    whole = folder(made_clips, tmp_path / "whole")
    monkeypatch.setattr(preparation, "PART_BYTES", 1)  # a part for each video
    read = []

    def stop_after_five(entries, **options):
        for entry, result in original(entries, **options):
            if len(read) == 5:
                raise KeyboardInterrupt
            read.append(entry.name)
            yield entry, result

    original = preparation._prepared
    with monkeypatch.context() as patch:
        patch.setattr(preparation, "_prepared", stop_after_five)
        with pytest.raises(KeyboardInterrupt):
            folder(made_clips, tmp_path / "parts")
    assert not list((tmp_path / "parts").rglob("dataset_info.json"))

    def note(entries, **options):
        for entry, result in original(entries, **options):
            read.append(entry.name)
            yield entry, result

    (third,) = (tmp_path / "parts").rglob("00002.tfrecord")
    third.write_bytes(third.read_bytes()[:-1])  # the disk lost something
    del read[2:]
    monkeypatch.setattr(preparation, "_prepared", note)
    parts = folder(made_clips, tmp_path / "parts")
    assert len(read) == len(set(read)) == 12
    assert parts.builder.info.splits["train"].num_shards == 9
    for split in ("train", "val"):
        assert [bytes_of(record) for record in parts.records(split)] == [bytes_of(record) for record in whole.records(split)]
    assert not list((tmp_path / "parts").rglob("*.json.part")) + list((tmp_path / "parts").rglob(".unfinished*"))


def bytes_of(record: Any) -> bytes:
    return record.SerializeToString(deterministic=True)


def test_a_killed_preparation_goes_on(tmp_path: Path, made_clips: Path):
    """By the command, with a part for each video, killed while it writes."""
    code = (
        "import sys; from input_pipeline import open_dataset, preparation; preparation.PART_BYTES = 1; "
        "open_dataset(name='video_folder', root=sys.argv[1], data_dir=sys.argv[2], val_fraction=0.3, storage='h264', "
        "short_side=48, max_fps=None, num_workers=1)"
    )
    arguments = [sys.executable, "-c", code, str(made_clips), str(tmp_path)]
    process = subprocess.Popen(arguments, cwd=ROOT, stderr=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 60
    while not list(tmp_path.rglob("00001.json")) and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not list(tmp_path.rglob("dataset_info.json"))
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("0000[01].tfrecord")}
    assert len(kept) == 2
    data = folder(made_clips, tmp_path, storage="h264", short_side=48)
    assert data.num_videos("train") == 9
    times = [path.stat().st_mtime_ns for path in tmp_path.rglob("*tfrecord-*")]
    assert set(kept.values()) <= set(times)


def test_only_one_process_prepares_a_data_set(tmp_path: Path, made_clips: Path):
    """The other ends with a sentence, and does no harm."""
    builder = folder(made_clips, tmp_path / "elsewhere").builder
    name = builder.builder_config.name
    unfinished = tmp_path / "data" / "video_folder" / name / f".unfinished_{builder.version}"
    with preparation.alone(unfinished), pytest.raises(InputError, match=f"Another process is preparing .*{name}: wait"):
        folder(made_clips, tmp_path / "data")
    assert folder(made_clips, tmp_path / "data").num_videos("train") == 9


def test_a_full_disk_is_one_sentence_and_the_next_try_goes_on(
    tmp_path: Path, made_clips: Path, monkeypatch: pytest.MonkeyPatch
):
    class Full:
        def __init__(self, path: str):
            raise tf.errors.ResourceExhaustedError(None, None, f"{path}; No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(tf.io, "TFRecordWriter", Full)
        with pytest.raises(
            InputError, match=r"failed with 0 of 9 videos done \(.*No space left.*make room .* goes on from there"
        ):
            folder(made_clips, tmp_path)
    usage = shutil.disk_usage(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(preparation, "ENTRIES_BEFORE_A_FORECAST", 2)
        patch.setattr(preparation.shutil, "disk_usage", lambda path: usage._replace(free=1000))
        with pytest.raises(InputError, match=r"7 of 9 videos need about 0\.0 GB more, and the disk of .* has 0\.0 GB left"):
            folder(made_clips, tmp_path)
    assert not list(tmp_path.rglob("dataset_info.json"))
    assert folder(made_clips, tmp_path).num_videos("train") == 9


def test_a_read_only_folder_is_one_sentence(tmp_path: Path, made_clips: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(*arguments: Any, **options: Any) -> None:
        raise PermissionError(13, "Permission denied", str(tmp_path))

    monkeypatch.setattr(builders.VideoFolder, "download_and_prepare", refuse)
    with pytest.raises(InputError, match=r"can't be prepared in .*: Permission denied"):
        folder(made_clips, tmp_path / "data")


def test_records_by_number(digits):
    """The index is made from the files where the builder left none, and a cut file is told."""
    records = digits.records("val")
    names = [record.features.feature["name"].bytes_list.value[0].decode() for record in records]
    read = digits.builder.as_dataset(split="val", decoders={"video": tfds.decode.SkipDecoding()})
    assert names == [example["name"].decode() for example in read.as_numpy_iterator()]
    assert index_path(str(digits.builder.data_path), "val").exists()


def test_more_files_than_may_be_open(tmp_path: Path, made_clips: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(preparation, "PART_BYTES", 1)
    monkeypatch.setattr("input_pipeline.records.OPEN_FILES", 2)
    records = Records(folder(made_clips, tmp_path).builder, "train")
    names = {record.features.feature["name"].bytes_list.value[0] for _ in range(2) for record in records}
    assert len(names) == 9
    assert records._mapped.cache_info().currsize == 2


def test_a_record_file_that_was_cut_is_told(tmp_path: Path, made_clips: Path):
    data = folder(made_clips, tmp_path)
    (path,) = tmp_path.rglob("*train.tfrecord*")
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(InputError, match="ends in the middle of a record: prepare the data set again"):
        list(Records(data.builder, "train"))
    index_path(str(data.builder.data_path), "train").unlink()
    with pytest.raises(InputError, match="ends in the middle of a record: prepare the data set again"):
        Records(data.builder, "train")


def test_config_names_tell_how_videos_are_kept():
    storage = Storage(codec="jpeg", short_side=320, max_fps=12.5, part_seconds=60.0)
    assert VideoConfig(storage=storage, layout={"fold": 2}).name == "jpeg_320_12p5fps_parts60s_fold2"
    for name, builder in BUILDERS.items():
        names = [config.name for config in builder.BUILDER_CONFIGS]
        assert len(set(names)) == len(names), name


def test_examples_are_what_the_files_say(tmp_path: Path):
    make_kinetics(tmp_path / "videos")
    data = open_dataset(name="kinetics400", root=str(tmp_path / "videos"), **OPTIONS, data_dir=str(tmp_path / "prepared"))
    (record,) = list(data.records("val"))
    features = record.features.feature
    assert features["fps"].float_list.value[:] == features["source_fps"].float_list.value[:] == [30.0]
    assert len(features["video"].bytes_list.value) == 12
    assert (features["height"].int64_list.value[0], features["width"].int64_list.value[0]) == (16, 20)
    assert data.encode_label(features) == np.int32(1)
