"""Feature files: matching of shards, the mean over clips, and rejection of invalid files."""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import timesformer_jax as tsf
from tests.support import random_variables
from timesformer_jax import InputError, training
from timesformer_jax.features import FeatureWriter, ShardRows, count_shards, describe_features, read_features, weights_digest

MODEL = tsf.TimeSformer(3, image_size=16, patch_size=8, num_frames=2, embed_dim=24, depth=1, num_heads=3)
PARAMS = random_variables(MODEL)["params"]


def description(**changes: Any) -> dict[str, Any]:
    given: dict[str, Any] = {
        "kind": "frames",
        "dtype": "float32",
        "source": "here",
        "step": 7,
        "preprocess": tsf.Preprocess(num_frames=2, crop_size=16),
        "num_clips": 1,
        "num_crops": 2,
        "label_names": ["a", "b", "c"],
        "videos": {"split": "val"},
    }
    return describe_features(MODEL, changes.pop("params", PARAMS), **{**given, **changes})


def values(*numbers: int, dtype: str = "float32") -> np.ndarray:
    """Values of shape [crops, T, D]."""
    return np.random.default_rng(numbers).normal(size=(2, 2, 24)).astype(dtype)


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """Three videos in two shards; the middle one's two segments are in different shards, the later one first."""
    writer = FeatureWriter(tmp_path / "set", description(), num_shards=2)
    assert not (tmp_path / "set").exists()
    writer.begin()
    for shard, clips in enumerate(
        [
            [("b.mp4", 60.0, [1, 0, 1]), ("c.mp4", 0.0, [0, 0, 0]), ("c.mp4", 2.5, [0, 0, 0])],
            [("b.mp4", 0.0, [1, 0, 1]), ("é 1.mp4", 0.0, [0, 1, 0])],
        ]
    ):
        rows = ShardRows("float32")
        for name, seconds, label in clips:
            rows.add_clip(name, values(ord(name[0]), int(seconds)), seconds=seconds, label=np.array(label, np.float32))
        rows.unreadable = {f"broken {shard}.mp4": "it is empty"}
        writer.write(shard, rows)
    assert writer.missing() == []
    assert writer.finish({"gone.mp4": "no such file"})["num_videos"] == 3
    return tmp_path / "set"


def test_feature_files_round_trip(written: Path):
    found = read_features(written)
    assert found.names == ["b.mp4", "c.mp4", "é 1.mp4"]
    np.testing.assert_array_equal(found.labels, [[1, 0, 1], [0, 0, 0], [0, 1, 0]])
    assert found.label_names == ["a", "b", "c"]
    assert found.video.tolist() == [0] * 4 + [1] * 4 + [2] * 2
    assert found.clips.tolist() == [0, 0, 1, 1] * 2 + [0, 0]
    assert found.crops.tolist() == [0, 1] * 5
    assert found.seconds[::2].tolist() == [0, 60, 0, 2.5, 0]
    expected = np.concatenate([values(98, 0), values(98, 60), values(99, 0), values(99, 2), values(233, 0)])
    np.testing.assert_array_equal(found.values, expected)
    np.testing.assert_allclose(found.per_video()[0], expected[:4].mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(found.per_video()[2], expected[8:].mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(found.vectors()[1], expected[4:8].mean(axis=(0, 1)), atol=1e-6)
    assert found.unreadable == {"gone.mp4": "no such file", "broken 0.mp4": "it is empty", "broken 1.mp4": "it is empty"}
    assert found.about["model"]["embed_dim"] == 24


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"kind": "cls"}, r"axes is .*; kind is 'frames' there and 'cls' here"),
        ({"num_crops": 1}, "num_crops is 2 there and 1 here"),
        ({"videos": {"split": "train"}}, "videos.split is 'val' there and 'train' here"),
        ({"label_names": [f"label {i}" for i in range(50)]}, "label_names differ"),
        ({"params": random_variables(MODEL, 1)["params"], "step": 9}, "from here, step 7, there and from here, step 9, here"),
    ],
)
def test_conflicting_description_is_rejected(written: Path, changes: dict, words: str):
    before = {path.name: path.read_bytes() for path in written.iterdir()}
    with pytest.raises(InputError, match=words):
        FeatureWriter(written, description(**changes), num_shards=2)
    assert {path.name: path.read_bytes() for path in written.iterdir()} == before
    FeatureWriter(written, description(source="elsewhere", step=None), num_shards=2)  # the same weights, moved


