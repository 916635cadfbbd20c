"""The cost model against the paper's figures and XLA's counts, and its command."""

import csv
import io
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib
import pytest

import timesformer_jax as tsf
from timesformer_jax.__main__ import main
from timesformer_jax.cnn3d import ConvNet, count_layer_multiply_adds
from timesformer_jax.cost import cost_table, count_multiply_adds, count_parameters, systems_table
from timesformer_jax.modeling import weight_shapes
from timesformer_jax.modeling.block import Block


@pytest.mark.parametrize(
    ("name", "giga", "paper"),
    [
        ("timesformer-base", 195.83, 0.59),
        ("timesformer-hr", 1702.69, 5.11),
        ("timesformer-large-frames", 2379.86, 7.14),
    ],
)
def test_cost_of_three_views_matches_the_paper(name: str, giga: float, paper: float):
    count = count_multiply_adds(tsf.create(name, num_classes=400))
    assert count / 1e9 == pytest.approx(giga, abs=0.005)
    assert round(3 * count / 1e12, 2) == paper


def test_cost_of_the_systems_matches_the_paper():
    lines = {line.name: line for line in systems_table()}
    found = {name: (line.multiply_adds / 1e9, line.video_multiply_adds / 1e12) for name, line in lines.items()}
    assert found["i3d-8x8-r50"] == (pytest.approx(37.106, abs=0.001), pytest.approx(1.113, abs=5e-4))
    assert found["slowfast-8x8-r50"] == (pytest.approx(65.712, abs=0.001), pytest.approx(1.971, abs=5e-4))
    assert [round(video, 2) for _, video in found.values()] == [0.59, 5.11, 7.14, 1.11, 1.97]


@pytest.mark.parametrize("kind", [tsf.I3D, tsf.SlowFast])
def test_cost_of_convolutions_matches_xla(kind: type[ConvNet]):
    """XLA skips products with the padding."""
    model = kind(num_classes=400, num_frames=8, depths=(1, 1, 2, 1))
    video = jax.ShapeDtypeStruct((1, 8, 256, 256, 3), jnp.float32)
    analysis = jax.jit(model.apply).lower(weight_shapes(model), video).cost_analysis()
    assert isinstance(analysis, dict)
    exact, padded = (count_layer_multiply_adds(model, 8, (256, 256), padding=padding) for padding in (False, True))
    assert analysis["flops"] / 2 == pytest.approx(exact, rel=0.01)
    assert padded > 1.03 * exact


@pytest.mark.parametrize(
    ("frames", "size", "divided", "joint"),  # the paper's Figure 3, 10^12 multiply-adds per view
    [(8, 224, 0.196, 0.180), (32, 224, 0.786, 1.262), (96, 224, 2.380, 8.136), (8, 448, 0.850, 1.262), (8, 560, 1.408, 2.609)],
)
def test_cost_of_joint_and_divided_attention(frames: int, size: int, divided: float, joint: float):
    model = tsf.create("timesformer-base", num_classes=400)
    assert count_multiply_adds(model, frames, size) / 1e12 == pytest.approx(divided, abs=6e-4)
    assert count_multiply_adds(model.clone(attention_type="joint_space_time"), frames, size) / 1e12 == pytest.approx(
        joint, abs=6e-4
    )


@pytest.fixture
def separate_layers(monkeypatch: pytest.MonkeyPatch):
    """Keeps the temporal projection and `temporal_fc` apart, as the paper's count does."""
    monkeypatch.setattr(Block, "_composes", lambda *_: False)


@pytest.mark.usefixtures("separate_layers")
@pytest.mark.parametrize(
    ("attention_type", "cls_key"), [("divided_space_time", True), *((attention_type, False) for attention_type in tsf.SCHEMES)]
)
def test_cost_matches_xla(attention_type: str, cls_key: bool):
    model = tsf.create("timesformer-base", num_classes=400, attention_type=attention_type, depth=2, temporal_cls_key=cls_key)
    video = jax.ShapeDtypeStruct((1, 8, 224, 224, 3), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), video)
    # All features: for logits alone, the last block computes less.
    features = jax.jit(lambda variables, video: model.apply(variables, video, method="features"))
    analysis = features.lower(variables, video).cost_analysis()
    assert isinstance(analysis, dict)
    assert analysis["flops"] / 2 == pytest.approx(count_multiply_adds(model), rel=0.02)


