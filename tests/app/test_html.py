"""The page's results as HTML: escaped text, and what is shown of each model."""

from pathlib import Path

import numpy as np
import pytest

import timesformer_jax as tsf
from tests.support import random_variables
from timesformer_jax.app import html, timeline
from timesformer_jax.app.analysis import Column, Step
from timesformer_jax.app.checkpoint import Checkpoint, Moments, distinct_names
from timesformer_jax.palette import OTHER, SERIES
from timesformer_jax.pretrained import Prediction, WindowScores

EVIL = "<script>alert('1')</script>\x1b${alert(2)}{{3}}\"onload=alert(4)"
LABELS = (EVIL, "running", "walking & talking")


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    model = tsf.TimeSformer(3, image_size=16, patch_size=8, num_frames=2, embed_dim=24, depth=1, num_heads=3)
    preprocess = tsf.Preprocess(num_frames=2, crop_size=16, sampling_rate=4.0)
    return Checkpoint(EVIL, tsf.Pretrained(model, random_variables(model)["params"], preprocess, LABELS))


def scores(*best: int, count: int = 3) -> WindowScores:
    """Windows of 2 s every second, each sure of its label."""
    starts = np.arange(len(best), dtype=float)
    return WindowScores(starts, starts + 2, np.eye(count)[list(best)])


def test_all_text_is_escaped(checkpoint: Checkpoint):
    column = Column(
        checkpoint,
        best=[Prediction(EVIL, 0.75), Prediction("running", 0.25)],
        frames=["media/token/a.jpg"],
        num_frames=2,
        explained=Prediction(EVIL, 0.75),
        drawn="media/token/a.mp4",
        scores=scores(0, 0, 0, 1),
        moments=Moments(2.0, 1.0, 3.0),
    )
    shown = [html.results([column], busy=False), html.welcome([checkpoint]), html.problem(EVIL), html.progress(Step(0.5, EVIL))]
    for each in shown:
        assert "<script" not in each
        assert '"onload' not in each
        assert "\x1b" not in each
    assert html.results([column], busy=False).count("&lt;script&gt;") >= 5


def test_explained_label_is_shown_even_if_it_is_not_among_the_best(checkpoint: Checkpoint):
    column = Column(
        checkpoint, best=[Prediction("running", 0.9)], explained=Prediction("walking & talking", 0.01), drawn="x.mp4"
    )
    shown = html.results([column], busy=True)
    assert shown.index("90.0 %") < shown.index("walking &amp; talking") < shown.index("1.0 %")
    assert "what supports “walking &amp; talking”" in shown
    assert 'aria-busy="true"' in shown


def test_note_replaces_the_video(checkpoint: Checkpoint):
    shown = html.results([Column(checkpoint, note="No attention <here>.")], busy=False)
    assert "No attention &lt;here&gt;." in shown
    assert "<video" not in shown


def test_timeline_joins_windows_and_follows_the_video(checkpoint: Checkpoint):
    windows = scores(1, 1, 1, 2, 2)
    (colours,) = timeline.colours([(windows, LABELS)])
    drawn = timeline.draw(windows, LABELS, colours, clip=(1.5, 3.0), window=2.0)
    bars = drawn.partition("<svg")[0]
    assert bars.count("<span") == 3
    assert 'title="The model looks at 1.5 s to 3.0 s"><span style="left:25.000%;width:25.000%">' in bars
    assert "running, 0.0 s to 3.5 s, 100.0 %" in bars
    assert "walking &amp; talking, 3.5 s to 6.0 s, 100.0 %" in bars
    assert "left:0.000%;width:58.333%" in bars
    assert "6.0 s</span>" in drawn


def test_label_has_one_colour_in_all_timelines():
    few, others = ("a", "b", "c"), ("x", "b", "y")
    first, second = timeline.colours([(scores(0, 0, 1, 2), few), (scores(0, 0, 0, 1, 2), others)])
    assert first["b"] == second["b"]
    for found, labels in ((first, few), (second, others)):
        assert set(found) == set(labels)
        assert len(set(found.values())) == 3


def test_more_labels_than_colours_are_grey():
    many = [f"label {number}" for number in range(12)]
    windows = scores(*range(12), count=12)
    (colours,) = timeline.colours([(windows, many)])
    assert list(colours.values()) == list(SERIES)
    assert timeline.draw(windows, many, colours, clip=(0.0, 1.0), window=1.0).count(f"background:{OTHER}") == 12 - len(SERIES)


@pytest.mark.parametrize(
    ("sources", "names"),
    [
        (["runs/demo"], ["demo"]),
        (["runs/a", "runs/b/"], ["a", "b"]),
        (["one/best.pyth", "other/best.pyth"], ["one/best.pyth", "other/best.pyth"]),
        (["runs/a", "runs/a"], ["runs/a (1)", "runs/a (2)"]),
        (["a", "runs/a"], ["a (1)", "runs/a"]),
        (["timesformer-base-k400", "hf:me/model"], ["timesformer-base-k400", "model"]),
    ],
)
def test_names_of_checkpoints_are_short_and_distinct(sources: list[str], names: list[str]):
    assert distinct_names(sources) == names
    assert len(set(names)) == len(names)


def test_page_files_name_no_other_host():
    for path in (Path(html.__file__).parent / "static").iterdir():
        text = path.read_text().replace("http://www.w3.org/2000/svg", "")
        assert "//" not in text.replace("// ", ""), path
