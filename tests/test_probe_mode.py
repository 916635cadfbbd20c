"""`--mode=probe` end to end: heads on the features of a small run, and errors for bad input."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

import main
import timesformer_jax as tsf
from experiment.evaluate import score_split
from experiment.follow import follow_weights
from experiment.setup import set_up
from input_pipeline import EvalViews
from tests.runs import config_of
from timesformer_jax import InputError, evaluation, training
from timesformer_jax.__main__ import main as cli
from timesformer_jax.video import Preprocess

LABELS = ("across", "back", "down")


@pytest.fixture(autouse=True, scope="module")
def optax_promotes(request: pytest.FixtureRequest) -> Iterator[None]:
    """Allow dtype promotion, since optax mixes dtypes."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def probe_config(clips: Path, data_dir: str, **overrides: Any) -> ConfigDict:
    small = {
        "data.root": str(clips),
        "data.data_dir": data_dir,
        "data.val_fraction": 0.3,
        "data.short_side": 48,
        "model.image_size": 32,
        "model.num_frames": 4,
        "model.embed_dim": 32,
        "model.depth": 1,
        "clips.short_side": (32, 40),
        "train.num_epochs": 8.0,
        "train.evaluate_every_epochs": 12.0,
        "probe.learning_rates": (1e-1, 1e-4),
        "probe.weight_decays": (0.0, 0.1),
        "probe.num_epochs": 24.0,
        **({"probe.num_heads": 4} if overrides.get("probe.kind") == "attentive" else {}),
    }
    return config_of("folder", **{**small, **overrides})


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, made_clips: Path, data_dir: str) -> Path:
    """A small trained run."""
    workdir = tmp_path_factory.mktemp("run")
    main.run(probe_config(made_clips, data_dir), str(workdir), "train")
    return workdir


def table_of(workdir: Path) -> dict[str, Any]:
    return json.loads((workdir / "probe.json").read_text())


