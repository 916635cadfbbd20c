"""The same work on many videos, by several processes, which end with the one that started them."""

import contextlib
import ctypes
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from typing import Any, TypeVar

from timesformer_jax.errors import InputError

Item = TypeVar("Item")

PR_SET_PDEATHSIG = 1
WINDOW = 32
"""Items per worker that are under way, or done and waiting for an earlier one."""
_NONE: Any = object()
LOOK = 1.0
"""Seconds between two looks of a worker for its parent."""


class CrashError(InputError):
    """A process died over an item: the decoder itself has crashed, or memory ran out."""

    def __init__(self) -> None:
        super().__init__("the process that read it died")


class _Task:
    """An item, with the future of its outcome, or with the outcome."""

    def __init__(self, item: Any):
        self.item = item
        self.future: Future | None = None
        self.outcome: Any = _NONE

    def is_lost(self) -> bool:
        """Whether it was under way, or about to be, when a process died."""
        from loky.process_executor import TerminatedWorkerError

        if self.outcome is not _NONE:
            return False
        return self.future is None or not self.future.done() or isinstance(self.future.exception(), TerminatedWorkerError)


def map_in_processes(
    function: Callable[[Item], Any], items: Iterable[Item], *, num_workers: int = 0
) -> Iterator[tuple[Item, Any]]:
    """(item, `function(item)`) for every item, in order; the `InputError` that it raised, or a `CrashError`, instead of a
    result.

    `num_workers`: 0 for one a core. Up to `WINDOW` items per worker are under way or wait for an earlier one, so that an item
    that takes long doesn't hold up the others; results should be small. An item over which a process dies costs itself alone.
    """
    from loky import cpu_count, get_reusable_executor
    from loky.process_executor import TerminatedWorkerError

    num_workers = num_workers or cpu_count()
    remaining, pending = iter(items), deque[_Task]()
    # The signal comes when the thread that started the worker ends, so it is of use if that is the main thread.
    signalled = threading.current_thread() is threading.main_thread()
    options: dict[str, Any] = {"timeout": 60, "initializer": end_with_parent, "initargs": (os.getpid(), signalled)}
    executor = get_reusable_executor(num_workers, **options)

    def submit(task: _Task) -> None:
        task.future = executor.submit(_outcome, function, task.item)

    def take_alone(task: _Task) -> None:
        try:
            task.outcome = get_reusable_executor(1, **options).submit(_outcome, function, task.item).result()
        except TerminatedWorkerError:
            task.outcome = CrashError()

    try:
        while True:
            try:
                while len(pending) < WINDOW * num_workers and (item := next(remaining, _NONE)) is not _NONE:
                    pending.append(_Task(item))
                    submit(pending[-1])
                if not pending:
                    return
                task = pending[0]
                outcome = task.future.result() if task.outcome is _NONE and task.future else task.outcome
            except TerminatedWorkerError:
                # Workers take items in order, so whose fault it was is found out by taking the first lost ones alone.
                lost = [task for task in pending if task.is_lost()]
                for task in lost[: 2 * num_workers]:
                    take_alone(task)
                executor = get_reusable_executor(num_workers, **options)
                for task in lost[2 * num_workers :]:
                    submit(task)
                continue
            yield pending.popleft().item, outcome
    finally:
        for task in pending:
            if task.future is not None:
                task.future.cancel()


def end_with_parent(parent: int, signalled: bool) -> None:
    """End this process when its parent ends, however that ends: called in a worker before its first item.

    A killed parent would otherwise leave its workers waiting for items, with all their memory.

    Args:
      parent: the parent's number, since it may be gone already.
      signalled: whether Linux's own signal for this may be used; a look for the parent every second does elsewhere.
    """
    if os.name == "nt":  # there the parent's number stays the same; workers end after their timeout
        return
    if signalled and sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # a C library without it
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(LOOK)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="watch parent").start()


def _outcome(function: Callable[[Any], Any], item: Any) -> Any:
    """Errors travel as results: an exception with arguments of its own might not survive pickling."""
    try:
        return function(item)
    except InputError as error:
        return error
