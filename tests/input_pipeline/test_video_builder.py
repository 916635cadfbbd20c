"""Preparation of videos: TFDS's requirements, missing and unreadable files, and the identity of data sets."""

import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ml_collections import ConfigDict

from input_pipeline import VideoDataset, open_dataset
from input_pipeline._tensorflow import tf, tfds
from input_pipeline.builders import BUILDERS, own_config
from input_pipeline.moving_digits import MovingDigits
from input_pipeline.prepared import _open
from input_pipeline.video_builder import VideoConfig
from tests.input_pipeline.miniatures import MINIATURES, OPTIONS, csv, folder, make_folder, make_kinetics, video
from timesformer_jax.datasets import LAYOUTS, Entry, Listing, Storage, store_video
from timesformer_jax.datasets.storing import Labelled, write_records
from timesformer_jax.errors import InputError
from timesformer_jax.video import Limits


def test_every_data_set_has_a_builder_and_a_miniature():
    assert LAYOUTS.keys() == BUILDERS.keys() == MINIATURES.keys()


@pytest.mark.parametrize("builder", [MovingDigits, *BUILDERS.values()], ids=lambda builder: builder.name)
def test_builder_of_unprepared_data_leaves_no_temporary_folder(builder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    builder(data_dir=str(tmp_path / "data"), config=builder.BUILDER_CONFIGS[0])
    assert not [path for path in tmp_path.iterdir() if path.name != "data"]


@pytest.mark.parametrize("name", MINIATURES)
def test_builder_passes_the_tfds_checks(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """TFDS's own test prepares from `--manual_dir`, reads back, and compares shapes, counts and metadata."""
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


@pytest.mark.parametrize(
    ("name", "num_train", "label_names", "example"),
    [
        ("kinetics400", 2, ["playing guitar", "walking"], "-a_b_000012_000022"),
        ("something_something_v2", 2, ["Dropping something", "Holding something"], "2"),
        ("hmdb51", 2, ["brush_hair", "wave"], "brush_hair/brush_hair!#1 & co.avi"),
    ],
)
def test_data_set_is_opened_by_name(tmp_path: Path, name: str, num_train: int, label_names: list[str], example: str, caplog):
    MINIATURES[name](tmp_path / "videos")
    layout = {"fold": 1} if name == "hmdb51" else {}
    options = {**OPTIONS, **layout, "data_dir": str(tmp_path / "prepared")}
    data = open_dataset(name=name, root=str(tmp_path / "videos"), **options)
    assert data.label_names == label_names
    assert data.num_videos("train") == num_train
    assert f"{name} has 2 labels here" in caplog.text
    found = {record.features.feature["name"].bytes_list.value[0].decode() for record in data.records("train")}
    assert example in found
    shutil.rmtree(tmp_path / "videos")  # a machine that has only the prepared data
    again = open_dataset(name=name, root=None, **options)
    assert again.label_names == label_names
    if name == "kinetics400":
        assert again.left_out == {"train": {"gone_000000_000010": "there is no such file"}, "val": {}}
    with pytest.raises(InputError, match=r"isn't prepared in .*, and data.root is not set"):
        open_dataset(name=name, root=None, **{**options, "short_side": 20})


def test_builder_keeps_multiple_labels(tmp_path: Path):
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


def test_changed_folder_is_a_new_data_set(tmp_path: Path):
    make_folder(tmp_path / "my clips")

    def name(**changes: Any) -> str:
        storage = Storage(**{"codec": "jpeg", "short_side": 16, **changes})
        listing = LAYOUTS["video_folder"](tmp_path / "my clips")
        return own_config(VideoConfig(storage=storage), "my clips", listing, tmp_path / "my clips").name

    first = name()
    assert first.startswith("my_clips_")
    assert name() == first
    assert len({first, name(short_side=17), name(codec="h264"), name(max_fps=5.0)}) == 4
    (tmp_path / "my clips/ü/1.mp4").write_bytes(b"other")
    assert name() != first


def test_data_set_depends_on_rates_and_frames_but_not_on_its_location(tmp_path: Path):
    """Every image is checked, since a folder keeps its time if one of its images is overwritten."""
    base, pictures = (
        VideoConfig(storage=Storage(codec="jpeg", short_side=16)),
        [tmp_path / root / "a" / "1.jpg" for root in ("one", "two")],
    )
    for picture in pictures:
        picture.parent.mkdir(parents=True)
        picture.write_bytes(b"same")
    video(tmp_path / "one" / "b.mp4")
    shutil.copy2(tmp_path / "one" / "b.mp4", tmp_path / "two" / "b.mp4")  # encoders differ in their bytes

    def name(root: str = "one", fps: int = 12) -> str:
        for split in ("train", "val"):
            csv(tmp_path / f"{split}.csv", "path,label,fps", f"a,x,{fps}", "b.mp4,y,")
        lists = [tmp_path / f"{split}.csv" for split in ("train", "val")]
        return own_config(base, "mine", LAYOUTS["video_list"](*lists, root=tmp_path / root), tmp_path / root).name

    first = name()
    assert name() == name("two") == first
    assert name(fps=13) != first
    before = pictures[0].parent.stat().st_mtime_ns
    pictures[0].write_bytes(b"others")
    assert pictures[0].parent.stat().st_mtime_ns == before
    assert name() != first
    (tmp_path / "one/b.mp4").unlink()
    gone = Entry(name="b.mp4", path=tmp_path / "one/b.mp4", labels=("y",))  # deleted after it was listed; to be named
    assert own_config(base, "mine", Listing(label_names=("x", "y"), splits={"train": [gone]}), tmp_path / "one").name


def test_preparation_deletes_leftovers_of_a_killed_one(tmp_path: Path, made_clips: Path):
    data = folder(made_clips, tmp_path / "data")
    whole = Path(data.builder.data_path)
    shutil.copytree(whole, left := whole.with_name(f"incomplete.ABC123_{whole.name}"))
    shutil.copytree(whole, other := whole.with_name("incomplete.ABC123_1.0.0"))
    shutil.rmtree(whole)
    again = folder(made_clips, tmp_path / "data")
    assert Path(again.builder.data_path) == whole
    assert whole.is_dir()
    assert not left.exists()
    assert other.is_dir()  # of another version


def test_broken_files_are_skipped_by_name(tmp_path: Path, made_clips: Path, broken_clips: Path):
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
    # A second run reuses the prepared data and still knows the skipped videos.
    assert folder(tmp_path / "clips", tmp_path / "data").left_out == data.left_out


def test_too_few_readable_files_is_an_error_and_leaves_no_data_set(tmp_path: Path, made_clips: Path):
    shutil.copytree(made_clips, tmp_path / "clips")
    for label in ("down", "back"):
        for path in (tmp_path / "clips" / label).iterdir():
            path.write_text("broken")
    with pytest.raises(InputError, match=r"labels with a readable video are across\..*Invalid data"):
        folder(tmp_path / "clips", tmp_path / "d")
    assert not list((tmp_path / "d").rglob("dataset_info.json"))
    assert not list((tmp_path / "d").rglob("train/*/*.tfrecord*"))


def test_unreadable_split_costs_no_other(tmp_path: Path, made_clips: Path):
    """What is prepared of the others is kept for the next attempt."""
    for split in ("train", "val"):
        for label in ("down", "back"):
            (tmp_path / "clips" / split / label).mkdir(parents=True)
            shutil.copy(made_clips / label / "0.mp4", tmp_path / "clips" / split / label / "a.mp4")
    for path in (tmp_path / "clips" / "val").rglob("*.mp4"):
        path.write_text("broken")
    with pytest.raises(InputError, match="the split 'val' can be read"):
        folder(tmp_path / "clips", tmp_path / "d")
    assert {path.parent.parent.name for path in (tmp_path / "d").rglob("*.tfrecord*")} == {"train"}


def test_training_videos_need_two_labels(tmp_path: Path, made_clips: Path):
    """Known before anything is encoded."""
    csv(tmp_path / "train.csv", "path,label", "down/0.mp4,down", "down/1.mp4,down")
    csv(tmp_path / "val.csv", "path,label", "down/2.mp4,down", "back/2.mp4,back")
    csv(tmp_path / "labels.txt", "down", "back")
    files = {"train": "train.csv", "val": "val.csv", "labels": "labels.txt"}
    lists = {name: str(tmp_path / file) for name, file in files.items()}
    with pytest.raises(InputError, match="Expected two or more labels in the split 'train', got down"):
        open_dataset(name="video_list", root=str(made_clips), **lists, data_dir=str(tmp_path / "d"), **OPTIONS)
    assert not list((tmp_path / "d").rglob("*.tfrecord*"))


def test_split_without_videos_is_dropped(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    make_kinetics(tmp_path / "videos")
    csv(tmp_path / "videos/test.csv", "label,youtube_id,time_start,time_end,split", "walking,nowhere,0,10,test")
    data = open_dataset(name="kinetics400", root=str(tmp_path / "videos"), **OPTIONS, data_dir=str(tmp_path / "prepared"))
    assert data.builder.info.splits.keys() == {"train", "val"}
    assert "No video of the split 'test' was found" in caplog.text
    assert data.left_out["test"] == {"nowhere_000000_000010": "there is no such file"}


def test_config_names_encode_how_videos_are_stored():
    storage = Storage(codec="jpeg", short_side=320, max_fps=12.5, part_seconds=60.0)
    assert VideoConfig(storage=storage, layout={"fold": 2}).name == "jpeg_320_12p5fps_parts60s_fold2"
    for name, builder in BUILDERS.items():
        names = [config.name for config in builder.BUILDER_CONFIGS]
        assert len(set(names)) == len(names), name


def test_examples_match_the_video_files(tmp_path: Path):
    make_kinetics(tmp_path / "videos")
    data = open_dataset(name="kinetics400", root=str(tmp_path / "videos"), **OPTIONS, data_dir=str(tmp_path / "prepared"))
    (record,) = list(data.records("val"))
    features = record.features.feature
    assert features["fps"].float_list.value[:] == features["source_fps"].float_list.value[:] == [30.0]
    assert len(features["video"].bytes_list.value) == 12
    assert (features["height"].int64_list.value[0], features["width"].int64_list.value[0]) == (16, 20)
    assert data.encode_label(features) == np.int32(1)


@pytest.mark.parametrize(("codec", "labels"), [("jpeg", ["b é"]), ("h264", ["b é"]), ("h264", ["b é", "a"]), ("h264", [])])
def test_records_are_identical_to_those_of_tfds(tmp_path: Path, codec: str, labels: list[str]):
    """Records are bit-identical once the map of the features is sorted."""
    several = labels != ["b é"]
    config = VideoConfig(name="x", storage=Storage(codec=codec, short_side=16), several=several)
    builder = BUILDERS["video_list"](data_dir=str(tmp_path), config=config)
    features: Any = builder.info.features
    (features["labels"].feature if several else features["label"]).names = ["a", "b é"]
    entry = Entry(name="zwölf.mp4", path=video(tmp_path / "zwölf.mp4"), labels=tuple(labels))
    stored = store_video(entry, config.storage)
    labelled = Labelled(entry, tuple(["a", "b é"].index(label) for label in labels))
    theirs = features.serialize_example(features.encode_example(builder._example(entry, 0, stored[0])))
    written = write_records(labelled, config.storage, several=several, folder=str(tmp_path))
    (ours,) = [record.numpy() for record in tf.data.TFRecordDataset(written.path)]
    assert ours == tf.train.Example.FromString(theirs).SerializeToString(deterministic=True)
    assert written.lengths == [len(ours)]


ODD = ["run", "run ", " ", "a\n\x1b[31m", r"a\n", "قفز", r"run\u0020"]


@pytest.fixture(scope="module")
def odd_labels(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A folder of videos whose labels TFDS can't store unchanged, and the folder for its prepared data."""
    root = tmp_path_factory.mktemp("odd")
    for label in ODD:
        for number in range(2):
            video(root / "videos" / label / f"{number}.mp4", len(label) % 3)
    folder(root / "videos", root / "prepared")
    return root / "videos", root / "prepared"


def numbers(data: VideoDataset) -> dict[str, int]:
    """Return the label number of each video by name."""
    features = [record.features.feature for record in data.records("train")]
    return {each["name"].bytes_list.value[0].decode(): each["label"].int64_list.value[0] for each in features}


def test_labels_survive_a_round_trip(odd_labels: tuple[Path, Path]):
    again = folder(*odd_labels)
    assert again.label_names == sorted(ODD)
    found = numbers(again)
    assert len(found) == len(ODD)
    assert {again.label_names[number] for number in found.values()} == set(ODD)
    assert all(name.startswith(f"{again.label_names[number]}/") for name, number in found.items())


@pytest.mark.parametrize("keeps_record", [True, False])
def test_labels_of_older_versions_are_read(odd_labels: tuple[Path, Path], tmp_path: Path, keeps_record: bool):
    """Older versions passed the names to TFDS unescaped."""
    root, _ = odd_labels
    shutil.copytree(odd_labels[1], tmp_path / "prepared")
    (names,) = tmp_path.rglob("label.labels.txt")
    older = sorted(ODD) if keeps_record else [label.replace("\n", "") for label in sorted(ODD)]
    names.write_text("\n".join(older) + "\n")
    (names.parent / "digests.json").unlink()
    if keeps_record:
        assert folder(root, tmp_path / "prepared").label_names == sorted(ODD)
        return
    (names.parent / "source.json").unlink()
    config = own_config(
        VideoConfig(storage=Storage(codec="jpeg", short_side=32)),
        "videos",
        LAYOUTS["video_folder"](root, val_fraction=0.3),
        root,
    )
    builder = BUILDERS["video_folder"](data_dir=str(tmp_path / "prepared"), config=config)
    data = VideoDataset(builder=builder, label="label", codec="jpeg", short_side=32)
    assert data.label_names == older


def test_skipped_videos_are_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    make_folder(tmp_path / "videos")
    (tmp_path / "videos" / "a b" / "notes.txt").write_text("text")
    (tmp_path / "videos" / "ü" / "linked.mp4").symlink_to(tmp_path / "videos" / "a b" / "1.mp4")
    with caplog.at_level("INFO", logger="timesformer_jax"):
        folder(tmp_path / "videos", tmp_path / "prepared")
    assert "Skipped files that aren't videos: 1 (a b/notes.txt)." in caplog.messages
    assert "Videos listed with different labels: 1 (a b/1.mp4 = ü/linked.mp4 as a b and as ü)." in caplog.messages


def test_published_data_sets_have_the_limits_of_the_config(tmp_path: Path):
    """TFDS knows their usual names and would take its own config, with the default limits, by the name."""
    storage = Storage(codec="h264", short_side=256, limits=Limits(max_seconds=60.0))
    builder = _open(BUILDERS["kinetics400"], VideoConfig(storage=storage, root=str(tmp_path)), str(tmp_path))
    assert builder.builder_config.name in BUILDERS["kinetics400"].builder_configs
    assert builder.builder_config.storage == storage


@pytest.mark.parametrize(
    ("name", "fields", "words"),
    [
        (
            "ucf101",
            {"label": "motion"},
            r"data\.name=ucf101 needs other fields of data \(.*\): use .*folder\.py:ucf101",
        ),
        ("moving_digits", {"storage": "h264"}, r"data\.name=moving_digits .*: use --config=configs/moving_digits\.py"),
    ],
)
def test_fields_of_another_data_set_are_refused(name: str, fields: dict[str, Any], words: str):
    with pytest.raises(InputError, match=words):
        open_dataset(name=name, data_dir=None, **fields)


def test_config_limits_exclude_videos(made_clips: Path, tmp_path: Path):
    with pytest.raises(InputError, match=r"Too few of the .*: it lasts 1 s or more, and max_seconds=0\.5"):
        folder(made_clips, tmp_path, limits=ConfigDict({"max_seconds": 0.5, "max_bytes": 10**9}), num_workers=1)
