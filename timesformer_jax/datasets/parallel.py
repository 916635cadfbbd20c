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
LOOK = 1.0
"""Seconds between two looks of a worker for its parent."""


class CrashError(InputError):
    """A process died over an item: the decoder itself has crashed, or memory ran out."""

    def __init__(self) -> None:
        super().__init__("the process that read it died")


def map_in_processes(
    function: Callable[[Item], Any], items: Iterable[Item], *, num_workers: int = 0
) -> Iterator[tuple[Item, Any]]:
    """(item, `function(item)`) for every item, in order; the `InputError` that it raised, or a `CrashError`, instead of a
    result.

    `num_workers`: 0 for one a core. A few items more than that are under way at any time. An item over which a process dies
    costs itself alone.
    """
    from loky import cpu_count, get_reusable_executor
    from loky.process_executor import TerminatedWorkerError

    num_workers = num_workers or cpu_count()
    remaining, pending = iter(items), deque[tuple[Item, Future]]()
    # The signal comes when the thread that started the worker ends, so it is of use if that is the main thread.
    signalled = threading.current_thread() is threading.main_thread()
    options: dict[str, Any] = {"timeout": 60, "initializer": end_with_parent, "initargs": (os.getpid(), signalled)}
    executor = get_reusable_executor(num_workers, **options)

    def fill() -> None:
        while len(pending) < 2 * num_workers:
            try:
                item = next(remaining)
            except StopIteration:
                return
            pending.append((item, executor.submit(_outcome, function, item)))

    try:
        fill()
        while pending:
            item, future = pending.popleft()
            try:
                result = future.result()
            except TerminatedWorkerError:
                # Whose fault it was is found out by taking everyone who was under way alone.
                suspects = [item, *(other for other, _ in pending)]
                pending.clear()
                for suspect in suspects:
                    try:
                        alone = get_reusable_executor(1, **options)
                        yield suspect, alone.submit(_outcome, function, suspect).result()
                    except TerminatedWorkerError:
                        yield suspect, CrashError()
                executor = get_reusable_executor(num_workers, **options)
                fill()
                continue
            fill()
            yield item, result
    finally:
        for _, future in pending:
            future.cancel()


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
