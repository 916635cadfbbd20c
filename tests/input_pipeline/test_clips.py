"""Batches: identical bytes for the same (seed, epoch, example), and every evaluated video once."""

import dataclasses
import tempfile
from pathlib import Path

import jax
import numpy as np
import pytest

import input_pipeline.clips as clips_module
import input_pipeline.windows as windows_module
from input_pipeline import ClipOptions, EvalViews, VideoDataset, eval_batches, open_dataset, training_batches
from timesformer_jax.errors import InputError
from timesformer_jax.video import crop_and_scale, open_video

OPTIONS = ClipOptions(num_frames=4, crop_size=24, sampling="uniform", sampling_rate=1.0, short_side=(26, 40))


def take(data: VideoDataset, count: int, **changes) -> list[dict[str, np.ndarray]]:
    options = changes.pop("options", OPTIONS)
    batches = training_batches(data, "train", options, **{"batch_size": 7, "seed": 0, **changes})
    return [next(batches) for _ in range(count)]


def same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    return all((one[name] == other[name]).all() for name in one)


def test_train_batches_repeat_and_resume_exactly(digits):
    batches = take(digits, 30)  # 210 clips of 96 videos: more than two epochs, and batches across their ends
    assert batches[0]["video"].shape == (7, 4, 32, 32, 3)
    assert batches[0]["video"].dtype == np.uint8
    assert batches[0]["rows"].shape == batches[0]["columns"].shape == (7, 24)
    assert batches[0]["label"].dtype == np.int32
    assert all(map(same, batches, take(digits, 30)))
    for done in (1, 13, 14, 29):
        (resumed,) = take(digits, 1, first_clip=7 * done)
        assert same(resumed, batches[done])


def test_train_batches_differ_by_seed_and_epoch(digits):
    epochs = take(digits, 3, batch_size=96)
    for batch in epochs:
        assert np.bincount(batch["label"]).tolist() == [12] * 8  # every video once
    assert not (epochs[0]["label"] == epochs[1]["label"]).all()
    assert not same(epochs[0], take(digits, 1, batch_size=96, seed=1)[0])
    first, second = (np.sort(clips_of(batch).reshape(96, -1).mean(axis=1)) for batch in epochs[:2])
    assert (first != second).mean() > 0.9  # other crops of the same videos


def test_train_clips_are_independent_of_their_order(digits):
    """A crop is a function of (seed, epoch, video), whatever the batch size or restarts."""
    small = np.concatenate([batch["video"] for batch in take(digits, 24, batch_size=4)])
    large = take(digits, 1, batch_size=96)[0]["video"]
    np.testing.assert_array_equal(small, large)


