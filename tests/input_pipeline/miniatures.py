"""Small copies of data sets with real videos, and preparation of a folder of them."""

import json
import shutil
from pathlib import Path
from typing import Any

from input_pipeline import open_dataset
from input_pipeline._tensorflow import tf
from tests.support import moving_square, write_video


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
"""Maps each data set to a function that writes a small copy of it with real videos."""

OPTIONS = {"storage": "h264", "short_side": 16, "max_fps": None, "num_workers": 0}


def folder(root: Path, data_dir: Path, **changes: Any):
    options = {"val_fraction": 0.3, "storage": "jpeg", "short_side": 32, "max_fps": None, "num_workers": 0, **changes}
    return open_dataset(name="video_folder", root=str(root), data_dir=str(data_dir), **options)
