"""Progress of a function as an iterator."""

import threading

import pytest

from timesformer_jax.app.stepwise import stepwise


def test_progress_and_result_are_passed_on():
    def work(report):
        for share in (0.25, 0.5, 1.0):
            report(share)
        return "result"

    shares: list[float] = []

    def passed_on():
        shares.append(1.0 if (result := (yield from stepwise(work))) == "result" else 0.0)

    found = list(passed_on())
    assert found[-1] == 1.0
    assert found == sorted(found)
    assert shares == [1.0]


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