@pytest.mark.usefixtures("separate_layers")
@pytest.mark.parametrize(
    ("attention_type", "fields"),
    [
        *((attention_type, {}) for attention_type in tsf.SCHEMES),
        ("divided_space_time", {"temporal_cls_key": True}),
        ("divided_space_time", {"attention_order": "space_then_time"}),
        ("axial", {"attention_order": "parallel"}),
        ("divided_space_time", {"depth": 2, "image_size": 64}),  # another ratio of patches to groups
    ],
)
def test_multiply_adds_for_logits_match_xla(attention_type: str, fields: dict):
    """At depth 1 the savings in the last block, and errors in counting them, have the largest effect."""
    model = tsf.create("timesformer-base", num_classes=400, attention_type=attention_type, **{"depth": 1, **fields})
    size = model.grid[0] * model.patch_size
    video = jax.ShapeDtypeStruct((1, 8, size, size, 3), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), video)
    analysis = jax.jit(model.apply).lower(variables, video).cost_analysis()
    assert isinstance(analysis, dict)
    assert analysis["flops"] / 2 == pytest.approx(count_multiply_adds(model, for_logits=True), rel=0.02)


def test_multiply_adds_for_logits_of_base():
    model = tsf.create("timesformer-base", num_classes=400)
    assert count_multiply_adds(model, for_logits=True) / count_multiply_adds(model) == pytest.approx(0.950, abs=5e-4)


def test_cost_accepts_an_implementation_per_step():
    model = tsf.create("timesformer-base", num_classes=400, attention_implementation={"spatial": "cudnn"})
    assert {line.attention_type for line in cost_table(model, [8], [224])} == set(tsf.SCHEMES)


def test_count_parameters():
    assert count_parameters(tsf.create("timesformer-base", num_classes=174)) == 121_392_558


def test_same_costs_give_the_same_plot(tmp_path: Path):
    plots = [tmp_path / "one.svg", tmp_path / "other.svg"]
    for plot in plots:
        assert main(["cost", "--frames", "8", "--sizes", "224", f"--plot={plot}"]) == 0
    assert plots[0].read_bytes() == plots[1].read_bytes()


def test_ticks_of_the_plot_are_typeset(tmp_path: Path):
    """Powers of ten, which are formulas to matplotlib."""
    plot = tmp_path / "cost.svg"
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        assert main(["cost", "--frames", "8", "--sizes", "224", f"--plot={plot}"]) == 0
    drawn = re.sub("<!--.*?-->", "", plot.read_text(), flags=re.DOTALL)
    assert "<text" in drawn
    assert "mathdefault" not in drawn


def test_cost_command_writes_tables_and_plots(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    plot = tmp_path / "cost.png"
    assert main(["cost", "--frames", "8", "96", "--sizes", "224", "--csv", f"--plot={plot}"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert len(rows) == 2 * len(tsf.SCHEMES)
    assert rows[0]["attention_type"] == "divided_space_time"
    assert int(rows[0]["parameters"]) == 121_566_352
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert main(["cost", "--frames", "8", "--sizes", "224"]) == 0
    table = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["divided_space_time", "8", "224", "121,566,352", "195.83"] in table
    assert ["slowfast-8x8-r50", "32", "256", "30", "34,566,488", "65.71", "1.971"] in table


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--variant", "timesformer-huge"], "There is no variant"),
        (["--variant", "i3d-8x8-r50"], "no attention schemes to compare"),
        (["--sizes", "100"], "not a whole number of 16 x 16 patches"),
    ],
)
def test_cost_rejects_bad_input(capsys: pytest.CaptureFixture[str], arguments: list[str], words: str):
    assert main(["cost", *arguments]) == 1
    error = capsys.readouterr().err
    assert error.startswith("Error: ")
    assert words in error
