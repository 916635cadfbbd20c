"""Scaled sizes and crop positions against the official ones."""

import json

import pytest

from tests.support import GOLDEN
from timesformer_jax.video import crop_offset, scale_short_side, view_crop_offset

THREE_CROP = json.loads((GOLDEN / "sampling.json").read_text())["three_crop"]


def test_three_crops_match_the_official_code():
    for row in THREE_CROP:
        scaled = scale_short_side(row["height"], row["width"], row["size"])
        assert list(scaled) == row["scaled"], row
        assert list(view_crop_offset(*scaled, row["size"], row["crop_index"])) == row["offset_yx"], row


def test_frame_of_the_right_size_is_unchanged():
    """In floating point 49 / 7 * 7 may be below 49, so nothing must be computed."""
    for width in range(49, 120):
        assert scale_short_side(49, width, 49) == (49, width)


@pytest.mark.parametrize(("draw", "place"), [(0.0, 0), (0.5, 2), (0.999999, 3)])
def test_random_crops_reach_the_first_and_last_positions(draw: float, place: int):
    assert crop_offset(10, 13, 7, vertical=draw, horizontal=0.0) == (place if draw else 0, 0)
    assert crop_offset(10, 13, 10, vertical=0.0, horizontal=draw) == (0, place)