def test_foreign_folder_is_left_untouched(tmp_path: Path):
    (tmp_path / "mine.txt").write_text("")
    with pytest.raises(InputError, match="holds something other than features"):
        FeatureWriter(tmp_path, description(), num_shards=1)
    with pytest.raises(InputError, match="is a file"):
        FeatureWriter(tmp_path / "mine.txt", description(), num_shards=1)
    with pytest.raises(InputError, match="There are no features in"):
        read_features(tmp_path)


def damage(folder: Path, how: str) -> None:
    path, about = folder / "00001-of-00002.npz", folder / "features.json"
    if how == "cut":
        path.write_bytes(path.read_bytes()[:300])
    elif how == "missing":
        path.unlink()
    elif how == "no json":
        about.write_text("{")
    elif how == "other json":
        about.write_text(json.dumps({"complete": True}))
    else:
        with np.load(path) as file:
            arrays = dict(file)
        changed = {
            "not finite": {"values": np.where(arrays["values"] > 1, np.nan, arrays["values"])},
            "narrow": {"values": arrays["values"][..., :5]},
            "short": {"seconds": arrays["seconds"][:-1]},
            "frames": {"values": arrays["values"][:, :1]},
            "another video": {"video": arrays["video"] + 1},
            "no values": {},
        }[how]
        arrays.update(changed)
        if how == "no values":
            del arrays["values"]
        np.savez(path, **arrays)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("cut", "00001-of-00002.npz is damaged .*: delete it"),
        ("missing", r"is not complete \(1 of 2 shards are missing\)"),
        ("no json", r"features\.json is damaged .*: delete .* extract the features again"),
        ("other json", "features.json doesn't describe features"),
        ("not finite", "holds features that are not finite"),
        ("narrow", r"should hold 4 rows of 2 axes, the last of 24, got values of \[4, 2, 5\]"),
        ("short", "should hold 4 rows"),
        ("frames", "hold features of several shapes"),
        ("another video", "should have rows for each of its 2 videos"),
        ("no values", "is not a shard of features: it has no values"),
    ],
)
def test_damaged_feature_files_are_a_clear_error(written: Path, how: str, words: str):
    damage(written, how)
    with pytest.raises(InputError, match=words) as caught:
        read_features(written)
    assert "\n" not in str(caught.value)


def test_misfitting_or_non_finite_features_are_rejected():
    with pytest.raises(InputError, match=r"features of a\.mp4 don't fit into float16: use float32"):
        ShardRows("float16").add_clip("a.mp4", 1e6 * values(1), seconds=0.0)
    with pytest.raises(InputError, match=r"features of a\.mp4 are not finite"):
        ShardRows("float32").add_clip("a.mp4", np.nan * values(1), seconds=0.0)


def test_features_without_any_readable_video(tmp_path: Path):
    writer = FeatureWriter(tmp_path / "set", description(label_names=None), num_shards=1)
    writer.begin()
    rows = ShardRows("float32")
    rows.unreadable["a.mp4"] = "it is empty"
    writer.write(0, rows)
    assert writer.finish() == {"complete": True, "num_videos": 0, "num_rows": 0, "unreadable": {"a.mp4": "it is empty"}}
    with pytest.raises(InputError, match="none of its videos could be read"):
        read_features(tmp_path / "set")


def test_digest_depends_only_on_the_parameter_values():
    """The digest is independent of sharding and unique to the parameters."""
    mesh = training.make_mesh(fsdp=8)
    split = jax.device_put(PARAMS, training.sharding_of(PARAMS, PARAMS, mesh))
    assert weights_digest(split) == weights_digest(jax.device_get(PARAMS)) == description()["weights"]["digest"]
    other = {**PARAMS, "cls_token": PARAMS["cls_token"].at[0, 0, 0].add(1e-3)}
    assert weights_digest(other) != weights_digest(PARAMS)


def test_number_of_videos_per_shard():
    def shards(num_videos: int, kind: str, rows: int, given: int | None = None) -> int:
        base = tsf.create("timesformer-base", num_classes=3)
        return count_shards(num_videos, base, kind=kind, dtype="float32", rows_per_video=rows, videos_per_shard=given)

    assert shards(1001, "cls", 1) == 2  # at most 1,000 videos
    assert shards(1000, "patches", 3) == 1000 // 18 + 1  # 8 x 14 x 14 x 768 numbers of 4 bytes a row: 13.8 MiB a video
    assert shards(7, "patches", 1000) == 7  # at least one
    assert shards(7, "cls", 1, given=3) == 3
    assert shards(0, "cls", 1) == 1
