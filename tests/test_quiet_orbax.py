"""What Orbax's threads print about errors that the caller gets too."""

import asyncio
import errno
import gc
import socket
import sys
import threading
from types import SimpleNamespace
from typing import Any

import pytest

from timesformer_jax.quiet_orbax import quiet_orbax


def test_late_news_for_a_closed_event_loop_is_dropped_and_nothing_else(monkeypatch: pytest.MonkeyPatch):
    """As TensorStore brings it: no frame of Python is before that of asyncio."""
    printed: list[Any] = []
    caught: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", printed.append)
    quiet_orbax()
    quiet_orbax()
    loop = asyncio.new_event_loop()
    loop.close()
    monkeypatch.setattr(threading, "excepthook", caught.append)
    thread = threading.Thread(target=loop.call_soon_threadsafe, args=(print,))
    thread.start()
    thread.join()
    error = caught[0].exc_value
    trace = error.__traceback__
    while trace.tb_frame.f_code.co_name != "call_soon_threadsafe":
        trace = trace.tb_next
    hook: Any = sys.unraisablehook
    hook(SimpleNamespace(exc_value=error, exc_traceback=trace))
    assert not printed
    others = [SimpleNamespace(exc_value=error, exc_traceback=error.__traceback__, object=None)]
    others.append(SimpleNamespace(exc_value=RuntimeError("another"), exc_traceback=trace, object=None))
    for other in others:
        hook(other)
    assert printed == others


@pytest.mark.filterwarnings("ignore:unclosed event loop:ResourceWarning")
def test_event_loops_that_could_not_be_made_are_deleted_without_a_word(monkeypatch: pytest.MonkeyPatch):
    def socketpair(*arguments: Any) -> Any:
        raise OSError(errno.EMFILE, "Too many open files")

    printed: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", printed.append)
    monkeypatch.setattr(socket, "socketpair", socketpair)
    for expected in (1, 0):
        printed.clear()
        with pytest.raises(OSError, match="Too many open files"):
            asyncio.SelectorEventLoop()
        gc.collect()
        assert len(printed) == expected
        quiet_orbax()