@pytest.mark.parametrize("hosts", [2, 3])
def test_train_batches_are_split_across_hosts(digits, monkeypatch: pytest.MonkeyPatch, hosts: int):
    """The hosts' shards concatenate to the batch of a single host, from any starting clip."""
    whole = take(digits, 20, batch_size=12, first_clip=36)
    monkeypatch.setattr(jax, "process_count", lambda: hosts)
    parts = []
    for host in range(hosts):
        monkeypatch.setattr(jax, "process_index", lambda host=host: host)
        parts.append(take(digits, 20, batch_size=12 // hosts, first_clip=36))
    for batch, *of_hosts in zip(whole, *parts, strict=True):
        assert same(batch, {name: np.concatenate([part[name] for part in of_hosts]) for name in batch})


@pytest.mark.parametrize("hosts", [2, 5])
def test_eval_batches_of_all_hosts_have_every_video_once(digits, monkeypatch: pytest.MonkeyPatch, hosts: int):
    monkeypatch.setattr(jax, "process_count", lambda: hosts)
    names, counts = [], []
    for host in range(hosts):
        monkeypatch.setattr(jax, "process_index", lambda host=host: host)
        batches = list(eval_batches(digits, "val", OPTIONS, batch_size=4, views=EvalViews()))
        counts.append(len(batches))
        names += [name for batch in batches for name in batch["name"][batch["mask"]]]
    assert len(set(counts)) == 1
    assert sorted(names) == [b"val-%05d" % i for i in range(21)]


@pytest.mark.parametrize(("num_clips", "num_crops"), [(1, 1), (1, 3), (3, 3)])
def test_eval_batches_have_every_video_once(digits, num_clips: int, num_crops: int):
    batches = list(
        eval_batches(digits, "val", OPTIONS, batch_size=8, views=EvalViews(num_clips=num_clips, num_crops=num_crops))
    )
    assert sum(batch["mask"].sum() for batch in batches) == 21 * num_clips
    assert len(batches) == -(-21 * num_clips // 8)
    assert {batch["video"].shape for batch in batches} == {(8, num_crops, 4, *batches[0]["video"].shape[3:])}
    rows = [(*row,) for batch in batches for row in zip(batch["name"], batch["identity"], batch["mask"], strict=True)]
    assert sorted(name for name, _, real in rows if real) == sorted([b"val-%05d" % i for i in range(21)] * num_clips)
    assert len({identity for _, identity, real in rows if real}) == 21


@pytest.fixture(scope="module", params=["jpeg", "h264"])
def folder(request: pytest.FixtureRequest, made_clips: Path, data_dir: str) -> VideoDataset:
    options = {"val_fraction": 0.3, "short_side": 48, "max_fps": None, "num_workers": 0, "data_dir": data_dir}
    return open_dataset(name="video_folder", root=str(made_clips), storage=request.param, **options)


def decoded(path: Path) -> np.ndarray:
    with open_video(path) as video:
        return np.stack(list(video.frames()))


def clips_of(batch: dict[str, np.ndarray]) -> np.ndarray:
    """Clips [..., T, S, S, 3] with values in [0, 255]."""
    arrays = (batch[name].reshape(-1, *batch[name].shape[-axes:]) for name, axes in (("video", 4), ("rows", 1), ("columns", 1)))
    return np.asarray(crop_and_scale(*arrays)).reshape(*batch["video"].shape[:-3], 24, 24, 3) * 255


def test_eval_views_match_the_video_file(folder: VideoDataset, made_clips: Path):
    """Row k of a video is clip k, with its crops from left to right; pixels match the file up to encoding."""
    options = dataclasses.replace(OPTIONS, short_side=(24, 24))
    (batch,) = eval_batches(folder, "val", options, batch_size=6, views=EvalViews(num_clips=2, num_crops=3))
    whole = {name: decoded(made_clips / name.decode()) for name in set(batch["name"])}
    for row, (name, clips) in enumerate(zip(batch["name"], clips_of(batch), strict=True)):
        first = (0, 18)[row % 2]  # 40 frames of 48 x 64: two clips of four, at 0 and at the middle of what is left
        frames = whole[name][first : first + 4].astype(float)
        half = frames.reshape(4, 24, 2, 32, 2, 3).mean(axis=(2, 4))  # halving averages four pixels
        for clip, left in zip(clips, (0, 4, 8), strict=True):
            assert np.abs(clip - half[:, :, left : left + 24]).mean() < 4
            others = [other for other in (0, 4, 8) if other != left]
            errors = [np.abs(clip - half[:, :, other : other + 24]).mean() for other in others]
            assert min(errors) > 2 * np.abs(clip - half[:, :, left : left + 24]).mean()


def test_clips_of_a_video_are_adjacent_in_a_batch(folder: VideoDataset):
    """The first clip is the one that a single clip would be; all have the video's label."""
    twice = take(folder, 2, batch_size=8, options=dataclasses.replace(OPTIONS, clips_per_video=2))
    once = take(folder, 2, batch_size=4)
    for pair, single in zip(twice, once, strict=True):
        np.testing.assert_array_equal(pair["label"], np.repeat(single["label"], 2))
        np.testing.assert_allclose(clips_of(pair)[::2], clips_of(single), atol=0.02)
        assert (pair["rows"][::2] != pair["rows"][1::2]).any(axis=1).all()
    (resumed,) = take(folder, 1, batch_size=8, first_clip=8, options=dataclasses.replace(OPTIONS, clips_per_video=2))
    assert same(resumed, twice[1])
    with pytest.raises(InputError, match="clips_per_video=2 doesn't divide the 7 clips"):
        take(folder, 1, options=dataclasses.replace(OPTIONS, clips_per_video=2))


def test_tiled_eval_has_one_row_per_tile(folder: VideoDataset):
    options = dataclasses.replace(OPTIONS, placement="tiled", sampling_rate=4.0)  # 16 frames a clip, of 40
    batches = list(eval_batches(folder, "val", options, batch_size=4, views=EvalViews()))
    identities = np.concatenate([batch["identity"][batch["mask"]] for batch in batches])
    assert np.unique(identities, return_counts=True)[1].tolist() == [3, 3, 3]


def test_damaged_record_is_a_short_error(folder: VideoDataset, monkeypatch: pytest.MonkeyPatch):
    """Damage after preparation ends the run with a short error instead of TensorFlow's long one."""
    records = folder.records("train")
    example = records[0]
    for number in range(len(example.features.feature["video"].bytes_list.value)):
        example.features.feature["video"].bytes_list.value[number] = b"nothing"
    monkeypatch.setattr(type(records), "__getitem__", lambda self, number: example)
    with pytest.raises(
        InputError, match=r"The prepared data of .* can't be decoded .*: delete that folder to prepare the data again"
    ):
        take(folder, 1)


def test_dropped_batches_leave_no_running_thread(digits, monkeypatch: pytest.MonkeyPatch):
    """tf.data's autotuning thread can take a minute to end while holding the GIL."""
    made = []
    as_numpy = clips_module.as_numpy
    monkeypatch.setattr(clips_module, "as_numpy", lambda batches, *rest: made.append(batches) or as_numpy(batches, *rest))
    options = ClipOptions(num_frames=4, crop_size=32, sampling="uniform", sampling_rate=2.0, short_side=(32, 40))
    next(training_batches(digits, "train", options, batch_size=2, seed=0))
    next(eval_batches(digits, "val", options, batch_size=2, views=EvalViews()))
    assert [batches.options().autotune.enabled for batches in made] == [False, False]


def test_batches_leave_no_generated_code_behind(folder: VideoDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """TensorFlow deletes generated code at exit, which a killed process doesn't reach."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    take(folder, 1)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("views", "words"), [((1, 2), "num_crops must be 1 .* or 3"), ((0, 1), "num_clips must be a whole number of at least 1")]
)
def test_impossible_views_are_rejected(views: tuple[int, int], words: str):
    with pytest.raises(InputError, match=words):
        EvalViews(num_clips=views[0], num_crops=views[1])


@pytest.mark.parametrize("placement", ["official", "tiled"])
def test_eval_batches_start_at_any_batch_without_decoding_earlier_ones(
    folder: VideoDataset, monkeypatch: pytest.MonkeyPatch, placement: str
):
    """Both hosts check it, in the middle of a video and at the very end."""
    options = dataclasses.replace(OPTIONS, placement=placement, sampling_rate=4.0)
    read: list[int] = []
    get = type(folder.records("train")).__getitem__
    for host in range(2):
        given = {"batch_size": 4, "views": EvalViews(num_clips=3), "shard": (host, 2)}
        whole = list(eval_batches(folder, "train", options, **given))
        clips = np.concatenate([batch["clip"][batch["mask"]] for batch in whole])
        assert clips.tolist() == [[0, clip] for _ in range((9 - host + 1) // 2) for clip in range(3)]
        for first in range(len(whole) + 1):
            rest = eval_batches(folder, "train", options, **given)
            assert len(rest) == len(whole)
            read.clear()
            with monkeypatch.context() as patch:
                patch.setattr(type(folder.records("train")), "__getitem__", lambda self, n: read.append(n) or get(self, n))
                later = list(rest.skip(first))
            assert sorted(read) == [number for number in range(host, 9, 2) if number // 2 * 3 + 3 > 4 * first]
            assert len(later) == len(whole) - first
            assert all(same(*pair) for pair in zip(later, whole[first:], strict=True))


@pytest.mark.parametrize("skipped", [0, 1, 2])
def test_long_videos_are_decoded_in_pieces(folder: VideoDataset, monkeypatch: pytest.MonkeyPatch, skipped: int):
    """Memory doesn't grow with a video's length, and the batches are the same."""
    options = dataclasses.replace(OPTIONS, placement="tiled", sampling_rate=2.0)
    given = {"batch_size": 4, "views": EvalViews(num_crops=3)}
    whole = list(eval_batches(folder, "val", options, **given))[skipped:]
    planned: list[int] = []
    plan = windows_module.plan_windows
    monkeypatch.setattr(windows_module, "plan_windows", lambda views, *rest: planned.append(len(views)) or plan(views, *rest))
    clip = 3 * options.num_frames * options.eval_window(folder.short_side, 3) ** 2 * 3
    monkeypatch.setattr(windows_module, "PIECE_BYTES", 2 * clip + 1)
    assert all(same(*pair) for pair in zip(eval_batches(folder, "val", options, **given).skip(skipped), whole, strict=True))
    assert max(planned) == 2 * 3
    assert sum(planned) == sum(int(batch["mask"].sum()) for batch in whole) * 3


def test_eval_resumed_within_a_video_decodes_only_the_remaining_frames(folder: VideoDataset, monkeypatch: pytest.MonkeyPatch):
    """If an evaluation begins in the middle of a video, only the frames of the remaining clips are decoded."""
    planned: list[int] = []
    plan = windows_module.plan_windows
    monkeypatch.setattr(windows_module, "plan_windows", lambda views, *rest: planned.append(len(views)) or plan(views, *rest))
    given = {"batch_size": 2, "views": EvalViews(num_clips=3, num_crops=3), "shard": (0, 3)}
    list(eval_batches(folder, "train", OPTIONS, **given).skip(2))
    assert sorted(planned) == [6, 9]
