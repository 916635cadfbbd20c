"""Kinetics' official lists, and lists of paths."""

from pathlib import Path

import pytest

from tests.datasets.trees import grow, labels, paths, write
from timesformer_jax.datasets.layouts import read_kinetics
from timesformer_jax.errors import InputError

HEADER = "label,youtube_id,time_start,time_end,split,is_cc\n"
TRAIN = HEADER + 'zumba,-3B32lodo2M,12,22,train,0\n"answering, questions",_a-b_C,0,10,train,0\nzumba,_a-b_C,30,40,train,0\n'
VAL = HEADER + "zumba,9,5,15,validate,1\n"
VIDEOS = ("train/zumba/-3B32lodo2M_000012_000022.mp4", "train/_a-b_C.mkv", "val/zumba/9_000005_000015.mp4")


def test_official_lists_are_read(tmp_path: Path):
    listing = read_kinetics(write(grow(tmp_path, *VIDEOS), {"train.csv": TRAIN, "val.csv": VAL}))
    assert listing.label_names == ("answering, questions", "zumba")
    assert labels(listing) == {
        "train": {
            "-3B32lodo2M_000012_000022": "zumba",
            "_a-b_C_000000_000010": "answering, questions",
            "_a-b_C_000030_000040": "zumba",
        },
        "val": {"9_000005_000015": "zumba"},
    }
    assert paths(listing, tmp_path)["_a-b_C_000030_000040"] == "train/_a-b_C.mkv"
    assert [(entry.start, entry.end) for entry in listing.splits["train"]] == [(None, None), (0, 10), (30, 40)]
    assert [entry.perhaps_cut for entry in listing.splits["train"]] == [False, True, True]
    assert not listing.missing


def test_trimmed_segment_is_preferred_to_the_whole_video(tmp_path: Path):
    grow(tmp_path, *VIDEOS, "train/-3B32lodo2M.mp4")
    listing = read_kinetics(write(tmp_path, {"train.csv": TRAIN, "val.csv": VAL}))
    assert listing.splits["train"][0].path == tmp_path / VIDEOS[0]
    assert listing.splits["train"][0].start is None


@pytest.mark.parametrize("name", ["val.csv", "validate.csv", "validation.csv"])
@pytest.mark.parametrize("folder", ["", "annotations/", "k400/annotations/"])
def test_lists_are_searched_in_known_folders(tmp_path: Path, folder: str, name: str):
    lists = {f"{folder}train.csv": TRAIN, f"{folder}{name}": VAL}
    assert len(read_kinetics(write(grow(tmp_path, *VIDEOS), lists)).splits["val"]) == 1


def test_lists_may_have_bom_crlf_and_extra_columns(tmp_path: Path):
    train = "\ufeff" + "time_end,time_start,label,youtube_id\n22,12.0, zumba ,-3B32lodo2M\n10,0,läuft,_a-b_C\n\n\n"
    write(grow(tmp_path, *VIDEOS), {"train.csv": train.replace("\n", "\r\n"), "val.csv": VAL.replace("\n", "\r\n")})
    listing = read_kinetics(tmp_path)
    assert listing.label_names == ("läuft", "zumba")
    assert paths(listing, tmp_path)["-3B32lodo2M_000012_000022"] == VIDEOS[0]


def test_replacements_precede_the_folder_of_the_split(tmp_path: Path):
    grow(tmp_path, *VIDEOS, "replacement/replacement_for_corrupted_k400/-3B32lodo2M_000012_000022.mp4")
    grow(tmp_path, "a/9_000005_000015.mp4", "train/9_000005_000015.mp4", "train/a/_a-b_C_000000_000010.mp4")
    listing = read_kinetics(write(tmp_path, {"train.csv": TRAIN, "val.csv": VAL}))
    assert listing.splits["train"][0].path.parent.name == "replacement_for_corrupted_k400"
    assert paths(listing, tmp_path)["9_000005_000015"] == VIDEOS[2]


def test_missing_videos_are_reported(tmp_path: Path):
    train = TRAIN + "zumba,gone,1,11,train,0\n"
    listing = read_kinetics(write(grow(tmp_path, *VIDEOS), {"train.csv": train, "val.csv": VAL}))
    assert listing.missing == {"train": {"gone_000001_000011": "there is no such file"}}
    with pytest.raises(InputError, match=r"None of the 3 videos .*-3B32lodo2M_000012_000022: there is no such file"):
        read_kinetics(write(grow(tmp_path / "empty", "9.mp4"), {"train.csv": TRAIN, "val.csv": VAL}))
    with pytest.raises(InputError, match=r"None of the 1 videos .*'val' .*9_000005_000015: there is no such file"):
        read_kinetics(write(grow(tmp_path / "no val", *VIDEOS[:2]), {"train.csv": TRAIN, "val.csv": VAL}))


