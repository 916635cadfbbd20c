"""The jobs of main.py end to end, and their errors for bad input."""

import json
import math
import re
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from etils import epath

import experiment.show
import main
import timesformer_jax as tsf
from configs.folder import get_config
from experiment.checks import check_objective
from experiment.train import hint_at_small
from tests.runs import predictions, results, small_folder
from timesformer_jax import InputError, evaluation, training
from timesformer_jax.pretrained.orbax import read_checkpoint
from timesformer_jax.state_files import sealed

ONE_VIEW = {"eval.num_clips": 1, "eval.num_crops": 1}
"""Overrides that reuse the validation's compiled program for evaluation, if the number of views doesn't matter."""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, made_clips: Path, data_dir: str) -> Path:
    workdir = tmp_path_factory.mktemp("trained")
    main.run(small_folder(made_clips, data_dir), str(workdir), "train")
    return workdir


def test_training_writes_checkpoints_metrics_and_results(trained: Path):
    assert (trained / "checkpoints" / "2").is_dir()
    assert training.Checkpoints(str(trained / "checkpoints"), {}, read_only=True).pipeline == {"next_clip": 16}
    (events,) = trained.glob("events.out.tfevents*")
    for tag in (b"train/loss", b"val/loss", b"val/top1"):
        assert tag in events.read_bytes()
    result = results(trained)
    assert (result["split"], result["num_videos"], result["num_clips"], result["num_crops"]) == ("val", 3, 2, 3)
    assert result["step"] == 2
    assert result["note"].startswith("A toy: this small model learns from random weights")
    assert "--config=configs/folder.py:video_folder,finetune" in result["note"]
    assert 0 <= result["top1"] <= result["top5"] == 1
    rows = predictions(trained)
    assert len(rows) == 3
    assert all(row["views"] == 6 and row["video"].startswith(row["label"]) for row in rows.values())


def test_eval_reproduces_its_scores(trained: Path, tmp_path: Path, made_clips: Path, data_dir: str):
    before = predictions(trained)
    for batch_size in (1, 64):
        main.run(small_folder(made_clips, data_dir, **{"eval.batch_size": batch_size}), str(trained), "eval")
        for name, row in predictions(trained).items():
            assert dict(row["best"]) == pytest.approx(dict(before[name]["best"]), abs=2e-6)
    main.run(small_folder(made_clips, data_dir, **{"eval.split": "train"}), str(trained), "eval")
    assert results(trained)["num_videos"] == 9


def test_run_is_loaded_with_its_labels_and_preprocessing(trained: Path, made_clips: Path):
    """From the run's files, `predict` matches the run's own evaluation of a video, up to JPEG rounding."""
    pretrained = tsf.load(trained)
    assert pretrained.labels == ("across", "back", "down")
    config = small_folder(made_clips, "")
    expected = {"sampling": "uniform", "sampling_rate": config.clips.sampling_rate, "crop_size": 32, "short_side": 32}
    assert {name: getattr(pretrained.preprocess, name) for name in expected} == expected
    assert not pretrained.report.notes
    for name, row in predictions(trained).items():
        best = dict(pretrained.predict(made_clips / name, num_clips=2, num_crops=3))
        assert best == pytest.approx(dict(row["best"]), abs=0.02)


OTHER_SETTINGS = {
    "clips.placement": "centre",
    "clips.sampling_rate": 2.0,
    "clips.short_side": (36, 40),
    "pixels.mean": (0.5, 0.5, 0.5),
    "pixels.channel_order": "bgr",
}


def test_eval_uses_the_settings_of_the_run(trained: Path, made_clips: Path, data_dir: str, caplog):
    """The config file's settings are ignored, as it serves other runs too; those of the command line are used and logged."""
    main.run(small_folder(made_clips, data_dir, **ONE_VIEW), str(trained), "eval")
    before, preprocess = predictions(trained), tsf.load(trained).preprocess.as_dict()
    assert results(trained)["preprocess"] == preprocess
    other = small_folder(made_clips, data_dir, **ONE_VIEW, **OTHER_SETTINGS)
    with caplog.at_level("INFO", logger="timesformer_jax"):
        main.run(other, str(trained), "eval")
        assert re.search(r"pixels.mean +0\.45, 0\.45, 0\.45 +0\.5, 0\.5, 0\.5 \(config\) +checkpoint\n", caplog.text)
        assert predictions(trained) == before
        assert results(trained)["preprocess"] == preprocess
        main.run(other, str(trained), "eval", typed=["clips.sampling_rate", "pixels.channel_order"])
    assert re.search(r"clips.sampling_rate +8 +2 \(command line\) +this run", caplog.text)
    assert results(trained)["preprocess"] == {**preprocess, "sampling_rate": 2.0, "channel_order": "bgr"}
    assert predictions(trained) != before


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


