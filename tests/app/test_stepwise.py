"""Progress of a function as an iterator."""

import threading

import pytest

from timesformer_jax.app.stepwise import stepwise


def test_progress_and_result_are_passed_on():
    def work(report):
        for share in (0.25, 0.5, 1.0):
            report(share)
        return "result"

    results = []

    def outer():
        results.append((yield from stepwise(work)))

    shares = list(outer())
    assert shares[-1] == 1.0
    assert shares == sorted(shares)
    assert results == ["result"]


def test_errors_are_raised_where_progress_is_asked_for():
    def work(report):
        raise KeyError("lost")

    with pytest.raises(KeyError, match="lost"):
        list(stepwise(work))


def test_leaving_ends_the_work():
    ended = threading.Event()

    def work(report):
        try:
            while True:
                report(0.5)
        finally:
            ended.set()

    steps = stepwise(work)
    next(steps)
    steps.close()
    assert ended.is_set()
