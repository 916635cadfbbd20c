"""Maps drawn over frames, and the resulting files."""

import io
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from timesformer_jax.explain.drawing import LEAST_SIDE, TITLE_HEIGHT, WRITERS, Panel, overlay, sheet, side_by_side

RANDOM = np.random.default_rng(0)
FRAMES = RANDOM.integers(40, 200, (10, 30, 45, 3), dtype=np.uint8)


def test_overlay_colours_only_high_values():
    """Maps are bilinear between patches with one scale per clip: half the value is half as bright."""
    maps = np.full((10, 2, 3), 0.1)
    maps[0, 0, 0], maps[1, 0, 0] = 0.9, 0.5
    drawn = overlay(FRAMES, maps).astype(int)
    assert (drawn[2:] == FRAMES[2:]).all()  # unchanged where the map is lowest
    assert (drawn[0, 23:] == FRAMES[0, 23:]).all()  # rows beyond the middle of the second row of patches
    changes = np.abs(drawn - FRAMES.astype(int)).sum(axis=-1)
    assert changes[0, :7, :7].min() > 60
    bright = np.array([252, 255, 164])  # inferno's brightest
    np.testing.assert_allclose(drawn[0, 0, 0], 0.35 * FRAMES[0, 0, 0] + 0.65 * bright, atol=1)
    assert (changes[1, :7, :7] < 600).all()


def test_constant_map_is_not_drawn():
    assert (overlay(FRAMES, np.full((10, 2, 3), 0.3)) == FRAMES).all()


LONG = "a very long title that can't be read in one line of so few pixels 93.2%"
PANELS = [Panel("a.mp4", FRAMES), Panel(LONG, FRAMES[:, ::-1])]


def test_panels_are_drawn_side_by_side_with_titles():
    frames = side_by_side(PANELS)
    factor = -(-LEAST_SIDE // 30)
    assert frames.shape == (10, 30 * factor + TITLE_HEIGHT, 2 * 45 * factor, 3)
    titles = frames[:, :TITLE_HEIGHT]
    assert (titles < 100).any(axis=(1, 2, 3)).all()  # something is written
    assert (titles[:, :, -4:] == 255).all()  # and it stays within its panel
    middle = frames[3, TITLE_HEIGHT + factor // 2 :: factor, factor // 2 : 45 * factor : factor]
    assert np.abs(middle.astype(int) - FRAMES[3]).mean() < 25


def test_sheet_has_at_most_eight_frames():
    factor = -(-LEAST_SIDE // 30)
    assert sheet(PANELS).shape == (2 * (30 * factor + TITLE_HEIGHT), 8 * (45 * factor + 4), 3)
    few = [Panel("x", FRAMES[:3])]
    assert sheet(few).shape[1] == 3 * (45 * factor + 4)


@pytest.mark.parametrize("ending", WRITERS)
def test_drawn_files_are_readable(ending: str, tmp_path: Path):
    content = WRITERS[ending](PANELS, 5.0)
    if ending == ".mp4":
        (tmp_path / "x.mp4").write_bytes(content)
        with av.open(tmp_path / "x.mp4") as film:
            assert film.streams.video[0].average_rate == 5
            frames = np.stack([frame.to_ndarray(format="rgb24") for frame in film.decode(video=0)])
        expected = side_by_side(PANELS)
        assert np.abs(frames[:, : expected.shape[1], : expected.shape[2]].astype(int) - expected).mean() < 12
        return
    picture = Image.open(io.BytesIO(content))
    if ending == ".gif":
        assert (picture.n_frames, picture.info["duration"], picture.info["loop"]) == (10, 200, 0)
    assert picture.format == ending[1:].upper()