@pytest.mark.parametrize(
    ("test", "splits"),
    [
        ("label,youtube_id,time_start,time_end,split\nzumba,9,5,15,test\n", {"train", "val", "test"}),
        ("youtube_id,time_start,time_end,split\n9,5,15,test\n", {"train", "val"}),
        ("label,youtube_id,time_start,time_end,split\n,9,5,15,test\n", {"train", "val"}),
    ],
)
def test_test_list_without_labels_is_skipped(tmp_path: Path, test: str, splits: set[str]):
    listing = read_kinetics(write(grow(tmp_path, *VIDEOS), {"train.csv": TRAIN, "val.csv": VAL, "test.csv": test}))
    assert listing.splits.keys() == splits


@pytest.mark.parametrize(
    ("train", "words"),
    [
        (TRAIN + TRAIN.splitlines()[1], r"lists -3B32lodo2M_000012_000022 twice"),
        (TRAIN + ",9,5,15,train,0", r"train.csv, line 5: expected a label"),
        (TRAIN + "zumba,,5,15,train,0", r"train.csv, line 5: expected a youtube_id"),
        (TRAIN + "zumba,9,five,15,train,0", r"train.csv, line 5: expected a time in seconds, got 'five'"),
        (TRAIN + "zumba,9,15,5,train,0", r"train.csv, line 5: expected a piece that ends after its start, got 15 to 5"),
        (TRAIN + "zumba, running,9,5,15,train,0", r"train.csv, line 5: expected the 6 cells of the header, got 7"),
        (TRAIN + '"zumba,9,5,15,train,0', r"train.csv, line 5: expected comma separated cells"),
        (
            "label,youtube_id,time_start\nzumba,9,5\n",
            r"train.csv, line 1: expected a header with time_end, got label, youtube_id",
        ),
        ("a.mp4 0\n", r"of one form.*only one of"),
        (HEADER + "zumba,9,5,15,train,0\n", r"two different labels or more, got zumba"),
    ],
)
def test_malformed_official_lists_are_rejected(tmp_path: Path, train: str, words: str):
    write(grow(tmp_path, *VIDEOS), {"train.csv": train, "val.csv": VAL})
    with pytest.raises(InputError, match=words):
        read_kinetics(tmp_path)


def test_each_list_is_found_once(tmp_path: Path):
    with pytest.raises(InputError, match=r"There is no folder"):
        read_kinetics(tmp_path / "none")
    with pytest.raises(InputError, match=r"Expected the lists .* train.csv or train.txt; val.csv or validate.csv"):
        read_kinetics(write(tmp_path, {"train.csv": TRAIN}))
    write(tmp_path, {f"k{number}/{name}": TRAIN for number in (400, 600) for name in ("train.csv", "val.csv")})
    with pytest.raises(InputError, match=r"lists of one data set in .*k400 and in .*k600"):
        read_kinetics(tmp_path)


def test_binary_lists_are_rejected(tmp_path: Path):
    write(tmp_path, {"val.csv": VAL})
    (tmp_path / "train.csv").write_bytes(TRAIN.encode() + b"caf\xe9,9,5,15,train,0\n")
    with pytest.raises(InputError, match=r"train.csv, line 5: expected text in UTF-8, got the byte 0xe9"):
        read_kinetics(tmp_path)


PATHS = ("a b/1.mp4", "ä, ö/2.mp4", "c/3.mp4")


@pytest.mark.parametrize("separator", [" ", ",", "\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_lists_of_paths_are_read(tmp_path: Path, separator: str, end: str):
    train = end.join(f"{path}{separator}{label}" for path, label in zip(PATHS, "020", strict=True)) + end + end
    listing = read_kinetics(
        write(grow(tmp_path, *PATHS), {"train.csv": "\ufeff" + train, "val.csv": f"{PATHS[0]}{separator}1"})
    )
    assert listing.label_names == ("0", "1", "2")
    assert labels(listing) == {"train": dict(zip(PATHS, "020", strict=True)), "val": {PATHS[0]: "1"}}
    assert paths(listing, tmp_path) == {path: path for path in PATHS}


def test_lists_may_have_commas_in_every_path(tmp_path: Path):
    listing = read_kinetics(write(grow(tmp_path, "a, b.mp4"), {"train.csv": "a, b.mp4 0\n", "val.csv": "a, b.mp4 1\n"}))
    assert labels(listing) == {"train": {"a, b.mp4": "0"}, "val": {"a, b.mp4": "1"}}


def test_lists_may_have_names_as_labels(tmp_path: Path):
    lists = {"train.csv": 'c/3.mp4,class 3\n"ä, ö/2.mp4",class 1\n', "val.csv": 'a b/1.mp4,"class 1"\n'}
    listing = read_kinetics(write(grow(tmp_path, *PATHS), lists))
    assert listing.label_names == ("class 1", "class 3")
    assert labels(listing) == {"train": {PATHS[2]: "class 3", PATHS[1]: "class 1"}, "val": {PATHS[0]: "class 1"}}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("labels.txt", "run\nanswer, question\n"),
        ("classes.txt", "run\r\nanswer, question\r\n"),
        ("labels.json", '["run", "answer, question"]'),
        ("labels.json", '{"answer, question": 1, "run": 0}'),
        ("labels.json", '{"1": "answer, question", "0": "run"}'),
    ],
)
def test_class_name_files_map_numbers_to_names(tmp_path: Path, name: str, text: str):
    lists = {"lists/train.csv": "1.mp4 1\n", "lists/val.csv": "1.mp4 0\n", f"lists/{name}": text}
    listing = read_kinetics(write(grow(tmp_path, "1.mp4"), lists))
    assert listing.label_names == ("run", "answer, question")
    assert labels(listing) == {"train": {"1.mp4": "answer, question"}, "val": {"1.mp4": "run"}}


