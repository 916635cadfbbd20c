"""`timesformer features` and `timesformer embed` as command lines."""

import dataclasses
import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import timesformer_jax as tsf
from tests.pretrained.files import golden_tensors, write_safetensors
from tests.support import random_variables
from timesformer_jax.__main__ import main
from timesformer_jax.features import FeatureWriter, read_features
from timesformer_jax.jobs import embed
from timesformer_jax.jobs import features as job


def make_checkpoint(path: Path, attention_type: str) -> Path:
    fields: dict[str, Any] = {"image_size": 16, "patch_size": 8, "num_frames": 2, "embed_dim": 24, "depth": 1, "num_heads": 3}
    model = tsf.TimeSformer(3, attention_type=attention_type, **fields)
    preprocess = tsf.Preprocess(num_frames=2, crop_size=16, sampling_rate=8.0)
    tsf.save(tsf.Pretrained(model, random_variables(model)["params"], preprocess, ("across", "down", "back")), path)
    return path


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("checkpoints") / "own", "divided_space_time")


def expected(checkpoint: Path, video: str, kind: str, **views: Any) -> np.ndarray:
    """Compute the features one view at a time."""
    pretrained = tsf.load(checkpoint)
    preprocess = tsf.Preprocess(**{**pretrained.preprocess.as_dict(), "placement": views.pop("placement", "official")})
    apply = jax.jit(lambda view: pretrained.model.apply({"params": pretrained.params}, view, method="features"))
    found = [apply(jnp.asarray(view[None])) for view in preprocess(video, **views)]
    return np.concatenate([{"cls": each.cls, "frames": each.frame_cls, "patches": each.patches}[kind] for each in found])


@pytest.mark.parametrize(
    ("kind", "arguments", "views", "num_clips"),
    [
        ("cls", [], {}, 1),
        ("frames", ["--placement=tiled", "--num-crops=1"], {"placement": "tiled", "num_crops": 1}, 3),  # 40 frames, 16 a clip
        ("patches", ["--num-clips=2", "--batch-size=7", "--dtype=float16"], {"num_clips": 2}, 2),
    ],
)
def test_features_job_writes_the_model_outputs(
    checkpoint: Path, made_clips: Path, tmp_path: Path, capsys: Any, kind: str, arguments: list, views: dict, num_clips: int
):
    command = ["features", str(made_clips), f"--checkpoint={checkpoint}", f"--output={tmp_path / 'out'}", f"--kind={kind}"]
    assert main([*command, *arguments, "--videos-per-shard=5", "--label-by-folder"]) == 0
    out, err = capsys.readouterr()
    rows = num_clips * views.get("num_crops", 3)
    assert out == f"{12 * rows} rows of 12 video(s) are in {tmp_path / 'out'}.\n"
    assert err == ""
    found = read_features(tmp_path / "out")
    assert found.names == sorted(str(path) for path in made_clips.rglob("*.mp4"))
    assert [found.label_names[label] for label in found.labels] == [Path(name).parent.name for name in found.names]
    np.testing.assert_array_equal(found.video, np.repeat(np.arange(12), rows))
    for video in (0, 7):
        atol = 2e-3 if found.values.dtype == np.float16 else 1e-5
        own = expected(checkpoint, found.names[video], kind, **views)
        np.testing.assert_allclose(found.values[found.video == video], own, atol=atol)
    if num_clips == 3:
        np.testing.assert_allclose(found.seconds[:3], [0, 16 / 30, 32 / 30], atol=1e-6)


@pytest.fixture(scope="module")
def image_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image transformer without a classifier."""
    tensors = golden_tensors("inflate_divided_space_time", "vit/")
    backbone = {name: tensor for name, tensor in tensors.items() if not name.startswith("head.")}
    assert len(backbone) < len(tensors)
    return write_safetensors(tmp_path_factory.mktemp("image") / "vit.safetensors", backbone)


def test_features_job_needs_no_classifier(image_model: Path, made_clips: Path, tmp_path: Path, capsys: Any):
    """Features don't depend on the number of classes, and no output mentions classes."""
    video, output = str(made_clips / "down" / "0.mp4"), tmp_path / "out"
    loaded = ["--num-heads=3", f"--checkpoint={image_model}"]
    assert main(["features", video, *loaded, f"--output={output}", "--num-crops=1"]) == 0
    assert "classes" not in capsys.readouterr().err
    found = read_features(output)
    assert (found.about["model"]["num_classes"], found.about["label_names"]) == (0, None)
    seven = tsf.load(image_model, num_heads=3, num_classes=7)
    apply = jax.jit(lambda view: seven.model.apply({"params": seven.params}, view, method="features"))
    np.testing.assert_allclose(found.values, apply(seven.preprocess(video, num_crops=1)).cls, atol=1e-6)


