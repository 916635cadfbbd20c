"""`--mode=features` end to end: the model's features of every view, resumed runs, and errors for bad input."""

import json
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

import main
import timesformer_jax as tsf
from experiment import features as mode
from experiment.features import turns
from experiment.follow import follow_weights
from experiment.setup import set_up
from input_pipeline import EvalViews
from tests.pretrained.test_image_models import FlaxVit, image_outputs
from tests.processes import finish, flags, start
from tests.runs import config_of
from tests.support import random_variables
from timesformer_jax import InputError
from timesformer_jax.features import FeatureWriter, read_features
from timesformer_jax.modeling import flatten_params
from timesformer_jax.training.mesh import Share

LABELS = ["across", "back", "down"]


def features_config(clips: Path, data_dir: str, **overrides: Any) -> ConfigDict:
    small = {
        "data.root": str(clips),
        "data.data_dir": data_dir,
        "data.val_fraction": 0.3,
        "data.short_side": 48,
        "model.image_size": 32,
        "model.patch_size": 16,
        "model.num_frames": 4,
        "model.embed_dim": 32,
        "model.num_heads": 2,
        "model.depth": 1,
        "clips.short_side": (32, 40),
        "clips.sampling_rate": 4.0,
        "train.batch_size": 1,  # not divisible by the devices, which only training requires
    }
    return config_of("folder", **{**small, **overrides})


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory):
    """Checkpoints of random weights that fit the small config, by scheme."""
    folder = tmp_path_factory.mktemp("weights")

    def make(attention_type: str = "divided_space_time", seed: int = 0) -> str:
        path = folder / f"{attention_type}-{seed}"
        if not path.exists():
            fields = {"image_size": 32, "num_frames": 4, "embed_dim": 32, "depth": 1, "num_heads": 2}
            model = tsf.TimeSformer(3, attention_type=attention_type, initialization="from_scratch", **fields)
            preprocess = tsf.Preprocess(num_frames=4, crop_size=32)
            tsf.save(tsf.Pretrained(model, random_variables(model, seed)["params"], preprocess, tuple(LABELS)), path)
        return str(path)

    return make


