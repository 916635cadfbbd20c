"""Code shared by the jobs over videos: decoding ahead, and scoring clips as they come."""

import shutil
import threading
from pathlib import Path

import jax
import numpy as np
import pytest

import timesformer_jax as tsf
from tests.support import random_variables
from timesformer_jax.__main__ import main
from timesformer_jax.features import ShardRows
from timesformer_jax.jobs import explain
from timesformer_jax.jobs.videos import ahead, find_files, prepared
from timesformer_jax.video import Clip, Limits

PREPROCESS = tsf.Preprocess(num_frames=2, crop_size=16, sampling_rate=2.0, placement="tiled")
VIEWS = {"num_clips": 1, "num_crops": 3, "limits": Limits()}


@pytest.fixture(scope="module")
def pretrained() -> tsf.Pretrained:
    model = tsf.TimeSformer(3, image_size=16, patch_size=8, num_frames=2, embed_dim=24, depth=1, num_heads=3)
    return tsf.Pretrained(model, random_variables(model)["params"], PREPROCESS)


def test_prefetch_is_bounded():
    made, asked = [], threading.Semaphore(0)

    def items():
        for number in range(100):
            made.append(number)
            asked.release()
            yield number

    coming = ahead(items(), 2)
    assert next(coming) == 0
    for _ in range(3):
        asked.acquire()
    coming.close()
    assert made == [0, 1, 2]


def test_what_a_folder_has_besides_videos_is_named(tmp_path: Path, made_clips: Path, capsys: pytest.CaptureFixture[str]):
    """A link that leads nowhere may have been a video: it counts as one that can't be read."""
    shutil.copy(next(made_clips.rglob("*.mp4")), tmp_path / "a.mp4")
    (tmp_path / "b.mp4").symlink_to(tmp_path / "unfetched.mp4")
    (tmp_path / "notes.txt").write_text("")
    assert list(find_files([str(tmp_path)])) == [tmp_path / "a.mp4", tmp_path / "b.mp4"]
    assert capsys.readouterr().err == f"Note: {tmp_path}: Skipped files that aren't videos: 1 (notes.txt).\n"


def test_every_video_yields_clips_or_an_error(made_clips: Path, broken_clips: Path):
    good = sorted(made_clips.rglob("*.mp4"))[:2]
    found = []
    for path, clips in prepared(PREPROCESS, [good[0], broken_clips / "empty.mp4", good[1], good[0]], **VIEWS):
        if len(found) == 2:
            next(clips)  # the others are untouched
            found.append(None)
            continue
        try:
            found.append(np.concatenate([clip.views for clip in clips]))
        except tsf.InputError as error:
            found.append(str(error))
        assert path
    np.testing.assert_array_equal(found[0], PREPROCESS(good[0]))
    assert "the file is empty" in found[1]
    np.testing.assert_array_equal(found[3], found[0])


@pytest.mark.parametrize(("num_clips", "num_crops"), [(1, 3), (4, 1), (7, 1)])
def test_incremental_scores_equal_batch_scores(pretrained: tsf.Pretrained, num_clips: int, num_crops: int):
    views = np.random.default_rng(0).normal(size=(num_clips, num_crops, 2, 16, 16, 3)).astype(np.float32)
    clips = [Clip(number, num_clips, 0.0, each) for number, each in enumerate(views)]
    flat = views.reshape(-1, *views.shape[2:])
    at_once = max(count for count in range(1, 5) if len(flat) % count == 0)
    parts = [jax.nn.softmax(pretrained(part)) for part in np.split(flat, len(flat) // at_once)]
    expected = np.concatenate(parts).mean(axis=0)
    scores, num_views = pretrained.clip_scores(clips)
    np.testing.assert_array_equal(scores, expected)
    assert num_views == len(flat)
    np.testing.assert_array_equal(pretrained.view_scores(flat), expected)
    again = [Clip(0, 9, 0.0, views[0] + 1), *clips]  # the video turned out to have a different number of frames
    np.testing.assert_array_equal(pretrained.clip_scores(again)[0], expected)


def test_shard_rows_drop_a_video():
    rows, values = ShardRows("float32"), np.ones((2, 4), np.float32)
    for name, number in (("a", 2), ("b", 3)):
        for clip in range(number):
            rows.add_clip(name, values * clip, seconds=clip, label=1)
    rows.drop_video("c")
    rows.drop_video("b")
    rows.add_clip("b", 5 * values, seconds=7.0, label=2)
    arrays = rows.arrays()
    assert arrays["names"].tolist() == ["a", "b"]
    assert arrays["labels"].tolist() == [1, 2]
    assert arrays["video"].tolist() == [0, 0, 0, 0, 1, 1]
    assert arrays["clip"].tolist() == [0, 0, 1, 1, 0, 0]
    assert arrays["values"][-1].tolist() == [5.0] * 4


@pytest.mark.parametrize(
    ("job", "limit", "words"),
    [
        ("predict", "--max-seconds=1", "max_seconds=1"),
        ("features", "--max-bytes=99", "max_bytes=99"),
        ("explain", "--max-pixels=9", "64 x 48"),
        ("check", "--max-seconds=1", "max_seconds=1"),
    ],
)
def test_jobs_over_videos_apply_limits(
    pretrained: tsf.Pretrained,
    made_clips: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    job: str,
    limit: str,
    words: str,
):
    tsf.save(pretrained, tmp_path / "own")
    folder = tmp_path / "videos"
    folder.mkdir()
    shutil.copy(sorted(made_clips.rglob("*.mp4"))[0], folder / "a.mp4")
    more = {
        "features": [f"--output={tmp_path / 'out'}"],
        "explain": [f"--output={tmp_path / 'a.gif'}"],
        "check": ["--num-workers=1"],
    }
    checkpoint = [] if job == "check" else [f"--checkpoint={tmp_path / 'own'}"]
    source = folder / "a.mp4" if job == "explain" else folder
    assert main([job, str(source), *checkpoint, *more.get(job, []), limit]) == 1
    assert words in "".join(capsys.readouterr())


@pytest.mark.parametrize(("num_clips", "numbers"), [(2, [0, 1]), (3, [0, 1, 2]), (4, [0, 1, 2]), (844, [0, 281, 562])])
def test_only_a_few_of_many_clips_are_drawn(monkeypatch: pytest.MonkeyPatch, num_clips: int, numbers: list[int]):
    monkeypatch.setattr(explain, "MOST_DRAWN", 3)
    clips = [Clip(number, num_clips, 0.0, np.zeros(1)) for number in range(num_clips)]
    kept: list[Clip] = []
    assert len(list(explain._keep(iter([clips[0], *clips]), kept))) == num_clips + 1
    assert [clip.number for clip in kept] == numbers
