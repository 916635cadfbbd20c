"""docs/weights.md states the source of each value in each job."""

from tests.taken_from import PAGE, render, written


def test_the_table_of_docs_is_what_the_jobs_do():
    """`python -m tests.taken_from` rewrites it."""
    assert written(PAGE.read_text()) == render()
