"""Users' own lists of videos."""

import json
from pathlib import Path

import pytest

from tests.datasets.trees import grow, labels, paths, write
from timesformer_jax.datasets import Listing
from timesformer_jax.datasets.layouts import read_video_list
from timesformer_jax.errors import InputError

VIDEOS = ("a b.mp4", "ö/c, d.mp4", "frames/1.png")


def read(root: Path, train: str, val: str, ending: str = "csv", **options) -> Listing:
    write(grow(root, *VIDEOS), {f"train.{ending}": train, f"val.{ending}": val})
    return read_video_list(root / f"train.{ending}", root / f"val.{ending}", **options)


def lines(*objects: dict) -> str:
    return "".join(json.dumps(one) + "\n" for one in objects)


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_csv_list_is_read(tmp_path: Path, end: str):
    train = end.join(["\ufefflabel,path", "run,a b.mp4", 'sit,"ö/c, d.mp4"', "", ""])
    listing = read(tmp_path, train, "path,label\na b.mp4,sit")
    assert listing.label_names == ("run", "sit")
    assert not listing.several
    assert labels(listing) == {"train": {"a b.mp4": "run", "ö/c, d.mp4": "sit"}, "val": {"a b.mp4": "sit"}}
    assert paths(listing, tmp_path) == {name: name for name in VIDEOS[:2]}


def test_jsonl_list_equals_csv(tmp_path: Path):
    train = lines(
        {"path": "a b.mp4", "label": "run"}, {"path": "ö/c, d.mp4", "label": "sit", "start": 1.5, "end": 2, "name": "x"}
    )
    listing = read(tmp_path, "\ufeff" + train + "\n", lines({"path": "a b.mp4", "label": "sit"}), "jsonl")
    assert labels(listing) == {"train": {"a b.mp4": "run", "x": "sit"}, "val": {"a b.mp4": "sit"}}
    assert (listing.splits["train"][1].start, listing.splits["train"][1].end) == (1.5, 2.0)


def test_list_with_multiple_labels(tmp_path: Path):
    listing = read(tmp_path, "path,labels\na b.mp4,sit; run;sit\nframes,\n", "path,labels\na b.mp4,run\n")
    assert listing.several
    assert listing.label_names == ("run", "sit")
    assert [entry.labels for entry in listing.splits["train"]] == [("sit", "run"), ()]
    train = lines({"path": "a b.mp4", "labels": ["sit", "run"]}, {"path": "frames", "labels": []})
    again = read(tmp_path, train, lines({"path": "a b.mp4", "labels": ["run"]}), "jsonl")
    assert again == listing


def test_list_with_segments_of_one_video(tmp_path: Path):
    listing = read(tmp_path, "path,label,start,end\na b.mp4,x,0,1.5\na b.mp4,y,1.5,3\na b.mp4,y,,\n", "path,label\na b.mp4,x")
    found = [(entry.name, entry.start, entry.end) for entry in listing.splits["train"]]
    assert found == [("a b.mp4 0-1.5", 0, 1.5), ("a b.mp4 1.5-3", 1.5, 3), ("a b.mp4", None, None)]


def test_list_with_folders_of_images(tmp_path: Path):
    grow(tmp_path, "none/.1.jpg", "none/notes.txt", "other/1.JPEG")
    train = "path,label,fps\na b.mp4,x,25\nframes,y,\nother,y,12.5\nnone,y,\n"
    listing = read(tmp_path, train, "path,label\na b.mp4,x")
    assert [entry.fps for entry in listing.splits["train"]] == [None, 30.0, 12.5]
    assert listing.missing == {"train": {"none": "there are no pictures in the folder"}}


def test_list_paths_are_relative_to_the_list_or_root(tmp_path: Path):
    grow(tmp_path / "videos", "1.mp4")
    grow(tmp_path / "lists", "2.mp4")
    train = f"path,label\n1.mp4,x\n2.mp4,y\n{tmp_path}/lists/2.mp4,y\n"
    write(tmp_path / "lists", {"train.csv": train, "val.csv": "path,label\n1.mp4,x\n"})
    files = tmp_path / "lists" / "train.csv", tmp_path / "lists" / "val.csv"
    listing = read_video_list(*files, root=tmp_path / "videos")
    assert [entry.path.relative_to(tmp_path).as_posix() for entry in listing.splits["train"]] == ["videos/1.mp4", "lists/2.mp4"]
    assert listing.missing == {"train": {"2.mp4": "there is no such file"}}
    with pytest.raises(InputError, match=r"There is no folder .*nowhere"):
        read_video_list(*files, root=tmp_path / "nowhere")


