"""Facts of records without reading them, and the lists of skipped videos."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from input_pipeline import ClipOptions, VideoDataset, clips, left_out, open_dataset
from input_pipeline.facts import facts_of_example, facts_path, make_facts, read_facts
from input_pipeline.left_out import LeftOut, read_left_out, write_left_out
from input_pipeline.records import Records
from tests.input_pipeline.miniatures import OPTIONS, folder, make_kinetics
from timesformer_jax.errors import InputError

TILED = ClipOptions(num_frames=2, crop_size=24, sampling="uniform", sampling_rate=2.0, short_side=(24, 30), placement="tiled")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory, made_clips: Path) -> VideoDataset:
    return folder(made_clips, tmp_path_factory.mktemp("facts"))


def again(data: VideoDataset) -> VideoDataset:
    return dataclasses.replace(data)  # without cached facts


def refuse_to_read(*arguments):
    raise AssertionError("a record was read")


@pytest.mark.parametrize("older", ["", "no file", "damaged", "of other records"])
def test_facts_match_the_records(prepared: VideoDataset, monkeypatch: pytest.MonkeyPatch, older: str):
    """Data of older versions lack facts, which are then made once from the records."""
    path = facts_path(prepared.builder.data_path, "train")
    whole = path.read_bytes()
    if older == "no file":
        path.unlink()
    elif older == "damaged":
        path.write_bytes(whole[:200] + b"\x01" + whole[201:])
    elif older:
        path.write_bytes(facts_path(prepared.builder.data_path, "val").read_bytes())
    data = again(prepared)
    if older:
        data.facts("train", "name")
        assert read_facts(path.parent, "train", data.records("train").fingerprint) is not None
    monkeypatch.setattr(Records, "read", refuse_to_read)
    data = again(prepared)
    names, frames = data.facts("train", "name"), data.facts("train", "num_frames")
    monkeypatch.undo()
    expected = make_facts(facts_of_example(record) for record in data.records("train"))
    assert names.tolist() == expected.scalars("name").tolist()
    assert frames.tolist() == expected.scalars("num_frames").tolist() == [40] * 9
    for name in ("fps", "height", "width", "part", "label"):
        assert np.array_equal(data.facts("train", name), expected.scalars(name))
    chosen = dataclasses.replace(data, chosen=("train", (4, 2)), most_videos=1)
    assert chosen.facts("train", "name").tolist() == [names[4]]


def test_tiled_views_read_no_records(prepared: VideoDataset, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Records, "read", refuse_to_read)
    assert clips._tiles(again(prepared), "val", TILED).tolist() == [10] * 3  # 40 frames in clips of 2 x 2


def test_long_lists_of_skipped_videos_are_abbreviated(tmp_path: Path):
    """The full list is read only on demand."""
    make_kinetics(tmp_path / "videos")
    with open(tmp_path / "videos/train.csv", "a") as file:
        file.writelines(f"walking,absent{number:04d},0,10,train\n" for number in range(1000))
    data = open_dataset(name="kinetics400", root=str(tmp_path / "videos"), **OPTIONS, data_dir=str(tmp_path / "prepared"))
    lines = data.describe_left_out()
    assert len(lines) == 11
    assert lines[0] == "Skipped gone_000000_000010 of 'train': there is no such file."
    path = Path(data.builder.data_path) / left_out.FILE
    assert lines[-1] == f"991 more of 'train' are skipped; all are listed in {path}."
    assert data.num_left_out == {"train": 1001, "val": 0}
    assert len(json.loads((path.parent / "metadata.json").read_text())["left_out"]["train"]) == 10
    assert len(data.left_out["train"]) == 1001
    path.write_bytes(path.read_bytes()[:-20])
    assert again(data).num_left_out == {"train": 1001, "val": 0}
    with pytest.raises(InputError, match=r"left_out\.json\.gz is damaged .*: delete .* to prepare the data again"):
        _ = again(data).left_out


def test_skipped_videos_of_older_versions_are_read_from_the_metadata(tmp_path: Path):
    found = LeftOut({"train": {"a": "why", "ü": "why"}, "val": {}}, {"b": 2})
    assert read_left_out(tmp_path, {"left_out": found.videos, "damaged": found.damaged}) == found
    metadata = write_left_out(tmp_path, found)
    assert read_left_out(tmp_path, metadata) == found
