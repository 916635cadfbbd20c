"""Moving digits: the meaning of labels, ambiguity without frame order, and the separation of the splits."""

import numpy as np
import pytest

from input_pipeline import open_dataset
from input_pipeline.moving_digits import MOTIONS, SCENES, draw_clip
from timesformer_jax import InputError
from timesformer_jax.datasets import drawn_digits
from timesformer_jax.datasets.digit_scenes import draw_clutter, draw_shaky


def brightest_place(frame: np.ndarray, background: np.ndarray) -> np.ndarray:
    """Centre (row, column) of the pixels that differ from the background."""
    weight = np.abs(frame.astype(float) - background).sum(axis=-1)
    rows, columns = np.mgrid[: frame.shape[0], : frame.shape[1]]
    return np.array([(rows * weight).sum(), (columns * weight).sum()]) / weight.sum()


def test_motions_move_in_the_named_direction():
    ways = {"right": (0, 1), "left": (0, -1), "down": (1, 0), "up": (-1, 0)}
    for index in range(24):
        frames, _, motion = draw_clip("train", index)
        background = np.median(frames, axis=0)
        way = brightest_place(frames[-1], background) - brightest_place(frames[0], background)
        expected = np.sum([ways[word] for word in motion.split("_")], axis=0)
        assert (np.abs(way) > 3).tolist() == (expected != 0).tolist(), motion
        assert (np.sign(way[expected != 0]) == expected[expected != 0]).all(), motion


def test_motion_and_its_reversal_share_the_same_frames(monkeypatch: pytest.MonkeyPatch):
    """So the unordered set of frames never distinguishes the two."""
    frames, digit, motion = draw_clip("train", 4)
    axis, backwards = MOTIONS[motion]
    (reversal,) = [name for name, value in MOTIONS.items() if value == (axis, not backwards)]
    monkeypatch.setitem(MOTIONS, motion, MOTIONS[reversal])
    other, same_digit, _ = draw_clip("train", 4)
    assert digit == same_digit
    np.testing.assert_array_equal(frames, other[::-1])
    assert (frames != other).any()


def test_motions_cover_four_axes_in_both_directions():
    axes = [axis for axis, _ in MOTIONS.values()]
    assert len(MOTIONS) == 8
    assert all(axes.count(axis) == 2 for axis in axes)
    assert {backwards for _, backwards in MOTIONS.values()} == {True, False}


def test_shaky_motion_and_its_reversal_share_the_same_frames(monkeypatch: pytest.MonkeyPatch):
    """So the unordered set of frames never distinguishes the two."""
    frames, labels = draw_shaky("train", 4)
    names = list(MOTIONS)
    axis, backwards = MOTIONS[names[4]]
    (reversal,) = [name for name, value in MOTIONS.items() if value == (axis, not backwards)]
    monkeypatch.setitem(MOTIONS, names[4], MOTIONS[reversal])
    other, same = draw_shaky("train", 4)
    assert labels == same
    np.testing.assert_array_equal(frames, other[::-1])


def test_sign_is_the_digit_with_its_colour():
    for index in range(12):
        frames, labels = draw_clutter("train", index)
        colour, digit = SCENES["clutter"].labels["sign"][labels["sign"]].split()
        assert int(digit) == labels["digit"]
        centre = frames[:, 12:20, 12:20].reshape(-1, 3).astype(int)
        bright = centre[centre.sum(axis=1).argmax()]
        assert (bright[0] > bright[2]) == (colour == "warm")


