"""Even spacing of a few positions among many."""

import pytest

from timesformer_jax.spacing import evenly


@pytest.mark.parametrize(
    ("count", "most", "chosen"),
    [(10, 4, [0, 3, 6, 9]), (3, 8, [0, 1, 2]), (8, 8, [*range(8)]), (9, 2, [0, 8]), (9, 1, [0]), (1, 5, [0])],
)
def test_evenly_has_the_first_and_the_last(count: int, most: int, chosen: list[int]):
    assert evenly(count, most).tolist() == chosen
