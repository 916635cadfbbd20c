"""Coordinates of the report's figures."""

import math

import numpy as np
import pytest

from timesformer_jax.evaluation.figures import (
    BOTTOM,
    COLOURS,
    HEIGHT,
    LEFT,
    RIGHT,
    SCATTER,
    TIMELINE,
    TOP,
    WIDTH,
    Points,
    Timeline,
    line_chart,
    linear_ticks,
    log_ticks,
    scatter,
    timeline_bars,
)


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (0.013, 0.87), (-3, 12), (99.5, 100), (5, 5), (0, 0), (1e-9, 2e-9), (123456, 9876543)]
)
def test_linear_ticks_are_round_and_hold_the_values(low: float, high: float):
    axis = linear_ticks(low, high)
    values = [value for value, _ in axis.ticks]
    assert axis.low <= low <= high <= axis.high
    assert 2 <= len(values) <= 7
    steps = np.diff(values)
    assert np.allclose(steps, steps[0])
    assert f"{steps[0]:.0e}"[0] in "125"
    labels = [text for _, text in axis.ticks]
    assert len(set(labels)) == len(labels)


@pytest.mark.parametrize(("low", "high"), [(0.5, 0.6), (0.01, 3), (1e-8, 1e4), (2, 2)])
def test_log_ticks_hold_the_values(low: float, high: float):
    axis = log_ticks(math.log10(low), math.log10(high))
    assert axis.low - 1e-9 <= math.log10(low) <= math.log10(high) <= axis.high + 1e-9
    assert axis.low < axis.high
    assert 1 <= len(axis.ticks) <= 7


def test_line_chart_places_values():
    chart = line_chart("accuracy", {"a": ([0, 50, 100], [0.0, 0.5, 1.0]), "b": ([100], [0.25])})
    assert chart is not None
    first, second = chart.lines
    assert (first.x[0], first.x[-1], second.x) == (LEFT, WIDTH - RIGHT, [WIDTH - RIGHT])
    assert (first.y[0], first.y[-1]) == (HEIGHT - BOTTOM, TOP)
    assert (
        first.path
        == f"M{LEFT},{HEIGHT - BOTTOM}L{(LEFT + WIDTH - RIGHT) / 2:g},{(HEIGHT - BOTTOM + TOP) / 2:g}L{WIDTH - RIGHT},{TOP}"
    )
    assert chart.dots


def test_line_chart_skips_values_that_cant_be_drawn():
    chart = line_chart("loss", {"a": ([0, 1, 2, 3, 4], [1.0, math.nan, math.inf, 0.0, 0.1])}, logarithmic=True)
    assert chart is not None
    assert chart.lines[0].steps == [0, 4]
    assert line_chart("loss", {"a": ([0], [math.nan]), "b": ([], [])}) is None


def test_long_lines_are_thinned_and_keep_their_peaks():
    values = np.random.default_rng(0).normal(size=100_000)
    values[31_415] = 50.0
    chart = line_chart("a", {"a": (range(100_000), values.tolist())})
    assert chart is not None
    line = chart.lines[0]
    assert len(line.steps) <= 402
    assert {0, 31_415, 99_999} <= set(line.steps)
    assert line.steps == sorted(line.steps)


@pytest.mark.parametrize(
    ("classes", "colours"), [(len(COLOURS), {"series-1", "series-7"}), (len(COLOURS) + 1, {"right", "wrong"})]
)
def test_scatter_is_coloured_by_class_or_by_right_and_wrong(classes: int, colours: set[str]):
    points = Points(np.array([[0.0, 5.0], [1.0, 7.0]]), ["a", "b"], np.array([0, 6]), np.array([False, True]))
    plot = scatter(points, [str(i) for i in range(classes)])
    assert {dot.colour for dot in plot.dots} == colours
    assert [dot.name for dot in plot.dots] == ["b", "a"]  # the wrong one on top
    assert all(0 < dot.x < SCATTER[0] and 0 < dot.y < SCATTER[1] for dot in plot.dots)
    assert len(plot.legend) == (classes if classes <= len(COLOURS) else 2)


def test_timeline_has_a_segment_per_window_and_the_colour_of_right_for_true_labels():
    timeline = Timeline([0.0, 2.0], 3.0, ["wrong", "true"], np.array([[1.0, 0.0], [0.25, 0.5]]))
    wrong, true = timeline_bars(timeline, ["true"])
    assert (wrong.colour, true.colour) == ("wrong", "right")
    width, height = TIMELINE
    assert wrong.segments == [(0.0, 400.0, 1.0, "0.0 to 2.0 s"), (400.0, 200.0, 0.25, "2.0 to 3.0 s")]
    assert true.path == f"M0,{height:.1f}H400.0V{height / 2:.1f}H{width:.1f}"