def test_list_order_of_the_classes(tmp_path: Path):
    train = "path,label\na b.mp4,10\nframes,9\n"
    assert read(tmp_path, train, "path,label\na b.mp4,9\n").label_names == ("9", "10")  # class numbers, not text
    write(tmp_path, {"names.txt": "other\n10\n9\n"})
    listing = read(tmp_path, train, "path,label\na b.mp4,other\n", labels=tmp_path / "names.txt")
    assert listing.label_names == ("other", "10", "9")
    with pytest.raises(InputError, match=r"val.csv, line 2: the label '11' isn't in .*names.txt"):
        read(tmp_path, train, "path,label\na b.mp4,11\n", labels=str(tmp_path / "names.txt"))


GOOD = "path,label\na b.mp4,run\nframes,sit\n"


@pytest.mark.parametrize(
    ("train", "val", "words"),
    [
        ("", GOOD, r"train.csv, line 1: expected a header with path, got nothing"),
        ("a b.mp4,run\n", GOOD, r"train.csv, line 1: expected a header with path, got a b.mp4, run"),
        (
            "path,class\na b.mp4,run\n",
            GOOD,
            r"train.csv, line 1: expected either label or labels in addition to path, got path, class",
        ),
        ("path,label,labels\na b.mp4,run,\n", GOOD, r"line 1: expected either label or labels in addition to path, got both"),
        ("path,label\n", GOOD, r"train.csv: expected videos below the header"),
        (GOOD + "frames,\n", GOOD, r"train.csv, line 4: expected a label, got none"),
        (GOOD + "\n,run\n", GOOD, r"train.csv, line 5: expected the path of a video"),
        (GOOD + "a, b.mp4,run\n", GOOD, r"train.csv, line 4: expected the 2 cells of the header, got 3"),
        ("path,label,start,end\na b.mp4,x,2,2\n", GOOD, r"line 2: expected a piece that ends after its start, got 2 to 2"),
        ("path,label,start,end\na b.mp4,x,nan,2\n", GOOD, r"line 2: expected a time in seconds, got 'nan'"),
        ("path,label,start\na b.mp4,x,1\n", GOOD, r"line 2: expected a start and an end"),
        ("path,label,fps\nframes,x,0\n", GOOD, r"line 2: expected fps above 0"),
        ("path,label,label\nframes,x,y\n", GOOD, r"train.csv, line 1: expected different columns, got label twice"),
        ("path,path,label\nframes,x,y\n", GOOD, r"train.csv, line 1: expected different columns, got path twice"),
        (GOOD, "path,label,FPS\nframes,run,2\n", r"val.csv, line 1: expected the column fps, got FPS: rename it"),
        (GOOD, GOOD + "frames,fly\n", r"val.csv, line 4: the label 'fly' isn't in .*train.csv"),
        (GOOD, "path,labels\nframes,run;sit\n", r"train.csv has label for each video, but .*val.csv has labels"),
        (GOOD + "frames,run\n", GOOD, r"lists frames twice, as sit and as run"),
        (GOOD, "path,label\ngone.mp4,run\n", r"None of the 1 videos .*'val' exists \(gone.mp4: there is no such file\)"),
    ],
)
def test_malformed_csv_is_rejected(tmp_path: Path, train: str, val: str, words: str):
    with pytest.raises(InputError, match=words):
        read(tmp_path, train, val)


