"""`--mode=eval`: results independent of batching, and resumption of stopped evaluations."""

import csv
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import pytest

import main
from experiment.data import RunData, clip_options
from experiment.follow import follow_weights
from input_pipeline import EvalViews, open_dataset
from tests.runs import ROOT, figures, on_devices, predictions, results, small_folder
from timesformer_jax import evaluation, training

VIEWS = {"eval.split": "train", "eval.num_clips": 4, "eval.num_crops": 3, "eval.average": "logits"}
FILES = ("results.json", "predictions.jsonl", "confusion.csv")


@pytest.fixture(autouse=True, scope="module")
def optax_promotes() -> Iterator[None]:
    """Allow dtype promotion, since optax mixes dtypes."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, made_clips: Path, data_dir: str) -> Path:
    """A short run, followed by an evaluation on one clip and crop of its validation videos."""
    workdir = tmp_path_factory.mktemp("run")
    options = {"eval.num_clips": 1, "eval.num_crops": 1, "train.num_epochs": 4.0, "train.evaluate_every_epochs": 9.0}
    main.run(small_folder(made_clips, data_dir, **options), str(workdir), "train")
    return workdir


def files(workdir: Path) -> dict[str, str]:
    return {name: (workdir / name).read_text() for name in FILES}


def test_single_view_has_no_curve(run: Path):
    found = results(run)
    assert "by_num_clips" not in found
    assert found["by_average"]["logits"]["top1"] == found["by_average"]["probabilities"]["top1"] == found["top1"]


def test_eval_figures_are_independent_of_batches_and_devices(
    run: Path, made_clips: Path, data_dir: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """36 clips in batches of 1, 7 (8 on eight devices) and 64."""
    make_mesh = training.make_mesh
    found, rows = [], []
    for batch_size, devices in ((64, 8), (7, 8), (1, 1), (7, 1)):
        monkeypatch.setattr(training, "make_mesh", lambda n=devices, **sizes: make_mesh(jax.devices()[:n], **sizes))
        config = small_folder(made_clips, data_dir, **VIEWS, **{"eval.batch_size": batch_size})
        with caplog.at_level("INFO", logger="timesformer_jax"):
            main.run(config, str(run), "eval")
        found.append((list(figures(run).items()), (run / "confusion.csv").read_text()))
        rows.append(predictions(run))
    for each in found[1:]:
        assert each == found[0]
    for other in rows:
        for name, row in rows[0].items():
            assert row["views"] == 12
            assert dict(row["best"]) == pytest.approx(dict(other[name]["best"]), abs=2e-6)

    top = results(run)
    names = {"top1", "top5", "mean_class_accuracy", "calibration_error"}
    assert top["intervals"].keys() == top["by_average"]["logits"].keys() == top["by_average"]["probabilities"].keys() == names
    assert top["by_average"]["logits"] == {name: top[name] for name in names}
    assert list(top["by_num_clips"]) == ["1", "2", "3", "4"]
    assert top["by_num_clips"]["4"] == {"top1": top["top1"], "top5": top["top5"]}
    header, *table = csv.reader((run / "confusion.csv").read_text().splitlines())
    assert header == ["label", "across", "back", "down"]
    counts = np.array([list(map(int, row[1:])) for row in table])
    assert counts.sum(axis=1).tolist() == [3, 3, 3]
    assert np.trace(counts) / 9 == pytest.approx(top["top1"], abs=1e-6)
    predicted = [(row["label"], row["best"][0][0]) for row in rows[0].values()]
    assert counts[0, 1] == predicted.count(("across", "back"))
    low, high = (100 * end for end in top["intervals"]["top1"])
    words = f"top-1 {100 * top['top1']:.2f} % (95 % interval {low:.2f} to {high:.2f})"
    assert words in caplog.text


def test_curve_reuses_the_clips_of_a_smaller_evaluation(run: Path, made_clips: Path, data_dir: str):
    """With official placement, two of four clips are exactly the clips of an evaluation with two."""
    main.run(small_folder(made_clips, data_dir, **VIEWS), str(run), "eval")
    four = results(run)
    main.run(small_folder(made_clips, data_dir, **{**VIEWS, "eval.num_clips": 2}), str(run), "eval")
    assert results(run)["by_num_clips"] == {count: four["by_num_clips"][count] for count in ("1", "2")}
    assert results(run)["num_clips"] == 2


def test_tiled_clips_have_no_curve(run: Path, made_clips: Path, data_dir: str):
    options = {**VIEWS, "clips.placement": "tiled", "clips.sampling_rate": 2.0}
    del options["eval.num_clips"]
    main.run(small_folder(made_clips, data_dir, **options), str(run), "eval", typed=options)
    assert "by_num_clips" not in results(run)
    assert {row["views"] for row in predictions(run).values()} == {9}
    assert results(run)["num_clips"] == 9 / results(run)["num_crops"]


def test_validation_takes_a_single_clip_of_tiled_videos(tmp_path: Path, made_clips: Path, data_dir: str):
    """Of HowTo100M's videos, validation would otherwise take fifty."""
    options = {"clips.placement": "tiled", "clips.sampling_rate": 2.0}
    config = follow_weights(small_folder(made_clips, data_dir, **options), str(tmp_path), "train", typed=options)
    data = RunData(config, open_dataset(**config.data), clip_options(config), EvalViews(), training.make_mesh())
    rows = {views: sum(int(batch["mask"].sum()) for batch in data.eval_batches("val", views)) for views in (None, EvalViews())}
    assert rows == {None: data.num_videos("val"), EvalViews(): 3 * data.num_videos("val")}


