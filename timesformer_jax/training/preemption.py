"""Stopping at a step that all processes agree on, when a machine is to go away (SIGTERM)."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator

import jax
from jax.experimental import multihost_utils


class Preempted(Exception):  # noqa: N818 (it's no error)
    """Training has stopped, and saved its state, because the process was told to end."""


@contextlib.contextmanager
def watch_preemption() -> Iterator[Callable[[int], bool]]:
    """Gives a function that every process asks after every step: whether to save this step and stop.

    Where several processes run, JAX tells all when one was told to end, and which step is the last. A single one notes SIGTERM
    itself.
    """
    if jax.distributed.is_initialized():
        yield multihost_utils.reached_preemption_sync_point
        return
    if threading.current_thread() is not threading.main_thread():  # signals reach the main thread alone
        yield lambda step: False
        return
    told = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda number, frame: told.set())
    try:
        yield lambda step: told.is_set()
    finally:
        signal.signal(signal.SIGTERM, before)