def test_features_job_keeps_an_existing_classifier(checkpoint: Path):
    assert tsf.load(checkpoint, headless=True).model.num_classes == 3
    with pytest.raises(tsf.InputError, match="num_classes must be at least 1, got 0; headless=True"):
        tsf.load(checkpoint, num_classes=0)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (
            ["predict"],
            "has no classifier to predict with; `timesformer features` needs none. Train one with main.py (mode train,",
        ),
        (["explain", "--output={folder}/out.png"], "has no classifier to explain a label of; --method=rollout needs none."),
    ],
)
def test_jobs_that_need_a_classifier_report_its_absence(
    image_model: Path, made_clips: Path, tmp_path: Path, command: list, words: str, capsys: Any
):
    job, *more = (part.format(folder=tmp_path) for part in command)
    assert main([job, str(made_clips / "down" / "0.mp4"), *more, "--num-heads=3", f"--checkpoint={image_model}"]) == 1
    assert words in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_untrained_classifiers_predict_nothing(checkpoint: Path, made_clips: Path, tmp_path: Path, capsys: Any):
    """New rows would give random labels; rows that are kept still predict."""
    video, labels = str(made_clips / "down" / "0.mp4"), tmp_path / "labels.txt"
    command = ["predict", video, f"--checkpoint={checkpoint}", "--num-crops=1"]
    assert main([*command, "--num-classes=7"]) == 1
    assert "has no classifier of 7 classes to predict with" in capsys.readouterr().err
    known = tsf.load(checkpoint).labels
    labels.write_text("\n".join([known[0], "unknown"]))
    assert main([*command, "--num-classes=2", f"--labels={labels}"]) == 0
    assert "Note: rows of the classifier are untrained, and their labels mean nothing: 1 rows kept" in capsys.readouterr().err


def test_rollout_needs_no_classifier(image_model: Path, made_clips: Path, tmp_path: Path):
    command = ["explain", str(made_clips / "down" / "0.mp4"), "--method=rollout", f"--output={tmp_path / 'out.png'}"]
    assert main([*command, "--num-heads=3", f"--checkpoint={image_model}"]) == 0
    assert (tmp_path / "out.png").exists()