def test_killed_evaluation_resumes_with_the_same_results(
    run: Path, made_clips: Path, data_dir: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """Killed at the third of five batches: finished clips are neither decoded nor scored again, and the files are the same."""
    config = small_folder(made_clips, data_dir, **VIEWS, **{"eval.batch_size": 8})
    main.run(config, str(run), "eval")
    undisturbed = files(run)
    for name in FILES:
        (run / name).unlink()

    clips: list[tuple[bytes, int]] = []
    add = evaluation.ClipRows.add

    def note(self: evaluation.ClipRows, batch: dict[str, np.ndarray], sums: np.ndarray) -> None:
        if len(clips) == 16:
            raise RuntimeError("killed")
        clips.extend(zip(batch["name"][batch["mask"]], batch["clip"][batch["mask"], 1].tolist(), strict=True))
        add(self, batch, sums)

    with monkeypatch.context() as patch:
        patch.setattr(evaluation.ClipRows, "add", note)
        with pytest.raises(RuntimeError, match="killed"):
            main.run(config, str(run), "eval")
    assert not (run / "results.json").exists()
    assert (run / "test.part" / "description.json").exists()

    def add_and_note(self: evaluation.ClipRows, batch: dict[str, np.ndarray], sums: np.ndarray) -> None:
        clips.extend(zip(batch["name"][batch["mask"]], batch["clip"][batch["mask"], 1].tolist(), strict=True))
        add(self, batch, sums)

    with monkeypatch.context() as patch, caplog.at_level("INFO", logger="timesformer_jax"):
        patch.setattr(evaluation.ClipRows, "add", add_and_note)
        main.run(config, str(run), "eval")
    assert "Resuming the evaluation: 2 of 5 batches are done." in caplog.text
    assert len(clips) == len(set(clips)) == 36
    assert files(run) == undisturbed
    assert not (run / "test.part").exists()


def test_partial_scores_of_another_checkpoint_are_discarded(run: Path, made_clips: Path, data_dir: str, caplog):
    (run / "test.part").mkdir()
    (run / "test.part" / "description.json").write_text(json.dumps({"step": 7}))
    with caplog.at_level("INFO", logger="timesformer_jax"):
        main.run(small_folder(made_clips, data_dir), str(run), "eval")
    assert "Discarding the unfinished evaluation" in caplog.text
    assert "which differs in step, params, " in caplog.text
    assert not (run / "test.part").exists()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_evaluation_stops_on_sigterm_and_ctrl_c(run: Path, made_clips: Path, data_dir: str, number: signal.Signals):
    """On SIGTERM the command, on one device, exits promptly with success, and the next one resumes."""
    given = {"data.root": made_clips, "data.data_dir": data_dir, "data.val_fraction": 0.3, "data.short_side": 48}
    given |= {"model.image_size": 32, "model.embed_dim": 32, "model.depth": 1, "clips.short_side": "(32, 40)"}
    given |= {"eval.split": "train", "eval.num_clips": 400, "eval.batch_size": 1, "clips.sampling_rate": 1.0}
    flags = [f"--config.{name}={value}" for name, value in given.items()]
    command = [sys.executable, "main.py", "--mode=eval", "--config=configs/folder.py", f"--workdir={run}", *flags]
    process = subprocess.Popen(command, cwd=ROOT, env=on_devices(1), stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 120
        while not list(run.glob("test.part/*.npz")) and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert "Traceback" not in errors
    code, how = {signal.SIGTERM: (0, "Stopped early"), signal.SIGINT: (130, "Interrupted")}[number]
    assert process.returncode == code
    found = re.search(rf"{how}: (\d+) of 3600 batches are evaluated\. The same command resumes from there\.", errors)
    assert found, errors
    done = found[1]
    done_again = subprocess.run(command, cwd=ROOT, env=on_devices(1), capture_output=True, text=True, check=True).stderr
    assert re.search(f"Resuming the evaluation: {done} of 3600 batches", done_again)
    assert results(run)["num_clips"] == 400
