"""The jobs of main.py end to end."""

import json
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
from experiment.train import hint_at_small
from tests.runs import OTHER_SETTINGS, predictions, results, small_folder
from timesformer_jax import InputError, training
from timesformer_jax.pretrained.orbax import read_checkpoint

ONE_VIEW = {"eval.num_clips": 1, "eval.num_crops": 1}
"""Overrides that reuse the validation's compiled program for evaluation, if the number of views doesn't matter."""


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
