"""Interrupted and killed preparations, full disks, and files that change in between."""

import contextlib
import errno
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from etils import epath

from input_pipeline import SharePrepared, builders, open_dataset, preparation, shares
from input_pipeline.builders import BUILDERS
from tests.input_pipeline.miniatures import OPTIONS, folder, make_kinetics
from tests.support import moving_square, write_video
from timesformer_jax import run_lock
from timesformer_jax.datasets.storing import Labelled, write_records
from timesformer_jax.errors import InputError
from timesformer_jax.state_files import write_json

ROOT = Path(__file__).parent.parent.parent


def test_interrupted_preparation_resumes(tmp_path: Path, made_clips: Path, monkeypatch: pytest.MonkeyPatch):
    """Complete record files are kept whatever happens to the next one, and the result is that of an uninterrupted run."""
    whole = folder(made_clips, tmp_path / "whole")
    monkeypatch.setattr(preparation, "PART_BYTES", 1)  # a record file per video
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
    third.write_bytes(third.read_bytes()[:-1])  # as after a failure of the disk
    del read[2:]
    monkeypatch.setattr(preparation, "_prepared", note)
    parts = folder(made_clips, tmp_path / "parts")
    assert len(read) == len(set(read)) == 12
    assert parts.builder.info.splits["train"].num_shards == 9
    for split in ("train", "val"):
        assert [bytes_of(record) for record in parts.records(split)] == [bytes_of(record) for record in whole.records(split)]
    assert not list((tmp_path / "parts").rglob("*.json.part")) + list((tmp_path / "parts").rglob(".unfinished*"))


@pytest.mark.parametrize("change", ["classes", "file"])
def test_resumed_preparation_rewrites_record_files_of_changed_sources(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
):
    """A new class shifts the label numbers that records hold; a replaced file is another file."""
    make_kinetics(tmp_path / "videos")
    options = {**OPTIONS, "storage": "jpeg", "root": str(tmp_path / "videos"), "data_dir": str(tmp_path / "prepared")}
    with monkeypatch.context() as patch:
        patch.setattr(BUILDERS["kinetics400"], "_check_readable", interrupt)
        with pytest.raises(KeyboardInterrupt):
            open_dataset(name="kinetics400", **options)
    assert list((tmp_path / "prepared").rglob("00000.tfrecord"))
    if change == "classes":
        with open(tmp_path / "videos/train.csv", "a") as file:
            file.write("archery,none,0,10,train\n")
    else:
        path = tmp_path / "videos/val/häns_000003_000013.mkv"
        write_video(path, moving_square(0, 5, num_frames=7))
    data = open_dataset(name="kinetics400", **options)
    (record,) = list(data.records("val"))
    assert data.label_names[int(data.encode_label(record.features.feature))] == "walking"
    assert len(record.features.feature["video"].bytes_list.value) == (12 if change == "classes" else 7)


def test_shares_give_the_same_data_as_a_single_preparation(tmp_path: Path, made_clips: Path, monkeypatch: pytest.MonkeyPatch):
    """Shares can be written in any order on any machine; missing ones are added at the end, and none is made twice."""
    whole = folder(made_clips, tmp_path / "whole")
    monkeypatch.setattr(preparation, "PART_BYTES", 1)
    made: list[str] = []

    def note(entries, **options):
        for entry, result in original(entries, **options):
            made.append(entry.name)
            yield entry, result

    original = preparation._prepared
    monkeypatch.setattr(preparation, "_prepared", note)
    for shard in ("3/3", "1/3", "1/3"):
        with pytest.raises(SharePrepared, match=f"The share {shard} is prepared in .*Once all 3 are"):
            folder(made_clips, tmp_path / "shares", shard=shard)
        assert not list(tmp_path.glob("shares/**/dataset_info.json"))
    assert len(made) == 8
    shares = folder(made_clips, tmp_path / "shares")
    assert len(made) == len(set(made)) == 12
    for split in ("train", "val"):
        assert [bytes_of(record) for record in shares.records(split)] == [bytes_of(record) for record in whole.records(split)]
        assert shares.facts(split, "name").tolist() == whole.facts(split, "name").tolist()
    assert not list((tmp_path / "shares").rglob(".unfinished*")) + list((tmp_path / "shares").rglob("*.lock"))


@pytest.mark.parametrize(
    ("held", "wanted", "words"),
    [
        ("share_1_of_2", "1/2", r"is preparing the share 1/2 of"),
        ("share_1_of_2", None, r"is preparing .*share_1_of_2\.lock"),
        ("", "1/2", r"is preparing .*"),
        ("share_1_of_2", "2/2", ""),
    ],
)
def test_share_is_prepared_by_one_process(tmp_path: Path, held: str, wanted: str | None, words: str):
    lock = tmp_path / f".2.0.0{'.' * bool(held)}{held}.lock"
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        holder = {**run_lock._me(), "pid": other.pid, "started": run_lock._started(other.pid), "since": "now", "token": "other"}
        write_json(lock, holder)
        expected = pytest.raises(InputError, match=words) if words else contextlib.nullcontext()
        with expected, shares.alone(tmp_path / "2.0.0", shares.Share.parse(wanted)):
            pass
        other.kill()
    assert [path.name for path in tmp_path.iterdir()] == [lock.name]


@pytest.mark.parametrize("shard", ["0/3", "4/3", "3", "a/b", ""])
def test_impossible_shares_are_rejected(shard: str):
    with pytest.raises(InputError, match=r"data\.shard must be like '3/16'"):
        shares.Share.parse(shard)