def test_list_paths_are_relative_to_the_list_or_root(tmp_path: Path):
    grow(tmp_path, "root/at_root.mp4", "root/lists/beside.mp4", "elsewhere/absolute.mp4", "root/lists/at_root.mp4")
    train = f"at_root.mp4 0\nbeside.mp4 1\n{tmp_path}/elsewhere/absolute.mp4 0\ngone.mp4 1\n"
    listing = read_kinetics(write(tmp_path / "root", {"lists/train.csv": train, "lists/val.csv": "beside.mp4 1\n"}))
    found = [entry.path.relative_to(tmp_path).as_posix() for entry in listing.splits["train"]]
    assert found == ["root/at_root.mp4", "root/lists/beside.mp4", "elsewhere/absolute.mp4"]
    assert listing.missing == {"train": {"gone.mp4": "there is no such file"}}


def test_lists_of_bare_ids_are_read(tmp_path: Path):
    grow(tmp_path, "train/-a_b/-3B32lodo2M.mp4", "x/_b_000001_000011.mp4", "x/_c_000001_000011.mp4", "x/_c_000021_000031.mp4")
    listing = read_kinetics(write(tmp_path, {"train.csv": "-3B32lodo2M 0\n_b 1\n_c 1\n", "val.csv": "_b 1\n"}))
    assert paths(listing, tmp_path) == {"-3B32lodo2M": "train/-a_b/-3B32lodo2M.mp4", "_b": "x/_b_000001_000011.mp4"}
    assert listing.missing["train"].keys() == {"_c"}  # it could be either of the two segments


def test_same_name_in_another_folder_is_another_video(tmp_path: Path):
    listing = read_kinetics(write(grow(tmp_path, "b/1.mp4"), {"train.csv": "a/1.mp4 0\nb/1.mp4 1\n", "val.csv": "b/1.mp4 1\n"}))
    assert listing.missing == {"train": {"a/1.mp4": "there is no such file"}}


def test_folder_of_images_in_a_list_is_reported(tmp_path: Path):
    listing = read_kinetics(write(grow(tmp_path, "1.mp4", "2/1.jpg"), {"train.csv": "1.mp4 0\n2 1\n", "val.csv": "1.mp4 1\n"}))
    assert "can be listed as a video_list" in listing.missing["train"]["2"]


@pytest.mark.parametrize(
    ("train", "words"),
    [
        ("1.mp4 0\n2.mp4\n", r"train.csv, line 2: expected a path and the number of its label, got '2.mp4'"),
        ("1.mp4,0\n2.mp4,\n", r"train.csv, line 2: expected a path and the number"),
        ("path,label\n1.mp4,0\n", r"train.csv, line 1: expected a path and the number"),
        ("1.mp4 run\n2.mp4 sit\n", r"train.csv, line 1: expected a path and the number"),
        ("1.mp4\trun\n2.mp4\t\n", r"train.csv, line 2: expected a path, a comma or tab, and a label"),
        ("1.mp4,run\n2.mp4\n", r"train.csv, line 2: expected a path, a comma or tab, and a label, got '2.mp4'"),
        ('1.mp4,0\n"2.mp4,0\n', r"train.csv, line 2: expected a path and a label"),
        ("1.mp4,run\n2.mp4,sit\n", r"all lists in .* numbers as labels, or all to have names"),
        ("1.mp4 0\n1.mp4 1\n", r"lists 1.mp4 twice, as run and as sit"),
        ("1.mp4 0\n2.mp4 2\n", r"train.csv, line 2: expected a label below 2.*labels.txt, got 2"),
        ("\n\n", r"train.csv: expected a path and a label in each line, got an empty file"),
    ],
)
def test_malformed_lists_of_paths_are_rejected(tmp_path: Path, train: str, words: str):
    write(grow(tmp_path, "1.mp4", "2.mp4"), {"train.csv": train, "val.csv": "1.mp4 0\n", "labels.txt": "run\nsit\n"})
    with pytest.raises(InputError, match=words):
        read_kinetics(tmp_path)