@pytest.mark.slow
def test_probe_trains_linear_heads_on_a_run(
    run: Path, tmp_path: Path, made_clips: Path, data_dir: str, caplog: Any, capsys: Any
):
    """Any features encode a square's colour, so a head learns it, and saved heads have the accuracy in the table."""
    with caplog.at_level("INFO", logger="timesformer_jax"):
        main.run(probe_config(made_clips, data_dir, init_from=str(run)), str(tmp_path), "probe")
    table = table_of(tmp_path)
    assert (table["kind"], table["backbone"], table["split"], table["num_videos"]) == ("linear", str(run), "val", 3)
    assert [(row["learning_rate"], row["weight_decay"]) for row in table["heads"]] == [
        (1e-1, 0.0),
        (1e-4, 0.0),
        (1e-1, 0.1),
        (1e-4, 0.1),
    ]
    assert all(0 <= row["top1"] <= row["top5"] == 1 for row in table["heads"])
    best = table["best"]
    low, high = best.pop("intervals")["top1"]
    assert 0 < low < best["top1"] <= high
    assert best == {"head": best["head"], **table["heads"][best["head"]]}
    assert best["top1"] == max(row["top1"] for row in table["heads"]) > 0.6
    for words in ("Frozen: the weights of init_from=", "After 14 of 27 steps", "Every head on 3 videos", "The best head is"):
        assert words in caplog.text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoints", "probe", "probe.json"]

    probed, trained = tsf.load(tmp_path / "probe"), tsf.load(run)
    assert probed.labels == LABELS
    assert dataclasses.asdict(probed.preprocess) == dataclasses.asdict(trained.preprocess)
    for name in trained.params.keys() - {"head"}:
        jax.tree.map(np.testing.assert_array_equal, trained.params[name], probed.params[name])
    assert not np.array_equal(trained.params["head"]["kernel"], probed.params["head"]["kernel"])
    config = follow_weights(probe_config(made_clips, data_dir), str(tmp_path), "probe")
    again = set_up(config, str(tmp_path), "probe", lock=False)
    found = evaluation.accuracies(score_split(again, probed.params, "val", EvalViews()).predictions("probabilities"))
    again.files.checkpoints.close()
    assert found == {name: best[name] for name in ("top1", "top5")}
    videos = [f"{made_clips}/{label}/{number}.mp4" for label in LABELS for number in range(4)]
    assert cli(["predict", *videos, f"--checkpoint={tmp_path / 'probe'}", "--num-crops=1", "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert np.mean([Path(row["video"]).parent.name == row["best"][0][0] for row in rows]) > 0.6

    # A second probe replaces the first one.
    main.run(probe_config(made_clips, data_dir, init_from=str(run), **{"probe.num_epochs": 1.0}), str(tmp_path), "probe")
    assert table_of(tmp_path)["steps"] == 1
    assert not np.array_equal(tsf.load(tmp_path / "probe").params["head"]["kernel"], probed.params["head"]["kernel"])


@pytest.mark.slow
def test_attentive_probe_on_the_checkpoint_of_its_workdir(run: Path, made_clips: Path, data_dir: str):
    config = probe_config(made_clips, data_dir, **{"probe.kind": "attentive", "probe.learning_rates": (3e-3, 1e38)})
    main.run(config, str(run), "probe")
    table = table_of(run)
    assert (table["kind"], table["backbone"], table["backbone_step"]) == ("attentive", str(run), 9)
    assert [row["top1"] is None for row in table["heads"]] == [False, True, False, True]  # diverging heads don't affect others
    assert table["best"]["top1"] > 0.6
    assert table["saved"] == "probe.npz"
    assert not (run / "probe").exists()

    probe, params, notes = training.read_probe(run / "probe.npz")
    assert tuple(notes["data"]["label_names"]) == LABELS
    backbone, prepare = tsf.load(notes["backbone"]), Preprocess(**notes["preprocess"])

    @jax.jit
    def logits_of(video: jax.Array) -> Any:
        features: Any = backbone.model.apply({"params": backbone.params}, video, method="features")
        return probe.apply({"params": params}, features.patches)

    best = {path: int(logits_of(prepare(path, num_crops=1)).argmax()) for path in made_clips.rglob("*.mp4")}
    assert np.mean([LABELS[number] == path.parent.name for path, number in best.items()]) > 0.6


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({}, r"--mode=probe needs a trained model: .* no checkpoint in .*, and init_from isn't set"),
        ({"probe.kind": "deep"}, "probe.kind must be one of linear, attentive, got 'deep'"),
        ({"probe.weight_decays": ()}, "probe.weight_decays must be one or more numbers"),
        ({"probe.learning_rates": (-0.1,)}, "probe.learning_rates must be one or more numbers, each positive"),
        ({"probe.num_epochs": 0.0}, "probe.num_epochs must be above 0"),
        ({"probe.batch_size": 12}, "probe.batch_size=12 can't be split evenly over 8 device"),
        ({"probe.heads_at_once": -1}, "probe.heads_at_once must be at least 0"),
        ({"probe.kind": "attentive", "probe.num_heads": 5}, "probe.num_heads must .* divide model.embed_dim=32, got 5"),
    ],
    ids=lambda value: next(iter(value), "no backbone") if isinstance(value, dict) else "",
)
def test_probe_rejects_bad_input_with_a_clear_error(tmp_path: Path, overrides: dict, words: str):
    """Before anything is prepared or written."""
    with pytest.raises(InputError, match=words) as caught:
        main.run(probe_config(Path("/no/such/folder"), "", **overrides), str(tmp_path / "new"), "probe")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "new").exists()


def test_probe_leaves_foreign_folders_untouched(tmp_path: Path):
    (tmp_path / "probe").mkdir()
    (tmp_path / "probe" / "mine.txt").write_text("")
    with pytest.raises(InputError, match="is not a checkpoint of this project"):
        main.run(probe_config(Path("/no/such/folder"), ""), str(tmp_path), "probe")
    assert (tmp_path / "probe" / "mine.txt").exists()
