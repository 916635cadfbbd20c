"""Plot of labels over time, and its colours."""

import io

import numpy as np
import pytest
from PIL import Image

from timesformer_jax.explain.timeline_plot import FORMATS, MOST_LABELS, draw_timeline, labels_over_time
from timesformer_jax.palette import SERIES, colour, ink_on

EDGES = np.array([0.0, 4, 8, 12, 16])
PROBABILITIES = np.array([[0.5, 0.3, 0.1, 0.1, 0], [0.2, 0.7, 0, 0.1, 0], [0.1, 0.6, 0.3, 0, 0], [0.1, 0.6, 0.25, 0, 0.05]])
NAMES = ["a $x_1$ label", "running", "<script>", "\x1b[31mred", "跑"]


def test_labels_are_ordered_by_the_time_that_they_are_the_best():
    assert labels_over_time(EDGES, PROBABILITIES).tolist() == [1, 0, 2]  # the third has the next highest probability
    assert labels_over_time(EDGES, PROBABILITIES[:, :2]).tolist() == [1, 0]
    many = np.eye(20)[:, :12]
    assert len(labels_over_time(np.arange(21.0), many)) == MOST_LABELS


@pytest.mark.filterwarnings("ignore:Glyph")  # the font lacks Chinese
@pytest.mark.parametrize("format", FORMATS)
def test_timeline_is_drawn_the_same_each_time(format: str):
    pictures = [draw_timeline(EDGES, PROBABILITIES, NAMES, title="a_b$", format=format) for _ in range(2)]
    assert pictures[0] == pictures[1]
    start = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[format]
    assert pictures[0].startswith(start)


def test_timeline_shows_the_palette():
    with Image.open(io.BytesIO(draw_timeline(EDGES, PROBABILITIES, NAMES[:1] * 5, title="x"))) as picture:
        row = np.asarray(picture.convert("RGB"))[picture.height // 8]
    shown = {"#{:02X}{:02X}{:02X}".format(*pixel) for pixel in row.tolist()}
    assert set(SERIES[:2]) <= shown


def test_palette_has_readable_ink():
    assert colour(len(SERIES)) == SERIES[0]
    assert (ink_on("#0072B2"), ink_on("#F0E442"), ink_on("#000000"), ink_on("#FFFFFF")) == (
        "#FFFFFF",
        "#000000",
        "#FFFFFF",
        "#000000",
    )
