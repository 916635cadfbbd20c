"""Small copies of the data sets that are published in a single form."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.datasets.trees import grow, labels, paths, write
from timesformer_jax.datasets import Listing
from timesformer_jax.datasets.layouts import (
    EXPECTED_CLASSES,
    LAYOUTS,
    read_diving48,
    read_hmdb51,
    read_howto100m,
    read_something_v2,
    read_ucf101,
)
from timesformer_jax.errors import InputError

TEMPLATES = {"Holding something next to something": "1", "Approaching something with your camera": "0"}


def something(train: list | None = None, names: str = "something-something-v2-{}.json") -> dict[str, str]:
    given = {
        "labels": TEMPLATES,
        "train": train
        or [
            {
                "id": "78687",
                "label": "holding potato",
                "template": "Holding [something] next to [something]",
                "placeholders": [],
            },
            {"id": "4", "template": "Approaching [something] with your camera"},
        ],
        "validation": [{"id": "5", "template": "Holding [something] next to [something]"}],
    }
    return {names.format(name): json.dumps(value) for name, value in given.items()}


@pytest.mark.parametrize("names", ["something-something-v2-{}.json", "labels/{}.json", "{}.json"])
def test_something_something_is_listed(tmp_path: Path, names: str):
    grow(tmp_path, "videos/78687.webm", "videos/4.mp4", "frames/5/000001.jpg", "frames/4/000001.jpg", "frames/6/000001.jpg")
    listing = read_something_v2(write(tmp_path, something(names=names)))
    assert listing.label_names == ("Approaching something with your camera", "Holding something next to something")
    assert labels(listing) == {
        "train": {"78687": listing.label_names[1], "4": listing.label_names[0]},
        "val": {"5": listing.label_names[1]},
    }
    assert paths(listing, tmp_path) == {"78687": "videos/78687.webm", "4": "videos/4.mp4", "5": "frames/5"}
    assert [entry.fps for split in listing.splits.values() for entry in split] == [None, None, 30.0]


def test_folder_without_images_is_not_a_video(tmp_path: Path):
    grow(tmp_path, "78687.webm", "4/notes.txt", "4/5.webm")  # and it is searched
    listing = read_something_v2(write(tmp_path, something()))
    assert listing.missing == {"train": {"4": "there is no such file"}}
    assert paths(listing, tmp_path)["5"] == "4/5.webm"


@pytest.mark.parametrize(
    ("lists", "words"),
    [
        (
            something([{"id": "4", "template": "Eating [something]"}]),
            r"train.json, id 4: the template 'Eating .* isn't in the file of",
        ),
        (something([{"id": "4"}]), r"train.json, entry 1: expected id, template, but template is missing"),
        (something(["4"]), r'train.json, entry 1: expected an object, got "4"'),
        (something() | {"something-something-v2-train.json": "{}"}, r"train.json: expected a list of objects, got dict"),
        (something() | {"something-something-v2-train.json": '[\n{"id": }]'}, r"train.json, line 2: expected JSON"),
        (something() | {"something-something-v2-train.json": "[" * 100_000}, r"train.json: expected a list of videos as JSON"),
        (something() | {"something-something-v2-labels.json": '{"a": "0", "b": "2"}'}, r"number its 2 names from 0 to 1"),
    ],
)
def test_malformed_something_something_is_rejected(tmp_path: Path, lists: dict[str, str], words: str):
    with pytest.raises(InputError, match=words):
        read_something_v2(write(grow(tmp_path, "4.webm"), lists))


def diving(**further: str) -> dict[str, str]:
    train = [{"vid_name": "_8Vy3dlHg2w_00000", "label": 1, "start_frame": 0, "end_frame": 187}]
    test = [{"vid_name": "-a_00001", "label": 0, "start_frame": 0, "end_frame": 9}]
    lists = {"Diving48_V2_train.json": json.dumps(train), "Diving48_V2_test.json": json.dumps(test)}
    vocab = json.dumps([["Back", "15som", "05Twis", "FREE"], ["Back", "15som", "15Twis", "FREE"]])
    return lists | {"Diving48_vocab.json": vocab} | {f"Diving48_{name}.json": text for name, text in further.items()}


def test_diving_is_listed(tmp_path: Path):
    grow(tmp_path, "rgb/_8Vy3dlHg2w_00000.mp4", "rgb/-a_00001.mp4")
    listing = read_diving48(write(tmp_path, diving()))
    assert listing.label_names == ("Back / 15som / 05Twis / FREE", "Back / 15som / 15Twis / FREE")
    assert labels(listing) == {
        "train": {"_8Vy3dlHg2w_00000": listing.label_names[1]},
        "val": {"-a_00001": listing.label_names[0]},
    }
    assert listing.splits["train"][0].end is None  # the file is already cut to the dive
    (tmp_path / "Diving48_vocab.json").unlink()
    unnamed = read_diving48(tmp_path)
    assert unnamed.label_names == tuple(map(str, range(48)))
    assert labels(unnamed)["train"] == {"_8Vy3dlHg2w_00000": "1"}


@pytest.mark.parametrize(
    ("further", "words"),
    [
        ({"V2_train": '[{"vid_name": "-a_00001", "label": 2}]'}, r"entry 1: expected a label from 0 to 1, got 2"),
        ({"V2_train": '[{"vid_name": "-a_00001", "label": "1"}]'}, r"entry 1: expected a label from 0 to 1, got '1'"),
        ({"V2_train": '[{"vid_name": "", "label": 1}]'}, r"entry 1: expected vid_name, label, but vid_name is missing"),
        ({"vocab": '["Back", "Front"]'}, r"vocab.json: expected a list with the words of each class"),
    ],
)
def test_malformed_diving_is_rejected(tmp_path: Path, further: dict[str, str], words: str):
    with pytest.raises(InputError, match=words):
        read_diving48(write(grow(tmp_path, "-a_00001.mp4"), diving(**further)))


def howto(rows: list[tuple], titles: str = "9\tMake Tea\n10\tPet a Cat, Gently\n11\tMake Tea\n12\tFly\n") -> dict[str, str]:
    text = "video_id,category_1,category_2,rank,task_id\n" + "".join(
        f'{video},"A, B",C,{rank},{task}\n' for video, rank, task in rows
    )
    return {"HowTo100M_v1.csv": text, "task_ids.csv": titles}


TASKS = [(f"{task}-{i}", i, task) for task in (9, 10, 11) for i in range(10)] + [("12-0", 0, 12)]


def test_howto100m_is_listed(tmp_path: Path):
    grow(tmp_path, *(f"videos/{video}.mp4" for video, _, _ in TASKS if video != "10-3"))
    listing = read_howto100m(write(tmp_path, howto(TASKS)), min_videos=10, val_fraction=0.3)
    assert listing.label_names == ("Make Tea (9)", "Pet a Cat, Gently", "Make Tea (11)")
    for number, name in zip((9, 10, 11), listing.label_names, strict=True):
        found = {
            split: [video for video, label in videos.items() if label == name] for split, videos in labels(listing).items()
        }
        gone = {split: [video for video in listing.missing.get(split, {}) if video.startswith("10-")] for split in found}
        assert len(found["val"]) + len(gone["val"]) * (number == 10) == 3
        assert all(video.startswith(f"{number}-") for videos in found.values() for video in videos)
    assert sum(map(len, listing.missing.values())) == 1
    # The split of a video doesn't depend on which files exist.
    (tmp_path / "videos" / "9-0.mp4").unlink()
    again = labels(read_howto100m(tmp_path, min_videos=10, val_fraction=0.3))
    assert {split: videos.keys() - {"9-0"} for split, videos in labels(listing).items()} == {
        split: videos.keys() for split, videos in again.items()
    }


def test_howto100m_video_of_two_tasks_gets_the_task_that_ranks_it_higher(tmp_path: Path):
    rows = [("a", 7, 9), ("a", 3, 10), ("b", 1, 9), ("c", 1, 9), ("d", 1, 10), ("a", 5, 9)]
    titles = '\ufefftask_id,title\r\n9,Make Tea\r\n10,"Pet a Cat, Gently"\r\n'
    listing = read_howto100m(write(grow(tmp_path, *(f"{video}.mp4" for video in "abcd")), howto(rows, titles)), min_videos=2)
    found = {video: label for videos in labels(listing).values() for video, label in videos.items()}
    assert found == {"a": "Pet a Cat, Gently", "b": "Make Tea", "c": "Make Tea", "d": "Pet a Cat, Gently"}
    assert [len(videos) for videos in listing.splits.values()] == [2, 2]


@pytest.mark.parametrize(
    ("lists", "options", "words"),
    [
        (howto(TASKS), {}, r"No task of .*HowTo100M_v1.csv has 100 videos"),
        (howto(TASKS), {"min_videos": 0}, r"min_videos must be at least 1, got 0"),
        (howto(TASKS), {"min_videos": 10, "val_fraction": 1.0}, r"val_fraction must be above 0 and below 1"),
        (howto(TASKS, "9\tMake Tea\n"), {"min_videos": 10}, r"task_ids.csv has no title for task 10"),
        (howto(TASKS, "9\tMake Tea\nten\tPet\n"), {}, r"task_ids.csv, line 2: expected a task's number"),
        (howto([*TASKS, ("a", "first", 9)]), {}, r"HowTo100M_v1.csv, line 33: expected a video_id"),
    ],
)
def test_malformed_howto100m_is_rejected(tmp_path: Path, lists: dict[str, str], options: dict, words: str):
    with pytest.raises(InputError, match=words):
        read_howto100m(write(grow(tmp_path, "9-0.mp4"), lists), **options)


def ucf(folder: str = "ucfTrainTestlist/", **lists: str) -> dict[str, str]:
    given = {
        "classInd": "1 YoYo\r\n2 HandstandPushups\r\n\r\n",
        "trainlist01": "YoYo/v_YoYo_g08_c01.avi 1\r\nHandStandPushups/v_HandStandPushups_g08_c01.avi 2\r\n",
        "testlist01": "YoYo/v_YoYo_g01_c01.avi\r\n\r\n",
        "trainlist02": "YoYo/v_YoYo_g01_c01.avi 1\n",
        "testlist02": "YoYo/v_YoYo_g08_c01.avi\n",
    }
    return {f"{folder}{name}.txt": text for name, text in (given | lists).items()}


UCF_VIDEOS = ("v_YoYo_g08_c01.avi", "v_YoYo_g01_c01.mp4", "HandstandPushups/v_HandstandPushups_g08_c01.avi")


@pytest.mark.parametrize("folder", ["", "ucfTrainTestlist/", "a/b/ucfTrainTestlist/"])
def test_ucf101_is_listed(tmp_path: Path, folder: str):
    listing = read_ucf101(write(grow(tmp_path / "UCF-101", *UCF_VIDEOS).parent, ucf(folder)))
    assert listing.label_names == ("YoYo", "HandstandPushups")
    assert labels(listing) == {
        "train": {"YoYo/v_YoYo_g08_c01.avi": "YoYo", "HandStandPushups/v_HandStandPushups_g08_c01.avi": "HandstandPushups"},
        "val": {"YoYo/v_YoYo_g01_c01.avi": "YoYo"},
    }
    assert [entry.path.name for entry in listing.splits["val"]] == ["v_YoYo_g01_c01.mp4"]
    assert labels(read_ucf101(tmp_path, fold=2))["val"] == {"YoYo/v_YoYo_g08_c01.avi": "YoYo"}


@pytest.mark.parametrize(
    ("lists", "fold", "words"),
    [
        (ucf(), 4, r"fold must be 1, 2 or 3, got 4"),
        (ucf(), 3, r"Expected the lists of the data set .*trainlist03.txt"),
        (ucf(trainlist01="YoYo/v_YoYo_g08_c01.avi 2\n"), 1, r"trainlist01.txt, line 1: expected CLASS/FILE"),
        (ucf(testlist01="\nYoyos/v_YoYo_g08_c01.avi\n"), 1, r"testlist01.txt, line 2: expected CLASS/FILE"),
        (ucf(classInd="0 YoYo\n1 HandstandPushups\n"), 1, r"classInd.txt, line 1: expected the number 1"),
    ],
)
def test_malformed_ucf101_is_rejected(tmp_path: Path, lists: dict[str, str], fold: int, words: str):
    with pytest.raises(InputError, match=words):
        read_ucf101(write(grow(tmp_path, *UCF_VIDEOS), lists), fold=fold)


ODD = "#20_(1)_brush! a&b;c_hair_u_nm_np1.avi"
HMDB = {
    "splits/brush_hair_test_split1.txt": f"{ODD} 1 \r\nb.avi 2 \r\nunused.avi 0 \r\n",
    "splits/wave_test_split1.txt": "b.avi 1 \r\nw.avi 2\r\n",
    "splits/brush_hair_test_split2.txt": "b.avi 1\n",
    "splits/wave_test_split2.txt": "w.avi 1\nb.avi 2\n",
    "splits/._wave_test_split1.txt": "\0",
}
HMDB_VIDEOS = (f"v/brush_hair/{ODD}", "v/brush_hair/b.avi", "v/brush_hair/unused.avi", "v/wave/b.avi", "v/wave/w.avi")


def test_hmdb51_is_listed(tmp_path: Path):
    listing = read_hmdb51(write(grow(tmp_path, *HMDB_VIDEOS), HMDB))
    assert listing.label_names == ("brush_hair", "wave")
    assert labels(listing) == {
        "train": {f"brush_hair/{ODD}": "brush_hair", "wave/b.avi": "wave"},
        "val": {"brush_hair/b.avi": "brush_hair", "wave/w.avi": "wave"},
    }
    assert paths(listing, tmp_path) == {name: f"v/{name}" for videos in labels(listing).values() for name in videos}
    assert labels(read_hmdb51(tmp_path, fold=2))["val"] == {"wave/b.avi": "wave"}


@pytest.mark.parametrize(
    ("further", "fold", "words"),
    [
        ({}, 0, r"fold must be 1, 2 or 3, got 0"),
        ({}, 3, r"Expected the lists of the data set .*\*_test_split3.txt"),
        (
            {"splits/wave_test_split1.txt": "b.avi 1\nw.avi\n"},
            1,
            r"wave_test_split1.txt, line 2: expected a file and 0, 1 or 2",
        ),
        ({"splits/wave_test_split1.txt": "b.avi 3\n"}, 1, r"wave_test_split1.txt, line 1: expected a file and 0, 1 or 2"),
    ],
)
def test_malformed_hmdb51_is_rejected(tmp_path: Path, further: dict[str, str], fold: int, words: str):
    with pytest.raises(InputError, match=words):
        read_hmdb51(write(grow(tmp_path, *HMDB_VIDEOS), HMDB | further), fold=fold)


def kinetics(root: Path) -> Listing:
    write(grow(root, "1.mp4"), {"train.csv": "1.mp4 0\n", "val.csv": "1.mp4 1\n"})
    return LAYOUTS["kinetics400"](root)


def video_list(root: Path) -> Listing:
    write(grow(root, "1.mp4", "2.mp4"), {"train.csv": "path,label\n1.mp4,a\n2.mp4,b\n", "val.csv": "path,label\n1.mp4,a\n"})
    return LAYOUTS["video_list"](root / "train.csv", root / "val.csv")


MINIATURES: dict[str, Callable[[Path], Listing]] = {
    "kinetics400": kinetics,
    "kinetics600": kinetics,
    "kinetics700": kinetics,
    "something_something_v2": lambda root: LAYOUTS["something_something_v2"](
        write(grow(root, "78687.webm", "5.webm"), something())
    ),
    "diving48": lambda root: LAYOUTS["diving48"](write(grow(root, "_8Vy3dlHg2w_00000.mp4", "-a_00001.mp4"), diving())),
    "howto100m": lambda root: LAYOUTS["howto100m"](
        write(grow(root, *(f"{video}.mp4" for video, _, _ in TASKS)), howto(TASKS)), min_videos=10
    ),
    "ucf101": lambda root: LAYOUTS["ucf101"](write(grow(root, *UCF_VIDEOS), ucf())),
    "hmdb51": lambda root: LAYOUTS["hmdb51"](write(grow(root, *HMDB_VIDEOS), HMDB)),
    "video_folder": lambda root: LAYOUTS["video_folder"](grow(root, "a/1.mp4", "a/2.mp4", "b/1.mp4", "b/2.mp4")),
    "video_list": video_list,
}


def test_every_layout_has_a_miniature():
    assert LAYOUTS.keys() == EXPECTED_CLASSES.keys() == MINIATURES.keys()
    assert all(
        str(number) in re.findall(r"\d+$", name) for name, number in EXPECTED_CLASSES.items() if number and number != 174
    )


@pytest.mark.parametrize("name", MINIATURES)
def test_every_layout_lists_existing_videos_and_known_labels(tmp_path: Path, name: str):
    listing = MINIATURES[name](tmp_path / "ünï cödé")
    assert {"train", "val"} <= listing.splits.keys()
    for entries in listing.splits.values():
        assert entries
        assert all(entry.path.exists() and "ünï cödé" in entry.path.parts for entry in entries)
    for entry in [entry for entries in listing.splits.values() for entry in entries]:
        assert set(entry.labels) <= set(listing.label_names)