@pytest.mark.slow
def test_training_with_every_augmentation(tmp_path: Path, made_clips: Path, data_dir: str, caplog):
    changes = {f"pixels.{name}": 0.3 for name in ("brightness", "contrast", "saturation", "hue", "grey", "blur", "erase")} | {
        "pixels.rand_augment": (2, 9.0)
    }
    config = small_folder(
        made_clips, data_dir, **changes, **{"mixing.mixup": 0.8, "mixing.cutmix": 1.0, "clips.placement": "centre"}
    )
    with caplog.at_level("INFO", logger="timesformer_jax"):
        main.run(config, str(tmp_path), "train")
    assert results(tmp_path)["placement"] == "centre"
    assert tsf.load(tmp_path).preprocess.placement == "centre"
    assert "Flips are on: no label mentions a side." in caplog.text


def test_drawn_clips_are_the_model_input(tmp_path: Path, made_clips: Path, data_dir: str, monkeypatch: pytest.MonkeyPatch):
    """Drawn clips are exactly the model's input, and mixed clips list their components."""
    drawn = {}
    draw = experiment.show.draw_clips

    def note(path: epath.Path, clips: np.ndarray, titles: list[str]) -> None:
        drawn[path.name] = clips, titles
        draw(path, clips, titles)

    monkeypatch.setattr(experiment.show, "draw_clips", note)
    main.run(small_folder(made_clips, data_dir, **{"mixing.cutmix": 1.0}), str(tmp_path), "show")
    assert {path.name for path in tmp_path.glob("*.png")} == {"train.png", "val.png"} == drawn.keys()
    clips, titles = drawn["train.png"]
    assert clips.shape == (8, 8, 32, 32, 3)
    assert all(re.fullmatch(r"(across|back|down): \d+%, (across|back|down): \d+%", title) for title in titles)
    clips, titles = drawn["val.png"]
    assert len(clips) == len(titles) == 3  # three videos, without padding
    name = titles[0].partition(": ")[2]
    crop = tsf.Preprocess(num_frames=8, crop_size=32, sampling_rate=8.0, mean=(0, 0, 0), std=(1, 1, 1))(
        made_clips / name, num_crops=1
    )
    assert np.abs(crop[0] * 255 - clips[0]).mean() < 6  # up to JPEG's loss
    assert (tmp_path / "val.png").read_bytes().startswith(b"\x89PNG")


def test_report_of_an_evaluation(trained: Path, tmp_path: Path, made_clips: Path, data_dir: str):
    """It shows every evaluated video with its label, predictions and map, the settings of training, and another run."""
    main.run(small_folder(made_clips, data_dir, **{"eval.num_clips": 2}), str(trained), "eval")
    shutil.copytree(trained, tmp_path / "other")
    main.run(small_folder(made_clips, data_dir, **{"report.compare": str(tmp_path / "other")}), str(trained), "report")
    page = (trained / "report.html").read_text()
    examples = re.findall(r'<article class="example.*?</article>', page, re.DOTALL)
    assert len(examples) == len(predictions(trained)) == 3
    for name, row in predictions(trained).items():
        (example,) = [each for each in examples if f'<p class="file">{name}</p>' in each]
        assert row["label"] in re.search("<h3>.*</h3>", example)[0]
        assert re.search(r'<span class="name">(.*?)<', example)[1] == row["best"][0][0]
        assert (f"taken for {row['best'][0][0]}" in example) == (row["label"] != row["best"][0][0])
        assert 'class="maps" src="data:image/png;base64,' in example
        area = [float(value) for value in re.search('data-area="(.*?)"', example)[1].split()]
        assert area == pytest.approx([0, 5 / 42, 1, 32 / 42])  # the middle square of 48 x 64 pixels, scaled to 32 x 42
    found = results(trained)
    assert re.search(rf"{100 * found['top1']:.2f} %\s+<small>\({100 * found['intervals']['top1'][0]:.2f} to", page)
    assert "Accuracy by number of clips" in page
    assert re.search(r">optimizer\.name</th><td>adamw</td>", page)
    assert "±0.0 percentage points" in page
    assert 'src="http' not in page
    assert 'href="http' not in page


@pytest.mark.parametrize(("field", "value"), [("num_videos", -1), ("num_points", 0)])
def test_report_options_are_checked_first(trained: Path, tmp_path: Path, field: str, value: int):
    with pytest.raises(InputError, match=f"--config.report.{field} must be at least {value + 1}, got {value}"):
        main.run(small_folder(Path("/no/such/folder"), str(tmp_path), **{f"report.{field}": value}), str(trained), "report")


