"""Stopping at a moment that all processes agree on, when a machine is to go away (SIGTERM)."""

import contextlib
import itertools
import signal
import threading
from collections.abc import Callable, Iterator

import jax
from jax.experimental import multihost_utils


class Preempted(Exception):  # noqa: N818 (it's no error)
    """What was going on has stopped because the process was told to end; training has saved its state."""


@contextlib.contextmanager
def watch_preemption() -> Iterator[Callable[[], bool]]:
    """Gives a function that says whether to save and stop; from the first yes on it is yes.

    Where several processes run, each must ask it equally often, wherever it may stop: JAX tells all when one was told to end,
    and at which question all stop. A single one notes SIGTERM itself.
    """
    told = threading.Event()
    if jax.distributed.is_initialized():

        def ask() -> bool:
            if not told.is_set() and multihost_utils.reached_preemption_sync_point(next(_QUESTIONS)):
                told.set()
            return told.is_set()

        yield ask
        return
    if threading.current_thread() is not threading.main_thread():  # signals reach the main thread alone
        yield told.is_set
        return
    before = signal.signal(signal.SIGTERM, lambda number, frame: told.set())
    try:
        yield told.is_set
    finally:
        signal.signal(signal.SIGTERM, before)


_QUESTIONS = itertools.count()
"""Of the whole process: JAX compares numbers, and a process may be training yet when another one is testing already."""
