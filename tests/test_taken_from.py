"""docs/weights.md says what each job takes from where."""

from tests.taken_from import PAGE, render, written


def test_the_table_of_docs_is_what_the_jobs_do():
    """`python -m tests.taken_from` writes it anew."""
    assert written(PAGE.read_text()) == render()