@pytest.mark.parametrize(
    ("train", "words"),
    [
        ('\n{"path": "frames"\n', r"train.jsonl, line 2: expected JSON"),
        ('["frames", "run"]\n', r"train.jsonl, line 1: expected an object with path and label"),
        ('{"path": "frames"}\n', r"train.jsonl, line 1: expected either label or labels in addition to path, got path"),
        ('{"path": "frames", "label": null}\n', r"train.jsonl, line 1: expected text as label, got None"),
        ('{"path": "frames", "label": " "}\n', r"train.jsonl, line 1: expected a label, got none"),
        ('{"label": "run"}\n', r"train.jsonl, line 1: expected the path of a video"),
        ('{"path": "frames", "labels": "run"}\n', r"train.jsonl, line 1: expected text as labels, got 'run'"),
        ('{"path": "a b.mp4", "label": "run"}\n{"path": "frames", "labels": []}\n', r"line 2: expected label, as in the lines"),
        ("", r"train.jsonl: expected a JSON object in each line, got an empty file"),
        ('{"path": "a", "label": "run", "path": "b"}\n', r"train.jsonl, line 1: expected different keys, got path twice"),
        ('{"path": "frames", "label": "run", "begin": 1, "end": 2}\n', r"line 1: expected the column start, got begin: rename"),
    ],
)
def test_malformed_jsonl_is_rejected(tmp_path: Path, train: str, words: str):
    with pytest.raises(InputError, match=words):
        read(tmp_path, train, lines({"path": "frames", "label": "run"}), "jsonl")


@pytest.mark.parametrize(
    ("start", "end"),
    [
        ("start_time", "end_time"),
        ("Start", "End"),
        ("start_frame", "end_frame"),
        ("t-start", "t-end"),
        ("startSec", "endSec"),
        ("begin (s)", "stop (s)"),
    ],
)
def test_columns_that_look_like_those_of_segments_are_rejected(tmp_path: Path, start: str, end: str):
    for columns, wanted, got in ((f"{start},{end}", "start", start), (f"start,{end}", "end", end)):
        with pytest.raises(InputError) as raised:
            read(tmp_path, f"path,label,{columns}\na b.mp4,x,0,1\n", GOOD)
        assert f"train.csv, line 1: expected the column {wanted}, got {got}: rename it" in str(raised.value)
        assert "start and end are in seconds, so convert frame numbers" in str(raised.value)


def test_columns_that_are_not_read_are_noted(tmp_path: Path):
    train = ",path,label,source,start,end,start_frame,,\n0,a b.mp4,run,web,1,2,30,,\n1,frames,sit,,,,,,\n"
    listing = read(tmp_path, train, "path,label,source,trend\nframes,run,web,up\n")
    assert listing.notes == ("Columns that aren't read: source, start_frame, trend.",)
    assert listing.splits["train"][0].start == 1
    objects = lines({"path": "a b.mp4", "label": "run", "id": 1}, {"path": "frames", "label": "sit", "split": "a"})
    assert read(tmp_path, objects, objects, "jsonl").notes == ("Columns that aren't read: id, split.",)
    many = ",".join(f"column {number}" for number in range(11))
    (note,) = read(tmp_path, f"path,label,{many}\na b.mp4,run\nframes,sit\n", GOOD).notes
    assert note.endswith("column 8, column 9, ....")


@pytest.mark.parametrize("other", ["Run  fast", "Run\u00a0fast", "Run fast\u200b", "run fast", "\uff32un fast"])
def test_labels_that_are_alike_are_noted(tmp_path: Path, other: str):
    train = f"path,label\na b.mp4,Run fast\nframes,sit\n./a b.mp4,{other}\n"
    listing = read(tmp_path, train, "path,label\na b.mp4,sit\n")
    assert listing.label_names == tuple(sorted(["Run fast", "sit", other]))
    (note,) = listing.notes
    assert note.startswith("Labels that differ only in case, spaces or Unicode form: 1 (")
    assert "'Run fast'" in note
    with pytest.raises(
        InputError, match=r"isn't in .*train.csv. It differs from 'Run fast' only in case, spaces or .*: rename one"
    ):
        read(tmp_path, "path,label\na b.mp4,Run fast\nframes,sit\n", f"path,label\na b.mp4,{other}\n")


def test_label_that_is_listed_twice_is_named(tmp_path: Path):
    write(tmp_path, {"names.txt": "run\nsit\nrun\n"})
    with pytest.raises(InputError, match=r"The label 'run' is listed twice: remove one"):
        read(tmp_path, GOOD, GOOD, labels=tmp_path / "names.txt")


def test_files_other_than_lists_are_rejected(tmp_path: Path):
    write(tmp_path, {"train.csv": GOOD, "val.xlsx": GOOD})
    with pytest.raises(InputError, match=r"val.xlsx: expected a list with the suffix .csv or .jsonl"):
        read_video_list(tmp_path / "train.csv", tmp_path / "val.xlsx")
    with pytest.raises(InputError, match=r"Can't read .*val.csv: No such file"):
        read_video_list(tmp_path / "train.csv", tmp_path / "val.csv")