def interrupt(*arguments: Any) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("note", ["", '{"end": 1, "pla', "[]", "{}"])
def test_record_file_with_a_damaged_note_is_incomplete(tmp_path: Path, note: str):
    part = preparation.Part(epath.Path(tmp_path), 0)
    part.records.write_bytes(b"")
    part.finish()
    assert part.read()
    (tmp_path / "00000.json").write_text(note)
    assert not part.read()


def test_killed_preparation_resumes(tmp_path: Path, made_clips: Path):
    """Runs the command with a record file per video and kills it while it writes."""
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


def test_data_set_is_prepared_by_one_process(tmp_path: Path, made_clips: Path):
    """The other process fails with a clear error and does no harm."""
    builder = folder(made_clips, tmp_path / "elsewhere").builder
    name = builder.builder_config.name
    lock = tmp_path / "data" / "video_folder" / name / f".{builder.version}.lock"
    lock.parent.mkdir(parents=True)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        holder = {**run_lock._me(), "pid": other.pid, "started": run_lock._started(other.pid), "since": "now", "token": "other"}
        write_json(lock, holder)
        with pytest.raises(InputError, match=f"Another process is preparing .*{name}.*: process {other.pid} on .*, since now"):
            folder(made_clips, tmp_path / "data")
        other.kill()
    assert folder(made_clips, tmp_path / "data").num_videos("train") == 9


def test_full_disk_is_a_clear_error_and_the_next_attempt_resumes(
    tmp_path: Path, made_clips: Path, monkeypatch: pytest.MonkeyPatch
):
    def fail(*arguments: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(preparation.shutil, "copyfileobj", fail)
        with pytest.raises(
            InputError, match=r"failed with 0 of 9 videos done: the disk is full; free some .* again. Finished parts are kept."
        ):
            folder(made_clips, tmp_path)
    usage = shutil.disk_usage(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(preparation, "ENTRIES_BEFORE_A_FORECAST", 2)
        patch.setattr(preparation.shutil, "disk_usage", lambda path: usage._replace(free=1000))
        with pytest.raises(InputError, match=r"The 7 videos that are left need about 0\.0 GB more, .* has 0\.0 GB left"):
            folder(made_clips, tmp_path)
    assert not list(tmp_path.rglob("dataset_info.json"))
    assert folder(made_clips, tmp_path).num_videos("train") == 9


def test_forecast_counts_what_the_other_shares_have_left(tmp_path: Path, made_clips: Path, monkeypatch: pytest.MonkeyPatch):
    """A late share needs room for itself, not for those that are done."""
    for shard in ("2/3", "3/3"):
        with pytest.raises(SharePrepared):
            folder(made_clips, tmp_path, shard=shard)
    usage = shutil.disk_usage(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(preparation, "ENTRIES_BEFORE_A_FORECAST", 1)
        patch.setattr(preparation.shutil, "disk_usage", lambda path: usage._replace(free=0))
        with pytest.raises(InputError, match="The 2 videos that are left need"):  # of three
            folder(made_clips, tmp_path, shard="1/3")
    with pytest.raises(SharePrepared):
        folder(made_clips, tmp_path, shard="1/3")


def without_descriptors(video: Labelled, **options: Any) -> Any:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        return write_records(video, **options)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def remove_video(video: Labelled, **options: Any) -> Any:
    if video.entry.path.parts[-2:] == ("down", "1.mp4"):
        os.remove(video.entry.path)
    return write_records(video, **options)


def remove_folder(video: Labelled, **options: Any) -> Any:
    shutil.rmtree(video.entry.path.parent)
    return write_records(video, **options)


@pytest.mark.filterwarnings("ignore:A worker was restarted while some jobs")  # by loky, for the memory of its first imports
def test_failed_read_stops_the_preparation(tmp_path: Path, made_clips: Path, monkeypatch: pytest.MonkeyPatch):
    """A missing file loses only itself; lack of descriptors or an unmounted disk never skips a video."""
    clips = shutil.copytree(made_clips, tmp_path / "clips")
    with monkeypatch.context() as patch:
        patch.setattr(preparation, "write_records", without_descriptors)
        with pytest.raises(
            InputError,
            match=r"^Can't read .*mp4: this process has reached its limit .* stopped with 0 of 9 videos done; the same",
        ):
            folder(clips, tmp_path / "data", num_workers=1)
    assert not list(tmp_path.rglob("dataset_info.json"))
    with monkeypatch.context() as patch:
        patch.setattr(preparation, "write_records", remove_folder)
        with pytest.raises(InputError, match=r"^The folder .* is gone: is its disk"):
            folder(shutil.copytree(made_clips, tmp_path / "others"), tmp_path / "data", num_workers=1)
    monkeypatch.setattr(preparation, "write_records", remove_video)
    data = folder(clips, tmp_path / "data", num_workers=1)
    left_out = {name: reason for split in data.left_out.values() for name, reason in split.items()}
    assert left_out == {"down/1.mp4": "No such file or directory"}
    assert data.num_videos("train") + data.num_videos("val") == 11


def test_read_only_folder_is_a_clear_error(tmp_path: Path, made_clips: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(*arguments: Any, **options: Any) -> None:
        raise PermissionError(13, "Permission denied", str(tmp_path))

    monkeypatch.setattr(builders.VideoFolder, "download_and_prepare", refuse)
    with pytest.raises(InputError, match=r"can't be prepared in .*: permission is denied"):
        folder(made_clips, tmp_path / "data")


def bytes_of(record: Any) -> bytes:
    return record.SerializeToString(deterministic=True)