@pytest.mark.slow_cases("patches-axial")
@pytest.mark.parametrize(
    ("kind", "attention_type", "overrides"),
    [
        ("cls", "divided_space_time", {"clips.placement": "tiled", "features.videos_per_shard": 2}),
        ("frames", "space_only", {"features.splits": ("train", "val"), "features.dtype": "float16", "eval.num_crops": 1}),
        ("frames", "joint_space_time", {"eval.num_clips": 1}),
        ("patches", "local_global", {"features.videos_per_shard": 1, "eval.batch_size": 1}),
        ("patches", "axial", {"model.dtype": "bfloat16", "eval.num_crops": 1}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_features_mode_writes_the_model_outputs_of_the_same_views(
    tmp_path: Path, made_clips: Path, data_dir: str, weights: Any, kind: str, attention_type: str, overrides: dict
):
    given = {"init_from": weights(attention_type), "model.attention_type": attention_type, "features.kind": kind, **overrides}
    config = features_config(made_clips, data_dir, **given)
    main.run(config, str(tmp_path), "features")
    assert sorted(path.name for path in (tmp_path / "features").iterdir()) == sorted(config.features.splits)
    found = read_features(tmp_path / "features" / "val")
    crops = config.eval.num_crops
    num_clips = 3 if config.clips.placement == "tiled" else config.eval.num_clips  # 40 frames, a clip spans 16
    assert len(found.names) == 3
    assert [found.label_names[label] for label in found.labels] == [name.partition("/")[0] for name in found.names]
    assert found.video.tolist() == np.repeat(np.arange(3), num_clips * crops).tolist()
    assert found.clips.tolist() == np.tile(np.repeat(np.arange(num_clips), crops), 3).tolist()
    assert found.crops.tolist() == [*range(crops)] * (3 * num_clips)
    if num_clips == 3:
        np.testing.assert_allclose(found.seconds[::crops], [0, 16 / 30, 32 / 30] * 3, atol=1 / 30)
    assert found.values.dtype == config.features.dtype
    assert (found.about["kind"], found.about["weights"]["source"]) == (kind, config.init_from)
    if len(config.features.splits) == 2:
        assert len(read_features(tmp_path / "features" / "train").names) == 9
        with pytest.raises(InputError, match="holds several sets of features: give one of"):
            read_features(tmp_path)

    made = set_up(follow_weights(config, str(tmp_path), "features"), str(tmp_path), "features", lock=False)
    params = made.model.load_init_from(made.config, made.data.label_names).params
    apply = jax.jit(lambda video: made.model.module.apply({"params": params}, video, method="features"))
    number = {name: i for i, name in enumerate(found.names)}
    seen = np.zeros(3, int)
    for batch in made.data.eval_batches("val", EvalViews(num_clips=config.eval.num_clips, num_crops=crops)):
        for i in np.flatnonzero(batch["mask"]):
            one = {name: jnp.asarray(batch[name][i][None]) for name in ("video", "rows", "columns")}
            features = apply(made.model.prepare_eval(one))
            frames = features.patches.mean((2, 3)) if features.frame_cls is None else features.frame_cls
            expected = {"cls": features.cls, "frames": frames, "patches": features.patches}[kind]
            video = number[batch["name"][i].decode()]
            first = (video * num_clips + seen[video]) * crops
            atol = 0.1 if "bfloat16" in overrides.values() else 3e-3 if found.values.dtype == np.float16 else 1e-5
            np.testing.assert_allclose(found.values[first : first + crops], np.asarray(expected, np.float32), atol=atol)
            seen[video] += 1
    made.files.checkpoints.close()
    assert seen.tolist() == [num_clips] * 3
    each = found.values.astype(np.float32).reshape(3, num_clips * crops, *found.values.shape[1:])
    np.testing.assert_allclose(found.per_video(), each.mean(axis=1), atol=1e-5)
    assert not np.allclose(each[0], each[1], atol=1e-2)


def test_image_model_is_applied_to_every_frame(tmp_path: Path, made_clips: Path, data_dir: str):
    """With its weights in a space_only model, "frames" are the image model's features of each frame."""
    vit = FlaxVit(False)
    random = np.random.default_rng(0)
    with jax.numpy_rank_promotion("allow"):
        shapes = jax.eval_shape(vit.init, jax.random.key(0), jnp.zeros((1, 16, 16, 3)))["params"]
    params = jax.tree.map(lambda leaf: jnp.asarray(random.normal(size=leaf.shape) * 0.4, jnp.float32), shapes)
    np.savez(tmp_path / "vit.npz", **{name: np.asarray(array) for name, array in flatten_params(params).items()})
    size = {"image_size": 16, "patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 3}
    given = {
        "init_from": str(tmp_path / "vit.npz"),
        "model.attention_type": "space_only",
        "model.activation": "gelu_tanh",  # JAX's own name for it, which the log uses
        "features.kind": "frames",
        "eval.num_clips": 1,
        "eval.num_crops": 1,
        "clips.short_side": (16, 20),
        **{f"model.{name}": value for name, value in size.items()},
    }
    config = features_config(made_clips, data_dir, **given)
    main.run(config, str(tmp_path / "run"), "features")
    found = read_features(tmp_path / "run")
    made = set_up(follow_weights(config, str(tmp_path / "run"), "features"), str(tmp_path / "run"), "features", lock=False)
    (batch,) = made.data.eval_batches("val", EvalViews())
    made.files.checkpoints.close()
    clips = made.model.prepare_eval({name: jnp.asarray(batch[name][:3]) for name in ("video", "rows", "columns")})
    expected, _ = image_outputs(vit, params, clips.reshape(-1, 16, 16, 3))
    order = np.argsort([name.decode() for name in batch["name"][:3]])
    np.testing.assert_allclose(found.values, np.asarray(expected).reshape(3, 4, 24)[order], atol=2e-5)


def test_features_mode_resumes(
    tmp_path: Path, made_clips: Path, data_dir: str, weights: Any, monkeypatch: pytest.MonkeyPatch, caplog: Any
):
    """Existing shards are kept without reading their videos again, and the result is that of an uninterrupted run."""
    given = {"init_from": weights(), "features.videos_per_shard": 1, "eval.num_clips": 1}
    config, folder = features_config(made_clips, data_dir, **given), tmp_path / "two" / "features" / "val"
    write, asked = FeatureWriter.write, []

    def stop(self: FeatureWriter, shard: int, rows: Any) -> None:
        if shard == 1:
            (folder / "00001-of-00003.npz.part").write_bytes(b"half")
            raise KeyboardInterrupt
        write(self, shard, rows)

    monkeypatch.setattr(FeatureWriter, "write", stop)
    with pytest.raises(KeyboardInterrupt):
        main.run(config, str(tmp_path / "two"), "features")
    with pytest.raises(InputError, match=r"is not complete \(2 of 3 shards are missing\)"):
        read_features(tmp_path / "two")
    monkeypatch.setattr(FeatureWriter, "write", write)
    made = (folder / "00000-of-00003.npz").stat().st_mtime_ns
    rows_of = mode._rows
    monkeypatch.setattr(mode, "_rows", lambda *args, shard: asked.append(shard) or rows_of(*args, shard=shard))
    with caplog.at_level("INFO", logger="timesformer_jax"):
        main.run(config, str(tmp_path / "two"), "features")
        main.run(config, str(tmp_path / "two"), "features")  # there is nothing left to do
    assert asked == [(1, 3), (2, 3)]
    assert "in 3 shard(s), 1 of which already exist" in caplog.text
    assert (folder / "00000-of-00003.npz").stat().st_mtime_ns == made
    assert sorted(path.name for path in folder.iterdir()) == [f"0000{i}-of-00003.npz" for i in range(3)] + ["features.json"]
    main.run(config, str(tmp_path / "one"), "features")
    one, two = (read_features(tmp_path / name) for name in ("one", "two"))
    assert one.names == two.names
    np.testing.assert_array_equal(one.values, two.values)

    for overrides, words in (
        ({"features.kind": "frames"}, "kind is 'cls' there and 'frames' here"),
        ({"clips.sampling_rate": 2.0}, "preprocess.sampling_rate is 4.0 there and 2.0 here"),
        ({"init_from": weights(seed=1)}, "weights are from .*time-0 there and from .*time-1 here"),
    ):
        clips = made_clips if "init_from" in overrides else Path("/no/such/folder")  # the digest needs the weights
        with pytest.raises(InputError, match=words) as caught:
            main.run(features_config(clips, data_dir, **{**given, **overrides}), str(tmp_path / "two"), "features")
        assert "\n" not in str(caught.value)
    np.testing.assert_array_equal(read_features(tmp_path / "two").values, one.values)


def test_unreadable_videos_are_named(tmp_path: Path, made_clips: Path, broken_clips: Path, weights: Any):
    for split in ("train", "val"):
        for label in LABELS:
            (tmp_path / "clips" / split / label).mkdir(parents=True)
            shutil.copy(made_clips / label / "0.mp4", tmp_path / "clips" / split / label)
    shutil.copy(broken_clips / "text.mp4", tmp_path / "clips" / "val" / "down")
    config = features_config(tmp_path / "clips", str(tmp_path / "data"), init_from=weights(), **{"eval.num_clips": 1})
    main.run(config, str(tmp_path / "run"), "features")
    found = read_features(tmp_path / "run")
    assert found.names == [f"val/{label}/0.mp4" for label in LABELS]
    assert list(found.unreadable) == ["val/down/text.mp4"]
    assert "Invalid data" in found.unreadable["val/down/text.mp4"]
    about = json.loads((tmp_path / "run" / "features" / "val" / "features.json").read_text())
    assert (about["num_videos"], about["num_rows"], about["description"]["videos"]["split"]) == (3, 9, "val")


@pytest.mark.parametrize("missing", [[], [0, 1, 2, 3], [1, 4, 6]], ids=len)
def test_shards_are_divided_among_processes(missing: list[int]):
    """One process writes each shard, all run equally many steps, and those that hold the same clips make the same shard."""
    shares = [Share(index, 2, leads) for index in (0, 1) for leads in (True, False)]
    rounds = [list(turns(missing, share)) for share in shares]
    assert {len(each) for each in rounds} == {-(-len(missing) // 2)}
    assert sorted(shard for each in rounds for shard, writes in each if writes) == missing
    assert [shard for shard, _ in rounds[0]] == [shard for shard, _ in rounds[1]]


@pytest.mark.slow
def test_two_processes_write_the_same_as_one(tmp_path: Path, made_clips: Path, data_dir: str):
    model = tsf.TimeSformer(3, image_size=32, num_frames=8, embed_dim=32, depth=1, num_heads=4, initialization="from_scratch")
    preprocess = tsf.Preprocess(num_frames=8, crop_size=32)
    tsf.save(tsf.Pretrained(model, random_variables(model)["params"], preprocess, tuple(LABELS)), tmp_path / "weights")
    for processes, name in ((1, "one"), (2, "two")):
        fields = [f"--config.init_from={tmp_path / 'weights'}", "--config.features.videos_per_shard=1", "--mode=features"]
        finish(start([*flags(made_clips, data_dir, tmp_path / name), *fields], processes=processes, devices=2 // processes))
    one, two = (read_features(tmp_path / name) for name in ("one", "two"))
    assert one.names == two.names
    np.testing.assert_allclose(one.values, two.values, atol=1e-5)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({}, r"--mode=features needs a trained model: .* no checkpoint in .*, and init_from isn't set"),
        ({"features.kind": "deep"}, "features.kind must be one of cls, frames, patches, got 'deep'"),
        ({"features.dtype": "int8"}, "features.dtype must be one of float32, float16, got 'int8'"),
        ({"features.videos_per_shard": 0}, "features.videos_per_shard must be at least 1, got 0"),
        ({"features.splits": ()}, r"features.splits must be some of \('train', 'val'\), each once"),
        ({"features.splits": "val"}, "features.splits must be some of"),
        ({"features.splits": ("val", "test")}, "features.splits must be some of"),
    ],
    ids=lambda value: next(iter(value), "no backbone") if isinstance(value, dict) else "",
)
def test_features_mode_rejects_bad_input_with_a_clear_error(tmp_path: Path, overrides: dict, words: str):
    """Before anything is prepared or written."""
    with pytest.raises(InputError, match=words) as caught:
        main.run(features_config(Path("/no/such/folder"), "", **overrides), str(tmp_path / "new"), "features")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "new").exists()