def test_report_checks_what_it_compares_with_first(trained: Path, tmp_path: Path):
    config = small_folder(Path("/no/such/folder"), str(tmp_path), **{"report.compare": str(tmp_path / "none")})
    with pytest.raises(InputError, match=r"There are no evaluation results in .*none"):
        main.run(config, str(trained), "report")
    (tmp_path / "other").mkdir()
    rows = [*predictions(trained).values()][1:]
    evaluation.write_results(str(tmp_path / "other"), results(trained), rows)
    config.report.compare = str(tmp_path / "other")
    with pytest.raises(InputError, match=r"have evaluated different videos \(3 and 2, of which 2 are the same"):
        main.run(config, str(trained), "report")


def test_report_needs_an_evaluation_with_its_checkpoint(trained: Path, tmp_path: Path, made_clips: Path, data_dir: str):
    shutil.copytree(trained, tmp_path / "run")
    (tmp_path / "run" / "results.json").write_text(json.dumps(sealed({**results(trained), "step": 7})))
    with pytest.raises(InputError, match=r"results.json is of step 7, whose checkpoint isn't kept any more .there are \d+"):
        main.run(small_folder(made_clips, data_dir), str(tmp_path / "run"), "report")
    (tmp_path / "run" / "results.json").unlink()
    with pytest.raises(InputError, match=r"There are no evaluation results in .*run: evaluate the run"):
        main.run(small_folder(made_clips, data_dir), str(tmp_path / "run"), "report")


def test_resumed_run_equals_an_uninterrupted_one(
    tmp_path: Path, made_clips: Path, data_dir: str, monkeypatch: pytest.MonkeyPatch
):
    """Two epochs and two more equal four in one run, bit by bit; with another mesh, also over frames, to 1e-5."""
    options = {
        "optimizer.schedule": "constant",
        "optimizer.name": "sgd",  # Adam turns rounding noise into steps of full size
        "train.ema_decay": 0.9,
        "train.evaluate_every_epochs": 2.0,
        **ONE_VIEW,
        "model.num_frames": 4,
    }
    longer = {**options, "train.num_epochs": 4.0}
    other = {**longer, "mesh.data": 1, "mesh.fsdp": 2, "mesh.tensor": 2, "mesh.context": 2}
    main.run(small_folder(made_clips, data_dir, **longer), str(tmp_path / "whole"), "train")
    main.run(small_folder(made_clips, data_dir, **options), str(tmp_path / "parts"), "train")
    assert results(tmp_path / "parts")["step"] == 2
    shutil.copytree(tmp_path / "parts", tmp_path / "other")
    monkeypatch.setattr(training, "init_state", None)  # resuming allocates no second state
    main.run(small_folder(made_clips, data_dir, **longer), str(tmp_path / "parts"), "train")
    main.run(small_folder(made_clips, data_dir, **other), str(tmp_path / "other"), "train")
    assert results(tmp_path / "parts")["step"] == results(tmp_path / "whole")["step"] == 4
    assert predictions(tmp_path / "whole") == predictions(tmp_path / "parts")
    params = {name: read_checkpoint(tmp_path / name / "checkpoints" / "4")[0] for name in ("whole", "parts", "other")}
    jax.tree.map(np.testing.assert_array_equal, params["whole"], params["parts"])

    def close(a: np.ndarray, b: np.ndarray) -> None:
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * np.abs(a).max() + 1e-8)

    jax.tree.map(close, params["whole"], params["other"])
    for name, row in predictions(tmp_path / "whole").items():
        assert dict(row["best"]) == pytest.approx(dict(predictions(tmp_path / "other")[name]["best"]), abs=1e-5)


def test_run_starts_from_the_weights_of_another_run(tmp_path: Path, trained: Path, made_clips: Path, data_dir: str, caplog):
    """`init_from` only applies if the workdir has no checkpoint; the log states which was used."""
    options = {"init_from": str(trained), "optimizer.learning_rate": 1e-12, "train.ema_decay": 0.5}
    options |= {"train.evaluate_every_epochs": 2.0, **ONE_VIEW}
    options |= {"optimizer.schedule": "steps", "optimizer.steps": ((0, 1.0), ("1/2", 0.1), (2, 0.01))}
    with caplog.at_level("INFO", logger="timesformer_jax"):
        main.run(small_folder(made_clips, data_dir, **options), str(tmp_path), "train")
        assert f"Starting from the weights of init_from={trained}" in caplog.text
        assert "rows kept by label, 0 fresh, 0 dropped" in caplog.text
        assert "optimizer.steps begin at epoch 2, which this run of 2 epochs does not reach" in caplog.text
        assert "2 steps in all are few to learn from; --config=configs/folder.py:video_folder,finetune,small" in caplog.text
        assert "A toy" not in caplog.text
        assert "note" not in results(tmp_path)
        assert "init_from=" not in caplog.text.partition("Resuming from the checkpoint")[2]
        before, after = (read_checkpoint(path / "checkpoints" / "2")[0] for path in (trained, tmp_path))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), before, after)
        main.run(small_folder(made_clips, data_dir, **options), str(tmp_path), "train")
        assert f"init_from={trained} is ignored" in caplog.text
    with pytest.raises(InputError, match=r"run.seed is 0 there and 1 here"):
        main.run(small_folder(made_clips, data_dir, **options, seed=1), str(tmp_path), "train")
    main.run(small_folder(made_clips, data_dir, **options, seed=1), str(tmp_path), "eval")  # which draws nothing


