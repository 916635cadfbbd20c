"""Errors of main.py's jobs for bad input, before data are prepared wherever that is possible."""

import math
import shutil
from pathlib import Path

import pytest

import main
from experiment.checks import check_objective
from tests.runs import OTHER_SETTINGS, small_folder
from timesformer_jax import InputError


def test_training_rejects_settings_that_contradict_the_run(trained: Path, tmp_path: Path):
    """Only typed settings are refused, before any data are prepared; those of the config file give way."""
    config = small_folder(Path("/no/such/folder"), str(tmp_path), **OTHER_SETTINGS)
    words = r"--config.clips.sampling_rate is 2, and the checkpoint has 8; --config.clips.placement is centre, .* has official"
    with pytest.raises(InputError, match=words):
        main.run(config, str(trained), "train", typed=["clips.placement", "clips.sampling_rate"])
    with pytest.raises(InputError, match="There is no folder /no/such/folder"):
        main.run(config, str(trained), "train", typed=["data.root"])


@pytest.mark.parametrize("mode", ["train", "eval", "features"])
def test_contradicting_labels_are_rejected_before_preparation(mode: str, trained: Path, made_clips: Path, tmp_path: Path):
    shutil.copytree(made_clips, tmp_path / "clips")
    (tmp_path / "clips" / "down").rename(tmp_path / "clips" / "up")
    config = small_folder(tmp_path / "clips", str(tmp_path / "data"))
    with pytest.raises(InputError, match=r"label_names is 'down' there and 'up' here"):
        main.run(config, str(trained), mode)
    assert not list((tmp_path / "data").rglob("*.tfrecord*"))


