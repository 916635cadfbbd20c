"""Clips read directly from files equal those of prepared data."""

import csv
import dataclasses
import io
import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from input_pipeline import VideoDataset, eval_batches, open_dataset, training_batches
from timesformer_jax.datasets import Listing, read_video_list
from timesformer_jax.video import ClipOptions, ClipSource, EvalViews
from timesformer_jax.video.clip_seeds import epoch_order

OPTIONS = ClipOptions(num_frames=4, crop_size=24, sampling="uniform", sampling_rate=1.0, short_side=(26, 40))
CLIP = ("video", "rows", "columns", "label")


def kept_by_jpeg(pixels: np.ndarray) -> np.ndarray:
    """Return pixels that JPEG preserves: the fixed point of repeated encoding, for sides that are multiples of 16."""
    for _ in range(100):
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=90)
        stored = np.array(Image.open(file))
        if (stored == pixels).all():
            return pixels
        pixels = stored
    raise AssertionError("Repeated JPEG encoding doesn't converge.")


def write_list(path: Path, rows: list[dict[str, object]]) -> Path:
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def prepare(rows: list[dict[str, object]], folder: Path, data_dir: str, **storage) -> tuple[VideoDataset, Listing]:
    """Return the same lists as prepared data and as a listing; the last two rows are `val`."""
    lists = [write_list(folder / "train.csv", rows[:-2]), write_list(folder / "val.csv", rows[-2:])]
    options = {"short_side": 30, "max_fps": None, "num_workers": 1, "data_dir": data_dir, **storage}
    dataset = open_dataset(name="video_list", train=str(lists[0]), val=str(lists[1]), **options)
    return dataset, read_video_list(*lists)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory, data_dir: str) -> tuple[VideoDataset, Listing]:
    """Folders of images that JPEG preserves."""
    root, draw = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    rows = []
    for number, length in enumerate((9, 3, 12, 6, 5, 8)):
        (root / f"{number}").mkdir()
        for frame in range(length):
            pixels = draw.integers(60, 200, (*((32, 48), (48, 32), (32, 64))[number % 3], 3), dtype=np.uint8)
            Image.fromarray(kept_by_jpeg(pixels)).save(root / f"{number}" / f"{frame}.png")
        rows.append({"path": f"{number}", "label": ("a", "b")[number % 2], "fps": (29.97, 25)[number % 2]})
    return prepare(rows, root, data_dir, storage="jpeg", short_side=40)


def source_of(listing: Listing, split: str, options: ClipOptions, **changes) -> ClipSource:
    return ClipSource(listing.splits[split], options, label_names=listing.label_names, **changes)


def trained_on(dataset: VideoDataset, options: ClipOptions, seed: int, epochs: int) -> Iterator[tuple[int, str, Mapping]]:
    """Yield (epoch, name, clip) in the order of the trainer."""
    names = dataset.facts("train", "name")
    batches = training_batches(dataset, "train", options, batch_size=len(names), seed=seed)
    for epoch, batch in zip(range(epochs), batches, strict=False):
        for row, number in enumerate(epoch_order(seed, epoch, len(names))):
            yield epoch, names[number], {name: batch[name][row] for name in CLIP}


@pytest.mark.parametrize("changes", [{}, {"jitter": "resized_crop", "sampling": "segments"}], ids=["uniform", "segments"])
def test_clip_source_training_clips_equal_the_trainers_bitwise(
    pictures: tuple[VideoDataset, Listing], changes: dict[str, object]
):
    dataset, listing = pictures
    options = dataclasses.replace(OPTIONS, **changes)
    source = source_of(listing, "train", options, seed=3, short_side=40)
    places = {entry.name: place for place, entry in enumerate(source.entries)}
    for epoch, name, clip in trained_on(dataset, options, seed=3, epochs=2):
        ours = source.epoch(epoch)[places[name]]
        assert ours["name"] == name
        for field in CLIP:
            np.testing.assert_array_equal(ours[field], clip[field], strict=True)


@pytest.mark.parametrize("placement", ["dense", "tiled"])
def test_clip_source_eval_views_equal_the_trainers_bitwise(pictures: tuple[VideoDataset, Listing], placement: str):
    dataset, listing = pictures
    options, views = dataclasses.replace(OPTIONS, placement=placement), EvalViews(num_clips=2, num_crops=3)
    batches = eval_batches(dataset, "val", options, batch_size=3, views=views)
    rows = [dict(zip(batch, row, strict=True)) for batch in batches for row in zip(*batch.values(), strict=True)]
    theirs = {(row["name"].decode(), int(row["clip"][1])): row for row in rows if row["mask"]}
    num_clips = 0
    for ours in source_of(listing, "val", options, views=views, short_side=40):
        for clip in range(len(ours["video"]) // 3):
            row = theirs[ours["name"], clip]
            for field in ("video", "rows", "columns", "seconds"):
                np.testing.assert_array_equal(ours[field][3 * clip : 3 * clip + 3], row[field], strict=True)
            for field in ("label", "identity"):
                np.testing.assert_array_equal(ours[field], row[field])
            num_clips += 1
    assert num_clips == len(theirs)


def test_clip_source_segments_differ_only_by_encoding(made_clips: Path, tmp_path: Path, data_dir: str):
    """With thinned frames, even sides, several clips and labels, all but the exact pixels equal prepared data."""
    names = ("across", "down", "back")
    rows = [
        {
            "path": made_clips / name / f"{number}.mp4",
            "labels": name + ";seen" * number,
            "start": 0.21,
            "end": 1.1,
            "name": name * n,
        }
        for n, (number, name) in enumerate(itertools.product((0, 1), names), 1)
    ]
    dataset, listing = prepare(rows, tmp_path, data_dir, storage="h264", short_side=35, max_fps=12.0)
    options = dataclasses.replace(OPTIONS, clips_per_video=2)
    settings = {"seed": 1, "multi_label": True, "short_side": 35, "max_fps": 12.0, "even_sides": True}
    source = source_of(listing, "train", options, **settings)
    places = {entry.name: place for place, entry in enumerate(source.entries)}
    batch = next(training_batches(dataset, "train", options, batch_size=8, seed=1))
    for row, number in enumerate(epoch_order(1, 0, 4)):
        ours = source[places[dataset.facts("train", "name")[number]]]
        for field in ("rows", "columns"):
            np.testing.assert_array_equal(ours[field], batch[field][2 * row : 2 * row + 2])
        np.testing.assert_array_equal(ours["label"], batch["label"][2 * row])
        assert np.abs(ours["video"].astype(float) - batch["video"][2 * row : 2 * row + 2]).mean() < 4