def test_ctrl_c_finishes_the_current_shard(
    checkpoint: Path, made_clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
):
    write = FeatureWriter.write

    def interrupted(self: FeatureWriter, shard: int, rows: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        write(self, shard, rows)

    monkeypatch.setattr(FeatureWriter, "write", interrupted)
    output = tmp_path / "features"
    command = ["features", str(made_clips / "down"), f"--checkpoint={checkpoint}", "--num-crops=1", "--videos-per-shard=2"]
    assert main([*command, f"--output={output}"]) == 130
    assert capsys.readouterr().err.endswith("Interrupted: 1 of 2 shards are written. The same command resumes from there.\n")
    assert [path.name for path in output.glob("*.npz*")] == ["00000-of-00002.npz"]


def test_features_job_resumes(
    checkpoint: Path, made_clips: Path, broken_clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
):
    """Unreadable videos are named once and stay excluded; existing shards aren't decoded again."""
    shutil.copytree(made_clips / "down", tmp_path / "clips")
    shutil.copy(broken_clips / "text.mp4", tmp_path / "clips" / "1 text.mp4")
    command = ["features", str(tmp_path / "clips"), f"--checkpoint={checkpoint}", "--num-crops=1", "--videos-per-shard=2"]
    write, prepared, decoded = FeatureWriter.write, job.prepared, []

    def stop(self: FeatureWriter, shard: int, rows: Any) -> None:
        if shard == 1:
            raise KeyboardInterrupt
        write(self, shard, rows)

    monkeypatch.setattr(FeatureWriter, "write", stop)
    assert main([*command, f"--output={tmp_path / 'two'}"]) == 130
    assert f"Error: Can't read {tmp_path / 'clips' / '1 text.mp4'} as a video: " in capsys.readouterr().err
    monkeypatch.setattr(FeatureWriter, "write", write)
    monkeypatch.setattr(job, "prepared", lambda pre, paths, **views: decoded.extend(paths) or prepared(pre, paths, **views))
    for output in ("two", "one"):
        assert main([*command, f"--output={tmp_path / output}"]) == 1
        lines = capsys.readouterr().err.splitlines()
        assert lines[-1] == "1 of 5 video(s) could not be read."
        assert ("2 of 5 video(s) were already extracted." in lines) == (output == "two")
    assert [path.name for path in decoded[:3]] == ["1.mp4", "2.mp4", "3.mp4"]
    assert len(decoded) == 8
    one, two = (read_features(tmp_path / name) for name in ("one", "two"))
    assert one.names == two.names
    assert one.labels is None
    np.testing.assert_array_equal(one.values, two.values)
    assert list(two.unreadable) == [str(tmp_path / "clips" / "1 text.mp4")]

    shutil.copy(made_clips / "back" / "0.mp4", tmp_path / "clips" / "new.mp4")
    assert main([*command, f"--output={tmp_path / 'two'}"]) == 1
    assert "two holds other features (" in (error := capsys.readouterr().err)
    assert "videos.listed is 5 there and 6 here" in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--num-clips=0"], "--num-clips must be at least 1, got 0."),
        (["--batch-size=0"], "--batch-size must be at least 1, got 0."),
        (["--videos-per-shard=-1"], "--videos-per-shard must be at least 1, got -1."),
        (["{empty}"], "There is no video in the folder {empty} (.3g2, "),
    ],
)
def test_features_job_rejects_impossible_arguments(
    checkpoint: Path, made_clips: Path, tmp_path: Path, arguments: list, words: str, capsys: Any
):
    (tmp_path / "empty").mkdir()
    given = [argument.format(empty=tmp_path / "empty") for argument in arguments]
    assert main(["features", str(made_clips), *given, f"--checkpoint={checkpoint}", f"--output={tmp_path / 'out'}"]) == 1
    err = capsys.readouterr().err
    assert err.startswith("Error: " + words.format(empty=tmp_path / "empty"))
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory, made_clips: Path, checkpoint: Path) -> list[str]:
    """Features of two schemes, some with labels and some without."""
    folder = tmp_path_factory.mktemp("sets")
    other = make_checkpoint(folder / "weights", "space_only")
    for path, name, more in ((checkpoint, "divided", "--label-by-folder"), (other, "space", "--label-by-folder")):
        command = ["features", str(made_clips), f"--checkpoint={path}", f"--output={folder / name}", "--num-crops=1", more]
        assert main([*command, "--kind=patches"] if name == "space" else command) == 0
    without = ["features", str(made_clips), f"--checkpoint={checkpoint}", f"--output={folder / 'unnamed'}", "--num-crops=1"]
    assert main(without) == 0
    return [str(folder / name) for name in ("divided", "space", "unnamed")]


def test_embed_job_draws_one_column_per_feature_set(sets: list[str], tmp_path: Path, capsys: Any):
    command = ["embed", *sets[:2], "--method=both"]
    assert main([*command, f"--output={tmp_path / 'plot.svg'}"]) == 0
    out = capsys.readouterr().out
    assert "divided: divided_space_time (cls), own: 12 videos, 3 nearest neighbours: " in out
    assert "space: space_only (patches), weights: 12 videos, 3 nearest neighbours: " in out
    assert out.count("% of 12 videos of 3 labels (chance 27.3%)\n") == 2
    picture = (tmp_path / "plot.svg").read_text()
    for words in ("divided_space_time (cls)", "space_only (patches)", "t-SNE, 12 videos", "PCA, 12 videos", "across", "down"):
        assert f"<!-- {words}" in picture, words
    assert main([*command, f"--output={tmp_path / 'again.svg'}"]) == 0
    assert (tmp_path / "again.svg").read_text() == picture
    assert {path.name for path in tmp_path.iterdir()} == {"plot.svg", "again.svg"}


