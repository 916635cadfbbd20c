"""Map a function over many videos in several processes, which exit together with their parent."""

import atexit
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
"""Maximum number of items per worker that are in progress, or finished and waiting for an earlier one."""
_NONE: Any = object()
LOOK = 1.0
"""Seconds between a worker's checks that its parent still exists."""


class CrashError(InputError):
    """Error of an item whose process died, because the decoder crashed or memory ran out."""

    def __init__(self) -> None:
        super().__init__("the process that read it died")


class _Task:
    """An item with its outcome, or with the future of the outcome."""

    def __init__(self, item: Any):
        self.item = item
        self.future: Future | None = None
        self.outcome: Any = _NONE

    def is_lost(self) -> bool:
        """Return True if the item was in progress, or waiting for a worker, when a process died."""
        from loky.process_executor import TerminatedWorkerError

        if self.outcome is not _NONE:
            return False
        return self.future is None or not self.future.done() or isinstance(self.future.exception(), TerminatedWorkerError)


def map_in_processes(
    function: Callable[[Item], Any], items: Iterable[Item], *, num_workers: int = 0
) -> Iterator[tuple[Item, Any]]:
    """Yield (item, `function(item)`) for every item, in order.

    If the function raises an `InputError` for an item, the error is yielded instead of a result. If a process dies while
    working on an item, a `CrashError` is, and the other items aren't affected. Up to `WINDOW` items per worker are in progress
    or wait for an earlier one, so that a slow item doesn't block the others. Results should be small.

    `num_workers` is the number of processes; 0 means one per core.
    """
    from loky import cpu_count
    from loky.process_executor import TerminatedWorkerError

    if num_workers < 0:
        raise InputError(f"num_workers must be at least 0 (one per core), got {num_workers}.")
    num_workers = num_workers or cpu_count()
    remaining, pending = iter(items), deque[_Task]()
    # The kernel sends the signal when the thread that started the worker exits, so it is only useful from the main thread.
    signalled = threading.current_thread() is threading.main_thread()
    options: dict[str, Any] = {"timeout": 60, "initializer": end_with_parent, "initargs": (os.getpid(), signalled)}
    executor = _start_executor(num_workers, options)

    def submit(task: _Task) -> None:
        task.future = executor.submit(_outcome, function, task.item)

    def take_alone(task: _Task) -> None:
        try:
            task.outcome = _start_executor(1, options).submit(_outcome, function, task.item).result()
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
                # Workers take items in order, so the culprit is among the first lost items. Each of them is retried alone.
                lost = [task for task in pending if task.is_lost()]
                for task in lost[: 2 * num_workers]:
                    take_alone(task)
                executor = _start_executor(num_workers, options)
                for task in lost[2 * num_workers :]:
                    submit(task)
                continue
            yield pending.popleft().item, outcome
    finally:
        for task in pending:
            if task.future is not None:
                task.future.cancel()


def _start_executor(num_workers: int, options: dict[str, Any]) -> Any:
    """Return loky's executor of this many workers, which are ended at exit instead of after their timeout."""
    from loky import get_reusable_executor

    executor = get_reusable_executor(num_workers, **options)
    atexit.unregister(executor.shutdown)  # registered before if the executor is reused
    atexit.register(executor.shutdown, kill_workers=True)
    return executor


def end_with_parent(parent: int, signalled: bool) -> None:
    """Make this worker process exit when its parent does, for whatever reason; called before its first item.

    A killed parent would otherwise leave its workers waiting for items, holding on to their memory.

    Args:
        parent: Process ID of the parent, which may already have exited.
        signalled: Whether to use Linux's parent-death signal in addition to checking for the parent every second.
    """
    if os.name == "nt":  # the parent's process ID doesn't change on Windows; workers exit after their timeout
        return
    if signalled and sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # the C library lacks prctl
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(LOOK)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="watch parent").start()


def _outcome(function: Callable[[Any], Any], item: Any) -> Any:
    """Return the result, or the `InputError`: raised exceptions with their own constructors may not survive pickling."""
    try:
        return function(item)
    except InputError as error:
        return error
