"""Messages of Orbax's threads about errors that the caller also receives."""

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


def test_quiet_orbax_drops_only_late_callbacks_to_a_closed_event_loop(monkeypatch: pytest.MonkeyPatch):
    """As TensorStore delivers it, without a Python frame before asyncio's."""
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
def test_quiet_orbax_deletes_half_made_event_loops_silently(monkeypatch: pytest.MonkeyPatch):
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


@pytest.mark.parametrize(("path", "messages"), [("/lib/orbax/checkpoint/async_path.py", 0), ("/home/me/server.py", 1)])
def test_quiet_orbax_drops_asyncio_reports_of_orbax_failures(path: str, messages: int, caplog: pytest.LogCaptureFixture):
    async def leave_a_failed_future() -> None:
        future = asyncio.get_running_loop().run_in_executor(None, eval, compile("1 / 0", path, "eval"))
        await asyncio.wait([future])

    quiet_orbax()
    asyncio.run(leave_a_failed_future())
    gc.collect()
    assert [record.name for record in caplog.records] == ["asyncio"] * messages
