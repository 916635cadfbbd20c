"""Random access to clips: a function of (seed, epoch, name), whatever the access order."""

import concurrent.futures
import dataclasses
import pickle
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from timesformer_jax.augment import WINDOW_AXES, PixelOptions, prepare_eval, prepare_training
from timesformer_jax.errors import InputError
from timesformer_jax.video import ClipOptions, ClipSource, Entry, EvalViews, UnreadableVideoError, crop_and_scale
from timesformer_jax.video.clip_seeds import clip_generator, epoch_order, identity_of

OPTIONS = ClipOptions(num_frames=4, crop_size=24, sampling="uniform", sampling_rate=1.0, short_side=(26, 40))
PIXELS = PixelOptions(flip="off", mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return all(np.array_equal(one[name], other[name]) for name in {**one, **other})


def batch_of(clips: list[dict[str, Any]]) -> dict[str, Any]:
    return {name: np.stack([clip[name] for clip in clips]) for name in clips[0]}


def test_folder_yields_labels_and_names(made_clips: Path):
    source = ClipSource(made_clips, OPTIONS)
    assert source.label_names == ("across", "back", "down")
    assert [clip["name"] for clip in source] == [f"{label}/{k}.mp4" for label in source.label_names for k in range(4)]
    clip = source[-3]
    assert (clip["video"].shape, clip["video"].dtype) == ((4, 26, 26, 3), np.uint8)
    assert clip["rows"].shape == clip["columns"].shape == (24,)
    assert (clip["label"], clip["label"].dtype, clip["label"].shape) == (2, np.int32, ())
    for index in (12, -13):
        with pytest.raises(IndexError, match="of 12: use epoch"):
            source[index]


def test_clip_is_a_function_of_seed_epoch_and_name(made_clips: Path):
    source = ClipSource(made_clips, OPTIONS, seed=1)
    later = source.epoch(2)
    copy = pickle.loads(pickle.dumps(later))
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        clips = list(pool.map(copy.__getitem__, reversed(range(12))))[::-1]
    assert all(map(same, clips, later))
    assert same(clips[5], ClipSource([source.entries[5]], OPTIONS, seed=1, label_names=source.label_names).epoch(2)[0])
    for other in (source, ClipSource(made_clips, OPTIONS, seed=2).epoch(2)):
        assert not any(map(same, clips, other))


def test_seeds_are_stable_across_versions():
    """Runs resume, and figures repeat, with the clips of the version that began them."""
    assert identity_of("across/0.mp4") == identity_of(b"across/0.mp4") == 2930109220421686259
    assert clip_generator(3, 2, identity_of("across/0.mp4", part=0)).integers(1000, size=4).tolist() == [974, 148, 809, 105]
    assert epoch_order(3, 2, 6).tolist() == [4, 0, 1, 2, 3, 5]


def test_shuffled_epochs_have_every_clip_once(made_clips: Path):
    source = ClipSource(made_clips, OPTIONS)
    shuffled = source.shuffled(3)
    assert len(shuffled) == 36
    orders = [[shuffled[12 * epoch + place]["name"] for place in range(12)] for epoch in range(3)]
    assert orders[0] != orders[1] != orders[2]
    for epoch, names in enumerate(orders):
        assert sorted(names) == [entry.name for entry in source.entries]
        number = [entry.name for entry in source.entries].index(names[7])
        assert same(shuffled[12 * epoch + 7], source.epoch(epoch)[number])
    assert same(source.shuffled(1, first_epoch=2)[7], shuffled[31])
    with pytest.raises(InputError, match="at least one: got 0 starting at epoch 0"):
        source.shuffled(0)


def test_equal_sources_have_equal_representations(made_clips: Path, tmp_path: Path):
    """Grain compares this text when a loader is restored."""
    text = repr(ClipSource(made_clips, OPTIONS))
    other = shutil.copytree(made_clips, tmp_path / "other")
    (other / "down").rename(other / "up")
    assert text == repr(ClipSource(str(made_clips), OPTIONS))
    changed = [
        ClipSource(made_clips, OPTIONS, seed=1),
        ClipSource(made_clips, dataclasses.replace(OPTIONS, crop_size=23)),
        ClipSource(other, OPTIONS),
        ClipSource(made_clips, OPTIONS, cropped=True),
        ClipSource(made_clips, OPTIONS).epoch(1),
        ClipSource(made_clips, OPTIONS).shuffled(1),
        ClipSource(made_clips, OPTIONS).without(["down/1.mp4"]),
    ]
    assert len({text, *map(repr, changed)}) == 8


def test_batches_are_prepared_on_the_device(made_clips: Path):
    """From windows, or from rounded host crops; several clips and views of a video extend the batch."""
    options = dataclasses.replace(OPTIONS, clips_per_video=2)
    windows, crops = (batch_of(list(ClipSource(made_clips, options, cropped=cropped))[:3]) for cropped in (False, True))
    assert crops["video"].shape == (3, 2, 4, 24, 24, 3)
    exact = prepare_training(jax.random.key(0), windows, options=PIXELS)
    rounded = prepare_training(jax.random.key(0), crops, options=PIXELS)
    np.testing.assert_allclose(exact, rounded, atol=0.51 / 255)
    np.testing.assert_allclose(rounded, crops["video"].reshape(-1, 4, 24, 24, 3) / 255, atol=1e-6)
    views = ClipSource(made_clips, OPTIONS, views=EvalViews(num_clips=2, num_crops=3))[5]
    assert views["seconds"].shape == (6,)
    prepared = prepare_eval(batch_of([views]), options=PIXELS)
    np.testing.assert_allclose(prepared, crop_and_scale(*(views[name] for name in WINDOW_AXES)), atol=1e-6)


def test_lists_may_have_names_numbers_or_multiple_labels(made_clips: Path):
    files = [str(made_clips / "down" / f"{number}.mp4") for number in range(3)]
    named = ClipSource(list(zip(files, ("10", "9", "10"), strict=True)), OPTIONS)
    assert (named.label_names, [int(clip["label"]) for clip in named]) == (("9", "10"), [1, 0, 1])
    assert named[0]["name"] == files[0].replace("\\", "/")
    numbered = ClipSource(list(zip(files, (np.int64(3), 0, 1), strict=True)), OPTIONS)
    assert (numbered.label_names, [int(clip["label"]) for clip in numbered]) == (tuple("0123"), [3, 0, 1])
    several = ClipSource([(files[0], ("b", "a")), (files[1], ()), (files[2], "c")], OPTIONS, multi_label=True)
    assert [clip["label"].tolist() for clip in several] == [[1, 1, 0], [0, 0, 0], [0, 0, 1]]


@pytest.mark.parametrize(
    ("videos", "options", "words"),
    [
        ("missing", {}, "missing doesn't exist: give a folder with a subfolder per label"),
        ([], {}, "The list of videos is empty"),
        ([("a.mp4", "x"), ("a.mp4", "y")], {}, "a.mp4 is listed twice"),
        ([("a.mp4", "x"), ("b.mp4", 1)], {}, "Labels mix numbers such as 1 with names such as 'x'"),
        ([("a.mp4", 1.5)], {}, "a.mp4: expected a label's name or its number"),
        (["a.mp4"], {}, "Expected an Entry or a pair of a path and its label, got 'a.mp4'"),
        ([("a.mp4", ("x", "y"))], {}, "a.mp4 has 2 labels instead of one: pass multi_label=True"),
        ([("a.mp4", "x")], {"label_names": ["y"]}, "a.mp4 has the label 'x', which is not in label_names"),
        ([("a.mp4", 2)], {"label_names": ["x", "y"]}, "a.mp4 has the label 2, but there are 2 label_names"),
        ([("a.mp4", "x")], {"seed": -1}, "seed must be a whole number of at least 0, got -1"),
        ([("a.mp4", "x")], {"short_side": 0}, "short_side must be a whole number of at least 1, got 0"),
    ],
)
def test_unusable_sources_are_rejected_at_once(videos: Any, options: dict[str, Any], words: str):
    with pytest.raises(InputError, match=words):
        ClipSource(videos, OPTIONS, **options)


def test_folder_of_splits_is_rejected_and_skipped_files_are_reported(
    made_clips: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    (tmp_path / "train").symlink_to(made_clips)
    with pytest.raises(InputError, match=r"holds splits \(train\), not labels: give one of them, as .*/train"):
        ClipSource(tmp_path, OPTIONS)
    assert len(ClipSource(tmp_path / "train", OPTIONS)) == 12
    assert not caplog.records
    (tmp_path / "loose.mp4").symlink_to(made_clips / "down" / "0.mp4")
    (tmp_path / "label").symlink_to(made_clips / "down")
    ClipSource(tmp_path, OPTIONS)
    assert "Skipped videos outside any label's folder: 1 (loose.mp4)." in caplog.messages


def test_unreadable_videos_are_named_and_skipped_only_on_request(made_clips: Path, tmp_path: Path):
    (tmp_path / "b.mp4").write_text("this is no video")
    entries = [Entry(name=path.stem, path=path, labels=("x",)) for path in (made_clips / "down" / "0.mp4", tmp_path / "b.mp4")]
    source = ClipSource(entries, OPTIONS)
    with pytest.raises(UnreadableVideoError, match=r"Can't read .*/b.mp4 as a video: "):
        source[1]
    found = source.find_unreadable()
    assert list(found) == ["b"]
    rest = source.without(found).shuffled(2)
    assert [clip["name"] for clip in rest] == ["0", "0"]
    with pytest.raises(InputError, match="There is no video named 'c' to exclude"):
        source.without(["c"])
    with pytest.raises(InputError, match="Excluding the 2 given videos leaves none"):
        source.without(["0", "b"])
