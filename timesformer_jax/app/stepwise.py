"""Progress of a function that reports it to a callback, as an iterator that can be left early."""

import threading
from collections.abc import Callable, Generator
from typing import TypeVar

Result = TypeVar("Result")


class Left(Exception):  # noqa: N818 (not an error)
    """Raised inside the function once its progress is no longer read."""


def stepwise(work: Callable[[Callable[[float], None]], Result]) -> Generator[float, None, Result]:
    """Run `work` in a thread, and yield what it reports; returns its result, or raises its exception.

    Reports that come while the caller is busy with an earlier one are skipped. If the iterator is closed, the next report of
    `work` ends it.

    Args:
        work: Function of a callback to which it reports the share that is done.
    """
    something, ended, left = threading.Event(), threading.Event(), threading.Event()
    latest: list[float] = []
    results: list[Result] = []
    errors: list[BaseException] = []

    def report(share: float) -> None:
        if left.is_set():
            raise Left
        latest[:] = [share]
        something.set()

    def run() -> None:
        try:
            results.append(work(report))
        except Left:
            pass
        except BaseException as error:
            errors.append(error)
        finally:
            ended.set()
            something.set()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        while latest or not ended.is_set():
            something.wait()
            something.clear()
            if latest:
                yield latest.pop()
    finally:
        left.set()
        thread.join()
    if errors:
        raise errors[0]
    return results[0]
