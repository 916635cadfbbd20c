"""Suppress the tracebacks of Orbax's log and threads."""

import functools
import logging
import sys
import traceback
from collections.abc import Callable
from pathlib import PurePath
from typing import Any


class _NoTracebacks(logging.Filter):
    """Logging filter that drops Orbax's records with a traceback, and asyncio's about exceptions that passed through Orbax."""

    def filter(self, record: logging.LogRecord) -> bool:
        if not record.exc_info:
            return True
        paths = [record.pathname]
        if record.name == "asyncio":
            paths = [frame.f_code.co_filename for frame, _ in traceback.walk_tb(record.exc_info[2])]
        return not any("orbax" in PurePath(path).parts for path in paths)


_FILTER = _NoTracebacks()


def quiet_orbax() -> None:
    """Drop what Orbax's threads log about exceptions, which also reach the caller; repeated calls have no effect.

    Otherwise, a full disk would fill the terminal with a dozen tracebacks before the actual error.
    """
    for name in ("absl", "asyncio"):
        logging.getLogger(name).addFilter(_FILTER)
    if getattr(sys.unraisablehook, "func", None) is not _print_unless_noise:
        sys.unraisablehook = functools.partial(_print_unless_noise, sys.unraisablehook)


def _print_unless_noise(hook: Callable[[Any], Any], unraisable: Any) -> None:
    if not (_comes_late(unraisable) or _is_half_a_loop(unraisable)):
        hook(unraisable)


def _comes_late(unraisable: Any) -> bool:
    """Return True if TensorStore reports a failed write to an event loop that Orbax has closed after another failed write.

    TensorStore calls asyncio from a C++ thread, so asyncio's frame is the outermost one in Python.
    """
    trace = unraisable.exc_traceback
    return (
        isinstance(unraisable.exc_value, RuntimeError)
        and str(unraisable.exc_value) == "Event loop is closed"
        and trace is not None
        and trace.tb_frame.f_code.co_name == "call_soon_threadsafe"
    )


def _is_half_a_loop(unraisable: Any) -> bool:
    """Return True if asyncio deletes an event loop that it couldn't create, since no file descriptor was left."""
    error = unraisable.exc_value
    deletes = getattr(unraisable.object, "__qualname__", None) == "BaseEventLoop.__del__"
    return deletes and isinstance(error, AttributeError) and error.name == "_ssock"
