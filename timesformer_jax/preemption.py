"""Stop early with everything saved, after SIGTERM (preemption) or Ctrl-C."""

import contextlib
import itertools
import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import jax
from jax.experimental import multihost_utils

log = logging.getLogger("timesformer_jax")

SAME_INTERRUPT = 0.5
"""Seconds within which repeated SIGINTs count as one: launchers that forward Ctrl-C send it in addition to the terminal."""


class Preempted(Exception):  # noqa: N818 (not an error)
    """Raised when a job has stopped early, after SIGTERM or Ctrl-C, with its progress saved.

    Attributes:
        interrupted: Whether this process received Ctrl-C.
    """

    def __init__(self, message: str, *, interrupted: bool = False):
        super().__init__(message)
        self.interrupted = interrupted


class Watch:
    """Yielded by `watch_preemption`. Call it to check whether to save and stop; once True, it stays True.

    Attributes:
        interrupted: Whether this process received Ctrl-C.
    """

    def __init__(self, saves: str):
        self.interrupted = False
        self._saves = saves
        self._told = threading.Event()
        self._several = jax.distributed.is_initialized()
        self._interrupted_at = 0.0

    def __call__(self) -> bool:
        if self._several and not self._told.is_set() and multihost_utils.reached_preemption_sync_point(next(_QUESTIONS)):
            self._told.set()
        return self._told.is_set()

    def preempted(self, saved: str) -> Preempted:
        """Make the exception to raise once everything is saved; `saved` describes the progress."""
        how = "Interrupted" if self.interrupted else "Stopped early"
        return Preempted(f"{how}: {saved}. The same command resumes from there.", interrupted=self.interrupted)

    def on_sigterm(self, number: int, frame: Any) -> None:
        """Handle SIGTERM."""
        self._told.set()

    def on_sigint(self, number: int, frame: Any) -> None:
        """Handle Ctrl-C; the second one raises `KeyboardInterrupt`."""
        if self.interrupted and time.monotonic() - self._interrupted_at > SAME_INTERRUPT:
            raise KeyboardInterrupt
        if self.interrupted:
            return
        self.interrupted, self._interrupted_at = True, time.monotonic()
        text = "Interrupted: saving %s, then stopping. Ctrl-C again stops at once, without saving."
        # From another thread: this handler may have interrupted the log itself.
        threading.Thread(target=log.warning, args=(text, self._saves)).start()
        if self._several:
            os.kill(os.getpid(), signal.SIGTERM)  # JAX handles it and notifies the other processes
        else:
            self._told.set()


@contextlib.contextmanager
def watch_preemption(saves: str = "the next step") -> Iterator[Watch]:
    """Watch for SIGTERM and Ctrl-C, which then request an early stop instead of ending the process.

    A second Ctrl-C raises `KeyboardInterrupt`. If there are several processes, each must call the watch equally often, wherever
    it may stop: when one receives a signal, JAX notifies all of them and agrees on the call at which all stop. Outside the main
    thread, which alone receives signals, a single process watches nothing.

    Args:
        saves: Work that is still finished and saved, for the log at the first Ctrl-C.
    """
    watch = Watch(saves)
    handlers = {signal.SIGINT: watch.on_sigint}
    if not jax.distributed.is_initialized():  # else JAX has its own
        handlers[signal.SIGTERM] = watch.on_sigterm
    if threading.current_thread() is not threading.main_thread():
        handlers = {}
    # Shells start the background processes of a script with SIGINT ignored.
    before = {number: signal.getsignal(number) for number in handlers if signal.getsignal(number) is not signal.SIG_IGN}
    try:
        for number in before:
            signal.signal(number, handlers[number])
        yield watch
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def interrupts_wait() -> Iterator[None]:
    """Defer Ctrl-C to the end of the block. Has no effect inside `watch_preemption`, which defers it anyway."""
    if (
        threading.current_thread() is not threading.main_thread()  # signals reach the main thread alone
        or signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    ):
        yield
        return
    caught: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: caught.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if caught:
        raise KeyboardInterrupt


_QUESTIONS = itertools.count()
"""Counter shared by the whole process: JAX compares the numbers, and one process may still train while another evaluates."""
