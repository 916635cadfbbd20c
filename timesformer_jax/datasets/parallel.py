"""The same work on many videos, by several processes."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from typing import Any, TypeVar

from timesformer_jax.errors import InputError

Item = TypeVar("Item")


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
    executor = get_reusable_executor(num_workers, timeout=60)

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
                        alone = get_reusable_executor(1, timeout=60)
                        yield suspect, alone.submit(_outcome, function, suspect).result()
                    except TerminatedWorkerError:
                        yield suspect, CrashError()
                executor = get_reusable_executor(num_workers, timeout=60)
                fill()
                continue
            fill()
            yield item, result
    finally:
        for _, future in pending:
            future.cancel()


def _outcome(function: Callable[[Any], Any], item: Any) -> Any:
    """Errors travel as results: an exception with arguments of its own might not survive pickling."""
    try:
        return function(item)
    except InputError as error:
        return error