def test_multi_label_data_are_rejected_for_a_single_label_run(trained: Path):
    check_objective(str(trained), "softmax")
    with pytest.raises(InputError, match=r"trained for one label per video \(objective softmax\), and this data set has any"):
        check_objective(str(trained), "sigmoid")


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"data.root": "/no/such/folder"}, "There is no folder /no/such/folder"),
        ({"data.root": None}, "data.root is not set"),
        ({"train.batch_size": 12}, "train.batch_size=12 can't be split evenly over 8 device"),
        ({"model.image_size": 33}, "image_size 33 x 33 .* 16 x 16 patches"),
        ({"model.image_size": 64}, "clips.short_side .* at least 64, the side of the crop"),
        ({"model.attention_type": "both"}, "attention_type must be one of"),
        ({"data.name": "kinetics"}, "data.name must be one of moving_digits, kinetics400, .*, video_folder"),
        ({"data.short_side": 31}, "data.short_side=31 would keep smaller frames than clips.short_side=.32, 40. needs"),
        ({"data.storage": "png"}, "data.storage must be one of jpeg, h264, got 'png'"),
        ({"clips.short_side": 64}, "clips.short_side must be .smallest, largest.* got 64"),
        ({"model.dtype": "flot16"}, "model.dtype must be one of float32"),
        ({"eval.batch_size": 0}, "eval.batch_size must be above 0"),
        ({"train.log_every_steps": 0}, "train.log_every_steps must be above 0"),
        ({"train.evaluate_every_epochs": 0.0}, "train.evaluate_every_epochs must be above 0"),
        ({"seed": -1}, "seed must be at least 0"),
        ({"data.data_dir": "/dev/null/x"}, "data.data_dir=/dev/null/x can't be used as a folder"),
        ({"optimizer.name": "adam"}, "optimizer.name must be one of sgd, adamw"),
        ({"mesh.data": 3}, "must multiply to the number of devices, 8; got mesh.data=3"),
        ({"mesh.context": 4, "model.attention_type": "joint_space_time"}, "mesh.context=4 splits a clip's frames, which only"),
        ({"train.accumulation": 2}, "train.batch_size=8 .* 8 device.* and 2 micro-batches: use a multiple of 16"),
        ({"train.ema_decay": 1.0}, "train.ema_decay must be at least 0 and below 1"),
        ({"train.data_share": 0.0}, "train.data_share must be above 0 and at most 1, got 0"),
        ({"train.data_share": 0.5}, "run.num_videos is 9 there and 4 here"),
        ({"eval.checkpoint": "first"}, "eval.checkpoint must be one of latest, best"),
        ({"eval.average": "max"}, "eval.average must be one of probabilities, logits"),
        ({"eval.split": "test"}, "eval.split must be one of train, val, got 'test'"),
        ({"model.embed_dim": 64}, "model.embed_dim is 32 there and 64 here"),
        ({"optimizer.name": "sgd"}, "optimizer.name is 'adamw' there and 'sgd' here"),
        ({"optimizer.rates": (("head/.*", 1.0), (".*", None))}, "optimizer.frozen is 0 long there and 27 here"),
        ({"optimizer.rates": (("head/.*", 1.0),)}, r"rates has no pattern for the parameter blocks_0/attn/proj/bias"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_bad_input_is_a_clear_error(trained: Path, made_clips: Path, data_dir: str, overrides: dict, words: str):
    with pytest.raises(InputError, match=words) as caught:
        main.run(small_folder(made_clips, data_dir, **overrides), str(trained), "train")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"eval.num_crops": 2}, "eval.num_crops must be 1"),
        ({"eval.num_clips": 0}, "eval.num_clips must be a whole number of at least 1"),
        ({"clips.clips_per_video": 3}, "clips.clips_per_video=3 doesn't divide the 8 clips"),
        ({"pixels.std": (0.2, 0.0, 0.2)}, "pixels.std must be above 0"),
        ({"clips.short_side": ("a", "b")}, "clips.short_side must be .smallest, largest."),
        ({"train.num_epochs": math.inf}, "train.num_epochs must be above 0 and finite, got inf"),
        (
            {"optimizer.warmup_epochs": math.nan},
            "optimizer.learning_rate must be positive and optimizer.warmup_epochs must not be negative",
        ),
        ({"init_from_allow": ("(",)}, "--config.init_from_allow takes regular expressions, and '.' is not one"),
        ({"model.num_frames": 0}, "--config.model.num_frames must be a whole number of at least 1, got 0"),
        ({"optimizer.name": "adam"}, "optimizer.name must be one of sgd, adamw"),
        ({"optimizer.rates": (("head/.*", 1.0),)}, "rates has no pattern for the parameter"),
        ({"init_from": "timesformer-base"}, "no published model of this name. Known: timesformer-base-k400"),
        ({"init_from": "/no/weights.pyth"}, "There is no file or folder /no/weights.pyth"),
        ({"model.dtype": "float16"}, "model.dtype=float16 is for testing: .* Use bfloat16"),
        (
            {"mixing.cutmix": 1.0, "train.accumulation": 8, "mesh.data": 1, "mesh.context": 4, "mesh.tensor": 2},
            r"which has only one clip .train\.batch_size=8, train\.accumulation=8.: give it two, or set both to 0",
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_impossible_configs_are_rejected_before_preparation(tmp_path: Path, overrides: dict, words: str):
    """And before there is a model to evaluate: here there aren't even data."""
    with pytest.raises(InputError, match=words):
        main.run(small_folder(Path("/no/such/folder"), str(tmp_path), **overrides), str(tmp_path / "run"), "train")


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (
            {"model.embed_dim": 64},
            "model.embed_dim=64 contradicts the weights in .*, which have embed_dim=32",
        ),
        ({"model.patch_size": 8}, "model.patch_size=8 contradicts the weights in .*, which have patch_size=16"),
        ({"model.depth": 2}, "model.depth=2 contradicts the weights in .*, which have depth=1"),
        ({"model.num_frames": 4}, "There is no folder /no/such/folder"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
@pytest.mark.parametrize("mode", ["train", "probe", "features"])
def test_unsuitable_weights_are_rejected_before_preparation(
    trained: Path, tmp_path: Path, mode: str, overrides: dict, words: str
):
    """In every mode that starts from weights; fitting ones proceed to the data, which are missing."""
    config = small_folder(Path("/no/such/folder"), str(tmp_path), init_from=str(trained), **overrides)
    with pytest.raises(InputError, match=words):
        main.run(config, str(tmp_path / "run"), mode)


def test_contradicting_run_is_rejected_before_preparation(trained: Path, tmp_path: Path):
    for mode, overrides, words in (
        ("train", {"model.depth": 2}, "model.depth is 1 there and 2 here"),
        ("train", {"seed": 1}, "run.seed is 0 there and 1 here"),
        ("eval", {"model.depth": 2}, "model.depth is 1 there and 2 here"),
        ("probe", {"model.depth": 2}, "model.depth is 1 there and 2 here"),
        ("features", {"model.depth": 2}, "model.depth is 1 there and 2 here"),
    ):
        with pytest.raises(InputError, match=words):
            main.run(small_folder(Path("/no/such/folder"), str(tmp_path), **overrides), str(trained), mode)
    for mode in ("eval", "report"):
        with pytest.raises(InputError, match="There is no checkpoint in"):
            main.run(small_folder(Path("/no/such/folder"), str(tmp_path)), str(tmp_path / "new"), mode)


def test_different_labels_are_a_different_model(trained: Path, tmp_path: Path, made_clips: Path, data_dir: str):
    clips = tmp_path / "clips"
    shutil.copytree(made_clips, clips)
    (clips / "back").rename(clips / "forth")
    with pytest.raises(InputError, match=r"data\.label_names is 'back' there and 'down' here at number 1"):
        main.run(small_folder(clips, data_dir), str(trained), "eval")


def test_eval_needs_a_checkpoint(tmp_path: Path, made_clips: Path, data_dir: str):
    with pytest.raises(InputError, match=r"There is no checkpoint in .*train first"):
        main.run(small_folder(made_clips, data_dir), str(tmp_path / "new"), "eval")
    assert not (tmp_path / "new").exists()


def test_workdir_must_not_be_a_file(tmp_path: Path, made_clips: Path, data_dir: str):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"--workdir=.*file can't be used as a folder: File exists"):
        main.run(small_folder(made_clips, data_dir), str(tmp_path / "file"), "train")