@pytest.mark.parametrize("scene", ["clutter", "shaky"])
def test_scenes_are_balanced_and_build(scene: str, data_dir: str):
    """Names of the classes included; splits differ."""
    label = {"clutter": "sign", "shaky": "motion"}[scene]
    dataset = open_dataset(name="moving_digits", scene=scene, label=label, train_clips=40, val_clips=8, data_dir=data_dir)
    assert dataset.label_names == list(SCENES[scene].labels[label])
    examples = {each["name"].decode(): each for each in dataset.builder.as_dataset(split="val").as_numpy_iterator()}
    for index in range(8):
        frames, labels = SCENES[scene].draw("val", index)
        example = examples[f"val-{index:05d}"]
        assert np.abs(example["video"].astype(float) - frames).mean() < 6
        assert example[label] == labels[label]
        assert (SCENES[scene].draw("train", index)[0] != frames).any()


def test_label_of_another_scene_is_refused(data_dir: str):
    with pytest.raises(InputError, match=r"data.label must be one of digit, sign with data.scene=clutter, got 'motion'"):
        open_dataset(name="moving_digits", scene="clutter", label="motion", train_clips=8, val_clips=1, data_dir=data_dir)
    with pytest.raises(InputError, match=r"data.scene must be one of motion, clutter, shaky, got 'rain'"):
        open_dataset(name="moving_digits", scene="rain", label="motion", train_clips=8, val_clips=1, data_dir=data_dir)


def test_validation_digits_are_not_in_the_training_set(monkeypatch: pytest.MonkeyPatch):
    used: dict[str, set[int]] = {}
    images, labels = drawn_digits.digit_images()

    class Recorder:
        def __init__(self, split: str):
            self.split = split

        def __len__(self) -> int:
            return len(images)

        def __getitem__(self, index: int) -> np.ndarray:
            used.setdefault(self.split, set()).add(int(index))
            return images[index]

    for split in ("train", "val"):
        monkeypatch.setattr(drawn_digits, "digit_images", lambda split=split: (Recorder(split), labels))
        for index in range(600):
            draw_clip(split, index)
    assert len(used["train"]) > 300
    assert len(used["val"]) > 200
    assert not used["train"] & used["val"]


def test_clip_is_determined_by_split_and_index():
    for split in ("train", "val"):
        first, again, other = draw_clip(split, 3), draw_clip(split, 3), draw_clip(split, 11)
        np.testing.assert_array_equal(first[0], again[0])
        assert (first[0] != other[0]).any()


def test_moving_digits_builds(digits):
    info = digits.builder.info
    assert {split: info.splits[split].num_examples for split in info.splits} == {"train": 96, "val": 21}
    assert digits.label_names == list(MOTIONS)
    examples = list(digits.builder.as_dataset(split="train").as_numpy_iterator())
    counts = np.bincount([example["motion"] for example in examples])
    assert (counts == 12).all()
    assert {example["digit"] for example in examples} == set(range(10))
    example = min(examples, key=lambda example: example["name"])
    frames, digit, motion = draw_clip("train", 0)
    assert example["name"] == b"train-00000"
    assert example["digit"] == digit
    assert digits.label_names[example["motion"]] == motion
    assert np.abs(example["video"].astype(float) - frames).mean() < 5  # up to JPEG's loss


@pytest.mark.parametrize("num_frames", [2, 4])
def test_fewer_frames_are_taken_from_the_middle(data_dir: str, num_frames: int):
    """So a motion and its reversal still have the same frames."""
    few = open_dataset(
        name="moving_digits", label="motion", train_clips=8, val_clips=1, num_frames=num_frames, data_dir=data_dir
    )
    by_name = {example["name"]: example for example in few.builder.as_dataset(split="train").as_numpy_iterator()}
    first = (8 - num_frames) // 2
    for index in range(8):
        frames, *_ = draw_clip("train", index)
        video = by_name[b"train-%05d" % index]["video"]
        assert len(video) == num_frames
        assert np.abs(video.astype(float) - frames[first : 8 - first]).mean() < 5


def test_odd_number_of_frames_is_rejected(data_dir: str):
    with pytest.raises(InputError, match=r"data.num_frames must be an even number from 2 to 8, got 3\."):
        open_dataset(name="moving_digits", label="motion", train_clips=8, val_clips=1, num_frames=3, data_dir=data_dir)
