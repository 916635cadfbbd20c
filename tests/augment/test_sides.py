"""Labels that a mirrored clip would no longer match."""

import pytest

from timesformer_jax.augment import sides_matter


@pytest.mark.parametrize(
    "names",
    [
        ("lane_change_L", "lane_change_R"),
        ("hook L", "hook R"),
        ("hand_l", "hand_r"),
        ("turnL", "turnR"),
        ("LHook", "RHook"),
        ("LH serve", "RH serve"),
        ("L to R", "R to L"),
        ("l1", "r1"),
        ("linksabbiegen", "rechtsabbiegen"),
        ("Linkskurve", "rechtskurve"),
        ("cw90", "ccw90"),
        ("acw90", "cw90"),
        ("hand_l cw90", "hand_r ccw90"),
    ],
)
def test_sides_matter_if_a_label_is_the_mirror_image_of_another(names: tuple[str, str]):
    assert sides_matter(["walk", *names])
    assert sides_matter([*reversed(names), "walk"])
    for name in names:
        assert not sides_matter(["walk", name]), name


@pytest.mark.parametrize(
    "names",
    [
        ("grade L", "Linksys", "rechtschaffen"),
        ("lock", "rock", "LOCK", "ROCK"),
        ("low", "row", "Lap", "Rap"),
        ("grade L", "grade l"),
        ("ball", "barr"),
        ("clé L", "ér"),
    ],
)
def test_sides_do_not_matter_without_a_mirror_image(names: tuple[str, ...]):
    assert not sides_matter(names)
