"""`timesformer check`: the readable videos of a data set, before anything is written."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from timesformer_jax.__main__ import main
from timesformer_jax.jobs import check
from timesformer_jax.jobs.journal import Journal


def test_check_reports_unreadable_files_of_a_folder(
    tmp_path: Path, made_clips: Path, broken_clips: Path, capsys: pytest.CaptureFixture[str]
):
    shutil.copytree(made_clips, tmp_path / "clips")
    assert main(["check", str(tmp_path)]) == 0
    assert "all: 12 of 12 videos can be read." in capsys.readouterr().out
    shutil.copy(broken_clips / "empty.mp4", tmp_path / "clips" / "down" / "empty file.mp4")
    assert main(["check", str(tmp_path / "clips"), "--dataset=video_folder"]) == 1
    out = capsys.readouterr().out
    assert "can't be read: down/empty file.mp4: the file is empty" in out
    assert "seconds: 1.3 to 1.3, median 1.3" in out
    assert "short side in pixels: 48 to 48" in out
    assert main(["check", str(tmp_path / "clips"), "--json"]) == 1
    report = json.loads(capsys.readouterr().out)["all"]
    assert report["unreadable"] == {"down/empty file.mp4": "the file is empty"}
    assert report["videos"]["across/0.mp4"] == {"num_frames": 40, "fps": 30.0, "height": 48, "width": 64, "num_damaged": 0}


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere names of files must be text")
@pytest.mark.parametrize("form", [[], ["--json"]])
def test_check_prints_names_that_are_not_utf8(tmp_path: Path, form: list[str]):
    """Prints into a pipe that accepts only UTF-8."""
    Path(os.fsdecode(os.path.join(os.fsencode(tmp_path), b"caf\xe9.mp4"))).write_bytes(b"")
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8:strict"}
    done = subprocess.run(
        [sys.executable, "-m", "timesformer_jax", "check", str(tmp_path), *form],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    name = r"caf\xe9.mp4"
    assert (json.dumps(name) if form else f"can't be read: {name}: the file is empty") in done.stdout


def test_check_reports_listed_videos_that_are_missing(tmp_path: Path, made_clips: Path, capsys: pytest.CaptureFixture[str]):
    clips = [f"{label}/0.mp4" for label in ("across", "down")]
    (tmp_path / "train.csv").write_text("path,label\n" + "".join(f"{clip},{clip[:4]}\n" for clip in clips))
    (tmp_path / "val.csv").write_text("path,label\nacross/1.mp4,acro\ndown/9.mp4,down\n")
    lists = [f"--{split}={tmp_path / f'{split}.csv'}" for split in ("train", "val")]
    assert main(["check", str(made_clips), "--dataset=video_list", *lists]) == 1
    out = capsys.readouterr().out
    assert "train: 2 of 2 videos" in out
    assert "val: 1 of 2 videos" in out
    assert "can't be read: down/9.mp4: there is no such file" in out
    assert "labels without a video: down" in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["/no/such"], "There is no folder /no/such: give the one that holds the videos."),
        ([], "No FOLDER was given."),
        (["--dataset=video_list"], "--dataset=video_list needs two lists: --train=FILE.csv --val=FILE.csv."),
        (["--dataset=diving48", "--fold=2"], "--fold is for --dataset=ucf101 or --dataset=hmdb51, got --dataset=diving48."),
        (["--train=a.csv", "."], "--train is for --dataset=video_list, got no --dataset."),
    ],
)
def test_check_rejects_impossible_arguments(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]):
    assert main(["check", *arguments]) == 1
    assert capsys.readouterr().err == f"Error: {words}\n"


def test_negative_number_of_workers_is_refused(made_clips: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["check", str(made_clips), "--num-workers=-1"]) == 1
    assert "Error: num_workers must be at least 0 (one per core), got -1." in capsys.readouterr().err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a file that is always full")
def test_journal_gives_up_on_a_full_disk(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    journal = Journal("check", "full")
    monkeypatch.setattr(journal, "path", Path("/dev/full"))
    journal.begin()
    for number in range(3):
        journal.add(str(number), "finding")
    journal.close(complete=False)
    assert capsys.readouterr().err.count("Note: can't write /dev/full to resume") == 1


def test_check_reports_an_empty_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["check", str(tmp_path)]) == 1
    assert "There is no video in the folder" in capsys.readouterr().err


def test_check_accounts_for_every_file_of_a_folder(tmp_path: Path, made_clips: Path, capsys: pytest.CaptureFixture[str]):
    for name in ("1.mp4", "2.mxf", "3.dat", "Test/4.MP4", ".5.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(made_clips / "down" / "0.mp4", tmp_path / name)
    (tmp_path / "6.mp4").symlink_to("../annex/6.mp4")
    (tmp_path / "\x1b[31m7.txt").write_text("text")
    assert main(["check", str(tmp_path), "--json"]) == 1
    out, err = capsys.readouterr()
    report = json.loads(out)["all"]
    assert sorted(report["videos"]) == ["1.mp4", "2.mxf", "3.dat", "Test/4.MP4"]
    assert report["unreadable"] == {"6.mp4": "it is a broken link"}
    notes = [r"Skipped files that aren't videos: 1 (\x1b[31m7.txt).", "Skipped hidden files or folders: 1 (.5.mp4)."]
    assert err.splitlines() == notes
    assert main(["check", str(tmp_path)]) == 1
    assert capsys.readouterr().out.splitlines()[-2:] == notes


def test_check_names_videos_that_a_data_set_excludes(tmp_path: Path, made_clips: Path, capsys: pytest.CaptureFixture[str]):
    for split in ("train", "val", "test"):
        shutil.copytree(made_clips, tmp_path / split)
    for split in ("train", "val"):
        shutil.rmtree(tmp_path / split / "back")
    shutil.rmtree(tmp_path / "val" / "down")
    (tmp_path / "val" / "across" / "0.mp4").unlink()
    (tmp_path / "val" / "across" / "0.mp4").symlink_to(tmp_path / "train" / "across" / "1.mp4")
    assert main(["check", str(tmp_path), "--dataset=video_folder"]) == 0
    assert capsys.readouterr().out.splitlines()[-2:] == [
        "Skipped videos outside the folders 'train' and 'val': 12 (test/across/0.mp4, test/across/1.mp4, test/across/2.mp4, "
        "...).",
        "Videos in more than one split, so that evaluation sees what training has seen: 1 "
        "(train/across/1.mp4 = val/across/0.mp4 in train and val).",
    ]


def test_interrupted_check_resumes(
    tmp_path: Path, made_clips: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """Earlier findings are reported without reading unchanged files again, and findings are printed as they come."""
    clips = shutil.copytree(made_clips, tmp_path / "clips")
    (clips / "across" / "0.mp4").write_bytes(b"")
    original, read = check.map_in_processes, []

    def five(inspect, entries, **options):
        for entry, found in original(inspect, entries, **options):
            if len(read) == 5:
                raise KeyboardInterrupt
            read.append(entry.name)
            yield entry, found

    monkeypatch.setattr(check, "map_in_processes", five)
    assert main(["check", str(clips)]) == 130
    out, err = capsys.readouterr()
    assert out == "can't be read: across/0.mp4: the file is empty\n"
    assert "The check was stopped; run the same command to continue it." in err
    (journal,) = own_cache.rglob("*.jsonl")
    journal.write_bytes(journal.read_bytes() + b'["cut')
    (clips / read[1]).touch()

    def note(inspect, entries, **options):
        for entry, found in original(inspect, entries, **options):
            read.append(entry.name)
            yield entry, found

    monkeypatch.setattr(check, "map_in_processes", note)
    assert main(["check", str(clips)]) == 1
    out, err = capsys.readouterr()
    assert "4 of 12 videos were already checked." in err
    assert out.splitlines()[:2] == ["can't be read: across/0.mp4: the file is empty", "all: 11 of 12 videos can be read."]
    assert sorted(read[5:]) == sorted({*read[5:]}) == sorted([read[1], *({*read} - {*read[:5]})])
    assert not list(own_cache.rglob("*.jsonl"))


def test_check_names_only_ten_of_a_million_missing_videos(tmp_path: Path, made_clips: Path, capsys: pytest.CaptureFixture[str]):
    names = [f"absent/{number:03d}.mp4" for number in range(300)]
    for split in ("train", "val"):
        lines = ["path,label", "across/1.mp4,a", "down/1.mp4,b", *(f"{name},a" for name in names)]
        (tmp_path / f"{split}.csv").write_text("\n".join(lines))
    lists = [f"--{split}={tmp_path / f'{split}.csv'}" for split in ("train", "val")]
    assert main(["check", str(made_clips), "--dataset=video_list", *lists]) == 1
    out = capsys.readouterr().out
    assert out.count("absent/") == 20
    assert out.count("and 290 more listed videos that are missing; --json names all of them") == 2
    assert main(["check", str(made_clips), "--dataset=video_list", *lists, "--json"]) == 1
    assert len(json.loads(capsys.readouterr().out)["train"]["unreadable"]) == 300
