"""Published checkpoints on Kinetics-400, tried with a miniature copy of its layout."""

import dataclasses
from pathlib import Path

import pytest

import timesformer_jax as tsf
from benchmarks import published
from tests.input_pipeline.miniatures import csv, make_kinetics, video
from tests.support import random_variables
from timesformer_jax.pretrained import save_huggingface
from timesformer_jax.pretrained.zoo import ZOO

NAME = "timesformer-base-k400"


@pytest.fixture(scope="module")
def kinetics(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three validation videos, one of them unreadable."""
    root = tmp_path_factory.mktemp("kinetics")
    make_kinetics(root)
    header = "label,youtube_id,time_start,time_end,split"
    csv(root / "val.csv", header, "walking,a,0,10,val", "playing guitar,b,0,10,val", "walking,broken,0,10,val")
    for number, name in enumerate("ab"):
        video(root / "val" / f"{name}.mp4", number)
    (root / "val" / "broken.mp4").write_bytes(b"no video")
    return root


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A small model whose only answer is "walking", its class 0."""
    model = tsf.TimeSformer(2, image_size=16, patch_size=8, num_frames=2, embed_dim=8, depth=1, num_heads=2)
    params = random_variables(model)["params"]
    params["head"]["bias"] = params["head"]["bias"].at[0].set(1000.0)
    prepared = tsf.Preprocess(num_frames=2, crop_size=16)
    save_huggingface(tsf.Pretrained(model, params, prepared, labels=("walking", "playing guitar")), tmp_path / "weights")
    return tmp_path / "weights"


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ZOO, NAME, ZOO[NAME]._replace(num_frames=2, image_size=16, top1=77.9))


def test_published_checkpoint_is_compared_with_its_figure(kinetics: Path, weights: Path, capsys: pytest.CaptureFixture[str]):
    """Labels are matched by name, and a video that can't be read is reported."""
    assert published.main([f"--k400={kinetics}", f"--checkpoint={NAME}", f"--file={weights}"]) == 0
    printed = capsys.readouterr().out
    assert f"| {NAME} | 77.9 % | 50.0 % | 9.5 to 90.5 % | 2 |" in printed
    assert "The published figure is inside the interval." in printed
    assert "1 more videos can't be read" in printed


def test_labels_without_a_class_are_refused(kinetics: Path, weights: Path, capsys: pytest.CaptureFixture[str]):
    loaded = tsf.load(weights)
    tsf.save_huggingface(dataclasses.replace(loaded, labels=("walking", "juggling")), weights.with_name("other"))
    assert published.main([f"--k400={kinetics}", f"--checkpoint={NAME}", f"--file={weights.with_name('other')}"]) == 1
    assert "no class 'playing guitar', a label of the list" in capsys.readouterr().err