@pytest.mark.parametrize(("model", "kind"), [({"attention_type": "axial"}, "axial"), ({"architecture": "i3d"}, "i3d")])
def test_title_names_the_scheme_or_the_architecture(sets: list[str], model: dict[str, str], kind: str):
    about = {"model": model, "kind": "cls", "weights": {"source": "runs/mine", "step": 7}}
    features = dataclasses.replace(read_features(sets[0]), about=about)
    assert embed.title_of(features) == f"{kind} (cls)\nmine, step 7"


def test_embed_job_draws_selected_labels_and_points(sets: list[str], tmp_path: Path, capsys: Any):
    output = f"--output={tmp_path / 'plot.png'}"
    assert main(["embed", sets[0], output, "--labels=down,across", "--method=pca"]) == 0
    assert ": 8 videos, 3 nearest" in capsys.readouterr().out
    assert main(["embed", sets[0], output, "--max-points=6", "--method=pca"]) == 0
    assert ": 6 videos, 2 nearest neighbours: " in capsys.readouterr().out
    assert main(["embed", sets[2], sets[0], output, "--method=pca"]) == 0
    assert "nearest" not in capsys.readouterr().out  # one of them has no labels
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--output=plot.jpeg"], "--output must end in .png or .svg, got plot.jpeg."),
        (["--max-points=0"], "--max-points must be at least 1, got 0."),
        (["--max-points=4"], "{folder}: Embedding needs at least 5 videos, got 4."),
        (["--labels=up"], "No video has the label 'up'; there are across, back, down."),
        (["--labels=,"], "--labels takes 1 to 20 labels separated by commas, got 0."),
        (["--seed=-1"], "--seed must be at least 0, got -1."),
        (["--output=/no/such/folder/plot.png"], "Can't write /no/such/folder/plot.png: "),
    ],
)
def test_embed_job_rejects_undrawable_input(sets: list[str], tmp_path: Path, arguments: list, words: str, capsys: Any):
    assert main(["embed", sets[0], f"--output={tmp_path / 'plot.png'}", "--method=pca", *arguments]) == 1
    err = capsys.readouterr().err
    assert err.startswith("Error: " + words.format(folder=sets[0]))
    assert len(err.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_embed_job_rejects_labels_for_unlabelled_features(sets: list[str], tmp_path: Path, capsys: Any):
    assert main(["embed", sets[2], f"--output={tmp_path / 'plot.png'}", "--labels=down"]) == 1
    assert "--labels needs features with labels" in capsys.readouterr().err


def test_embed_job_draws_the_most_frequent_single_labels(sets: list[str], tmp_path: Path, capsys: Any):
    """The most frequent labels are drawn; videos with several labels or none are not."""
    shutil.copytree(sets[0], tmp_path / "many")
    (path,) = (tmp_path / "many").glob("*.npz")
    with np.load(path) as file:
        arrays = dict(file)
    names = [f"label {i:02d}" for i in range(30)]
    about = json.loads((tmp_path / "many" / "features.json").read_text())
    about["description"]["label_names"] = names
    del about["digest"]
    (tmp_path / "many" / "features.json").write_text(json.dumps(about))
    values = np.random.default_rng(0).normal(size=(60, 24)).astype(np.float32)
    rows = {name: np.resize(arrays[name], 60) for name in ("clip", "crop", "seconds")}
    labels = np.zeros((60, 30), np.float32)
    labels[np.arange(50), [*range(25)] * 2] = 1  # 25 labels with two videos each; ten videos have none
    labels[:10, 29] = 1  # with two labels here, the first ten labels keep one video each
    arrays.update(rows, names=np.array([f"{i:02d}" for i in range(60)]), video=np.arange(60), values=values, labels=labels)
    np.savez(path, **arrays)
    assert main(["embed", str(tmp_path / "many"), f"--output={tmp_path / 'plot.svg'}", "--method=pca"]) == 0
    out = capsys.readouterr().out
    assert "Of 25 labels, the 20 most frequent are drawn" in out
    assert ": 35 videos, 1 nearest neighbour: " in out  # 15 labels with two, 5 of the others with one
    assert "% of 30 videos of 15 labels (chance 3.4%)" in out
    picture = (tmp_path / "plot.svg").read_text()
    assert "<!-- label 24" in picture
    assert "<!-- label 04" in picture
    assert "<!-- label 05" not in picture
