"""docs/weights.md states the source of each value in each job."""

from tests.taken_from import PAGE, render, written


def test_documented_table_matches_the_jobs():
    """`python -m tests.taken_from` rewrites it."""
    assert written(PAGE.read_text()) == render()
