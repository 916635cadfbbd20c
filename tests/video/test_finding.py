"""Search for videos in a folder, and the tally of all other files."""

import os
import re
import shutil
import sys
from pathlib import Path

import pytest

from tests.datasets.trees import grow, write
from timesformer_jax.video import FolderContents, finding

PICTURE = b"\x89PNG\r\n\x1a\n" + b"\0" * 64


def kinds(contents: FolderContents) -> dict[str, tuple[int, str]]:
    """Count and examples of each kind of skipped file."""
    found = (re.fullmatch(r"Skipped (.+): (\d+) \((.+)\)\.", note) for note in contents.notes)
    return {match[1]: (int(match[2]), match[3]) for match in found if match}


@pytest.fixture(scope="module")
def clip(made_clips: Path) -> Path:
    return made_clips / "down" / "0.mp4"


def test_files_of_unknown_suffixes_are_videos_if_ffmpeg_finds_one(tmp_path: Path, clip: Path):
    videos = ["a.dat", "b", "c.MP4 ", "d.2021", "e.odd", "f.MXF", "..."]
    for name in videos:
        shutil.copy(clip, tmp_path / name)
    shutil.copy(clip, tmp_path / "known.txt")
    write(
        tmp_path, {"notes": "some text", "readme.unknown": "text", "list.foo": "#EXTM3U\n#EXTINF:1,\na.dat\n", "empty.foo": ""}
    )
    write(tmp_path, {"concat.bar": "ffconcat version 1.0\nfile a.dat\n", "x.JSON": "{}"})
    (tmp_path / "picture.foo").write_bytes(PICTURE)
    (tmp_path / "noise.foo").write_bytes(bytes(range(256)) * 8)
    contents = FolderContents(tmp_path)
    assert [path.name for path in contents.videos] == sorted(videos)
    (skipped,) = kinds(contents).items()
    assert skipped == (finding.NO_VIDEO, (9, "known.txt, x.JSON, notes, ..."))


def test_copies_of_videos_are_skipped(tmp_path: Path, clip: Path):
    copies = ("1.mp4.part", "2.MP4.CRDOWNLOAD", "3.tmp", "4.mp4.bak", "5.LRV", "6.mp4~", "~")
    for name in ("~1.mp4", *copies):
        shutil.copy(clip, tmp_path / name)
    contents = FolderContents(tmp_path)
    assert [path.name for path in contents.videos] == ["~1.mp4"]
    assert kinds(contents) == {finding.COPIES: (len(copies), "1.mp4.part, 2.MP4.CRDOWNLOAD, 3.tmp, ...")}


def test_other_files_are_counted_by_kind(tmp_path: Path):
    root = grow(tmp_path / "root", "a/1.mp4", ".git/2.mp4", "a/.3.mp4", "a/\x1b[31m.txt")
    (root / "a" / "gone.mp4").symlink_to("../../annex/gone.mp4")
    (root / "a" / "gone.txt").symlink_to("nowhere.txt")
    (root / "a" / "loop").symlink_to("loop")
    (root / "a" / "back").symlink_to(root)
    (root / "0 linked").symlink_to(root / "a")
    os.mkfifo(root / "a" / "pipe.mp4")
    contents = FolderContents(root)
    assert contents.videos == [root / "a" / "1.mp4"]
    assert contents.broken_links == ["a/gone.mp4", "a/loop"]
    assert kinds(contents) == {
        finding.HIDDEN: (2, ".git, a/.3.mp4"),
        finding.NO_VIDEO: (2, r"a/\x1b[31m.txt, a/gone.txt"),
        finding.SPECIAL: (1, "a/pipe.mp4"),
        finding.SEEN: (2, "0 linked, a/back"),
        finding.BROKEN_LINKS: (2, "a/gone.mp4, a/loop"),
    }


@pytest.mark.parametrize(("are_videos", "num_videos", "num_skipped"), [(False, 1, 70), (True, 61, 30)])
def test_few_files_of_unknown_suffixes_are_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, are_videos: bool, num_videos: int, num_skipped: int
):
    opened: list[str] = []
    monkeypatch.setattr(finding, "_holds_video", lambda path: not opened.append(path) and are_videos)
    monkeypatch.setattr(finding, "MAX_PROBES", 20)
    grow(tmp_path, "1.mp4", "2.jpg", *(f"{number}.{suffix}" for suffix in ("one", "three", "two") for number in range(30)))
    contents = FolderContents(tmp_path)
    assert len(opened) == 20
    assert len(contents.videos) == num_videos
    assert kinds(contents)[finding.NOT_PROBED][0] == num_skipped


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere names of files must be text")
def test_names_that_are_not_utf8_are_found(tmp_path: Path):
    name = os.fsdecode(b"caf\xe9\n.mp4")
    grow(tmp_path, name, "." + name)
    contents = FolderContents(tmp_path)
    assert [path.name for path in contents.videos] == [name]
    assert kinds(contents) == {finding.HIDDEN: (1, r".caf\xe9\n.mp4")}