@pytest.mark.parametrize(
    ("variant", "num_videos", "total_steps", "small_steps"),
    [
        ("video_folder,finetune", 24, 6, 90),
        ("ucf101,finetune,modern", 40, 38, 150),
        ("video_folder,finetune", 1000, 234, None),
        ("video_folder,finetune,small", 8, 30, None),
        ("video_folder", 6, 45, None),  # random weights, not fine-tuned
    ],
)
def test_short_fine_tuning_hints_at_small(variant: str, num_videos: int, total_steps: int, small_steps: int | None):
    hint = hint_at_small(get_config(variant), num_videos, total_steps)
    if small_steps is None:
        assert hint is None
    else:
        assert hint is not None
        assert hint.startswith(f"{total_steps} steps in all")
        assert f":{variant.split(',')[0]},finetune,small would make {small_steps} " in hint


def test_eval_of_the_best_checkpoint(trained: Path, made_clips: Path, data_dir: str):
    best = training.Checkpoints(str(trained / "checkpoints"), {}, read_only=True).best_step
    main.run(small_folder(made_clips, data_dir, **{"eval.checkpoint": "best"}), str(trained), "eval")
    assert results(trained)["step"] == best


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


@pytest.mark.slow
def test_non_finite_loss_ends_training(tmp_path: Path, made_clips: Path, data_dir: str):
    config = small_folder(
        made_clips,
        data_dir,
        **{
            "optimizer.name": "sgd",
            "optimizer.learning_rate": 1e30,
            "train.num_epochs": 9.0,
            "train.evaluate_every_epochs": 99.0,
            "train.max_skipped_steps": 3,
        },
    )
    with pytest.raises(InputError, match=r"not finite in \d+ steps in a row, up to step \d+ .* Lower optimizer.learning_rate"):
        main.run(config, str(tmp_path), "train")


def test_multi_label_training(tmp_path: Path, made_clips: Path):
    """Multi-label targets are mixed and smoothed like others, and evaluated by mean average precision."""
    for split in ("train", "val"):
        rows = [
            {"path": f"{label}/{number}.mp4", "labels": labels}
            for label, labels in (("across", ["square", "moves right"]), ("down", ["square"]), ("back", []))
            for number in range(4)
        ]
        (tmp_path / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    lists = {f"data.{split}": str(tmp_path / f"{split}.jsonl") for split in ("train", "val")}
    options = {"mixing.mixup": 0.8, "train.label_smoothing": 0.1, "optimizer.schedule": "constant", "train.num_epochs": 20.0}
    options |= {"train.evaluate_every_epochs": 10.0, **ONE_VIEW}
    config = small_folder(made_clips, str(tmp_path), argument="video_list", **lists, **options, **{"train.accumulation": 1})
    main.run(config, str(tmp_path / "run"), "train")
    found = results(tmp_path / "run")
    assert found["map"] > 0.7
    rows = predictions(tmp_path / "run")
    assert {tuple(row["labels"]) for row in rows.values()} == {("moves right", "square"), ("square",), ()}
    assert all(0 <= score <= 1 for row in rows.values() for _, score in row["best"])
    assert tsf.load(tmp_path / "run").objective == "sigmoid"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["_CHECKPOINT_METADATA", "params/ocdbt.process_0/d/*"])
def test_damaged_newest_checkpoint_loses_only_its_steps(
    trained: Path, tmp_path: Path, made_clips: Path, data_dir: str, name: str, caplog: pytest.LogCaptureFixture
):
    """Evaluation names it; training resumes from the previous one and ends like an undisturbed run."""
    shutil.copytree(trained, tmp_path / "run")
    folder = tmp_path / "run" / "checkpoints"
    (path,) = (folder / "2").glob(name)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    config = small_folder(made_clips, data_dir)
    with pytest.raises(InputError, match=r"checkpoints/2 is damaged: .* The one of step 1 before it is intact"):
        main.run(config, str(tmp_path / "run"), "eval")
    main.run(config, str(tmp_path / "run"), "train")
    assert "The run resumes from step 1 instead of step 2." in caplog.text
    assert sorted(path.name for path in folder.iterdir()) == ["1", "2", "damaged-2"]
    jax.tree.map(
        np.testing.assert_array_equal, *(read_checkpoint(place)[0] for place in (folder / "2", trained / "checkpoints" / "2"))
    )
